"""Benchmarks by name: from a folder, from a hub that is a folder here, and errors when neither has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentdistill.errors import DownloadError, TaskFileError
from agentdistill.tasks.benchmarks import BENCHMARKS, splits_in_folder
from agentdistill.tasks.load import load_tasks
from agentdistill.types import Task, TaskKind


def jsonl(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"question": f"What is {number}?", "answer": str(number), **fields}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTDISTILL_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- a folder -------------------------------------------------------------------------------------


def test_a_split_is_a_file_and_its_name_is_the_key(folder: Path) -> None:
    jsonl(folder / "math500_test.jsonl", row(1, id=0), row(2, id="x"), row(3), row(4, id="x"), row(5, id=0))
    loaded = load_tasks("math500")
    assert loaded.source == "math500:test"
    ids = [task.id for task in loaded.tasks]
    assert ids == [f"math500:test/{key}" for key in ("0", "x", "3", "x#4", "0#5")]
    assert {(task.source, task.split, task.kind) for task in loaded.tasks} == {
        ("math500", "test", TaskKind.MATH)
    }
    assert load_tasks("Math500:test").tasks == loaded.tasks
    assert load_tasks("math500", limit=2).tasks == loaded.tasks[:2]


def test_the_references_shape_is_taken(folder: Path) -> None:
    (folder / "bamboogle_test.json").write_text(json.dumps({"metadata": {}, "examples": [row(1), row(2)]}))
    assert [task.answer for task in load_tasks("bamboogle").tasks] == ["1", "2"]
    assert {task.kind for task in load_tasks("bamboogle").tasks} == {TaskKind.QA}  # a number is a phrase here


def test_a_split_may_lie_in_parts_whose_numbers_repeat(folder: Path) -> None:
    jsonl(folder / "math_train_medium.jsonl", row(1, id=0), row(2, id=1))
    jsonl(folder / "math_train_hard.jsonl", row(3, id=0))
    ids = [task.id for task in load_tasks("math:train").tasks]
    assert ids == ["math:train/hard/0", "math:train/medium/0", "math:train/medium/1"]


def test_subsets_are_files_of_a_folder(folder: Path) -> None:
    jsonl(folder / "bbh" / "navigate.jsonl", row(1, answer="Yes"))
    jsonl(folder / "bbh" / "date_understanding.jsonl", row(2, answer="(B)"), row(3, answer="(C)"))
    tasks = load_tasks("bbh").tasks
    assert [(task.source, task.kind.value) for task in tasks] == [
        ("bbh/date_understanding", "choice"),
        ("bbh/date_understanding", "choice"),
        ("bbh/navigate", "qa"),
    ]
    (only,) = load_tasks("bbh/navigate").tasks
    assert only == tasks[-1]
    assert only.id == "bbh/navigate:test/1"
    assert splits_in_folder(BENCHMARKS["bbh"]) == ["bbh/date_understanding", "bbh/navigate"]


def test_a_file_in_the_way_is_the_file(folder: Path) -> None:
    jsonl(folder / "math500_test.jsonl", row(1))
    jsonl(folder / "math500", row(2))
    assert [task.answer for task in load_tasks("math500").tasks] == ["2"]


def test_the_hash_is_that_of_what_was_read(folder: Path) -> None:
    path = jsonl(folder / "gsm8k_train.jsonl", row(1))
    first = load_tasks("gsm8k:train").sha256
    assert first == load_tasks(path).sha256
    jsonl(folder / "gsm8k_train.jsonl", row(2))
    assert load_tasks("gsm8k:train").sha256 != first


# -- filters --------------------------------------------------------------------------------------


def filtered(folder: Path, text: str) -> list[str]:
    jsonl(
        folder / "math500_test.jsonl",
        row(1, level=1, type="Algebra"),
        row(2, level="Level 2", type="Geometry"),
        row(3, level=3, type="Algebra"),
        row(4, type="Algebra"),
        row(5, level="Level ?", type="Algebra"),
    )
    return [task.answer for task in load_tasks(text).tasks]


@pytest.mark.parametrize(
    ("condition", "answers"),
    [
        ("level=1-2", ["1", "2"]),
        ("level=2", ["2"]),
        ("level=level ?", ["5"]),
        ("type=algebra", ["1", "3", "4", "5"]),
        ("level=2-9,type=Algebra", ["3"]),
        (" level = 1 ", ["1"]),
    ],
)
def test_filters(folder: Path, condition: str, answers: list[str]) -> None:
    assert filtered(folder, f"math500@{condition}") == answers
    assert filtered(folder, f"{folder}/math500_test.jsonl@{condition}") == answers


def test_a_filter_that_lets_nothing_through_says_what_there_is(folder: Path) -> None:
    with pytest.raises(TaskFileError, match=r"none of 5 tasks.*level, type"):
        filtered(folder, "math500@subject=Algebra")
    with pytest.raises(TaskFileError, match="@FIELD=VALUE"):
        filtered(folder, "math500@level")


def test_a_limit_counts_what_the_filter_lets_through(folder: Path) -> None:
    filtered(folder, "math500")
    assert [task.answer for task in load_tasks("math500@type=Algebra", limit=2).tasks] == ["1", "3"]


# -- the hub --------------------------------------------------------------------------------------

LONG = "Q: Who is it? Answer Choices: (A)x (B)y\nA: Among A through B, the answer is"
HUB: dict[str, tuple[str, str, dict[str, Any]]] = {
    # As the hub's pages show the rows: TASKS, repository and file in it, one row.
    "hotpotqa": (
        "hotpotqa/hotpot_qa",
        "distractor/validation.jsonl",
        {"id": "h1", "question": "Who?", "answer": "Ann", "type": "bridge", "level": "hard", "context": {}},
    ),
    "musique": (
        "dgslibisey/MuSiQue",
        "validation.jsonl",
        {"id": "2hop__1", "question": "Who?", "answer": "Ann", "answer_aliases": ["A."], "paragraphs": []},
    ),
    "bamboogle": ("chiayewken/bamboogle", "test.jsonl", {"Question": "Who?", "Answer": "Ann"}),
    "2wikimultihopqa": (
        "framolfese/2WikiMultihopQA",
        "validation.jsonl",
        {"id": "w", "question": "Who?", "answer": "Ann", "type": "comparison", "context": {}},
    ),
    "math500": (
        "HuggingFaceH4/MATH-500",
        "test.jsonl",
        {
            "problem": "1?",
            "solution": "s",
            "answer": "1",
            "subject": "Algebra",
            "level": 2,
            "unique_id": "t/1.json",
        },
    ),
    "math/algebra:train": (
        "EleutherAI/hendrycks_math",
        "algebra/train.jsonl",
        {"problem": "1?", "level": "Level 5", "type": "Algebra", "solution": "So $\\boxed{\\frac{1}{2}}$."},
    ),
    "gsm8k": ("openai/gsm8k", "main/test.jsonl", {"question": "1?", "answer": "It is <<1=1>>1.\n#### 1"}),
    "gsm-hard": ("reasoning-machines/gsm-hard", "train.jsonl", {"input": "1?", "code": "", "target": 1.5}),
    "aime": (
        "AI-MO/aimo-validation-aime",
        "train.jsonl",
        {"id": 7, "problem": "1?", "solution": "s", "answer": "33", "url": "u"},
    ),
    "olymmath/en-hard": (
        "RUC-AIBOX/OlymMATH",
        "en-hard/test.jsonl",
        {"problem": "1?", "answer": "210", "subject": "Geometry", "unique_id": "OlymMATH-HARD-1-EN"},
    ),
    "bbh/navigate": ("SaylorTwift/bbh", "navigate/test.jsonl", {"input": "Where?", "target": "No"}),
    "arc/challenge": (
        "allenai/ai2_arc",
        "ARC-Challenge/test.jsonl",
        {
            "id": "M1",
            "question": "Why?",
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
            "answerKey": "2",
        },
    ),
    "agieval/lsat-ar": (
        "hails/agieval-lsat-ar",
        "test.jsonl",
        {"query": LONG, "choices": ["(A)x", "(B)y"], "gold": [1]},
    ),
    "agieval/math": ("hails/agieval-math", "test.jsonl", {"query": "Q: 1?\nA: The answer is", "answer": "1"}),
}


def hub(folder: Path, repository: str, file: str, *rows: Any) -> None:
    """A repository as `datasets` reads it: configurations are folders, splits are files."""
    jsonl(folder / repository / file, *rows)
    config, _, split = file.rpartition("/")
    split = split.removesuffix(".jsonl")
    entry = {"config_name": config or "default", "data_files": [{"split": split, "path": file}]}
    (folder / repository / "README.md").write_text(f"---\n{json.dumps({'configs': [entry]})}\n---\n")


def from_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Task:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    hub(folder, *HUB[name])
    (task,) = load_tasks(name).tasks
    return task


def test_the_table_of_the_hub_is_tried_as_a_whole() -> None:
    assert {name.partition(":")[0].partition("/")[0] for name in HUB} == set(BENCHMARKS)


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task = from_hub(folder, monkeypatch, name)
    split = "train" if name.endswith("train") else "test"
    dataset = name.partition(":")[0]
    assert (task.source, task.split) == (dataset, split)
    assert task.id.startswith(f"{dataset}:{split}/")
    expected = {
        "hotpotqa": ("h1", "Ann", "qa", {"level": "hard", "type": "bridge"}),
        "musique": ("2hop__1", "Ann", "qa", {"aliases": ["A."]}),
        "bamboogle": ("1", "Ann", "qa", {}),
        "2wikimultihopqa": ("w", "Ann", "qa", {"type": "comparison"}),
        "math500": ("t/1.json", "1", "math", {"level": 2, "subject": "Algebra"}),
        "math/algebra:train": (
            "1",
            "\\frac{1}{2}",
            "math",
            {"level": "Level 5", "type": "Algebra", "solution": "So $\\boxed{\\frac{1}{2}}$."},
        ),
        "gsm8k": ("1", "1", "math", {"solution": "It is 1."}),
        "gsm-hard": ("1", "1.5", "math", {}),
        "aime": ("7", "33", "math", {}),
        "olymmath/en-hard": ("OlymMATH-HARD-1-EN", "210", "math", {"subject": "Geometry"}),
        "bbh/navigate": ("1", "No", "qa", {}),
        "arc/challenge": ("M1", "(B)", "choice", {}),
        "agieval/lsat-ar": ("1", "(B)", "choice", {}),
        "agieval/math": ("1", "1", "math", {}),
    }[name]
    key, answer, kind, meta = expected
    assert (task.id.split("/", dataset.count("/") + 1)[-1], task.answer, task.kind.value) == (
        key,
        answer,
        kind,
    )
    assert dict(task.meta) == meta
    if name == "arc/challenge":
        assert task.question == "Why?\nOptions:\n(A) x\n(B) y"
    if name.startswith("agieval"):
        assert task.question in ("Who is it? Answer Choices: (A)x (B)y", "1?")


def test_a_hub_with_other_columns_is_an_error_that_names_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    hub(folder, "openai/gsm8k", "main/test.jsonl", {"q": "1?", "a": "1"})
    with pytest.raises(DownloadError, match=r"other columns.*'question'.*q, a"):
        load_tasks("gsm8k")


def test_a_hub_that_does_not_answer_is_said_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"does not answer.*aime_test\.jsonl.*AGENTDISTILL_DATA"):
        load_tasks("aime")


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bbh/nope", "no subset 'nope'.*boolean_expressions"),
        ("gsm8k/nope", "no subset 'nope'.*none"),
        ("gsm8k:nope", "no split 'nope'.*test, train"),
        ("nope", "no such task file or benchmark.*tasks list"),
        ("math500.jsonl", "no such task file"),
        (".", "is a directory"),
    ],
)
def test_names_that_are_none(folder: Path, name: str, says: str) -> None:
    with pytest.raises(TaskFileError, match=says) as caught:
        load_tasks(name)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_DATA", str(folder / "none"))
    with pytest.raises(TaskFileError, match="AGENTDISTILL_DATA"):
        load_tasks("math500")


def test_the_development_data_has_names(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_DATA", str(shared_data))
    counts = {
        "math500": 500,
        "math500@level=1-2": 133,
        "math:train@level=2-3": 998,
        "gsm8k:dev": 400,
        "hotpotqa": 500,
        "musique": 500,
        "musique:context": 100,
        "bbh/navigate": 250,
    }
    for name, count in counts.items():
        tasks = load_tasks(name, skip_bad_rows=True).tasks
        assert len(tasks) == len({task.id for task in tasks}) == count, name
    assert len({task.source for task in load_tasks("bbh").tasks}) == 10
