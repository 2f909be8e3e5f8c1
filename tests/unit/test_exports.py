"""Exports: what was written is read back by the tools it is for, and is equal."""

import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import atif
import pytest
from datasets import load_dataset, load_from_disk

import agentdistill
from agentdistill import export, grade, load_prompts
from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.runs import RunWriter, read_scores, read_trajectories, write_scores
from agentdistill.stages.curate import curate, read_data
from agentdistill.stages.export import ExportFormat
from agentdistill.types import (
    Candidate,
    ErrorKind,
    Execution,
    FirstThought,
    Score,
    Step,
    StopReason,
    Task,
    ThoughtStatus,
    ToolCall,
    Trajectory,
    Usage,
)

ODD = "\u2028 \x85 \x0b \x0c \x1e \r\n \x00 \x1b[31m \u202e 漢字 é 🎈 <|im_end|> \\ud800"
HUGE = "row 1: Ω\n" * 60_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged RUN of 134 real attempts, graded."""
    packed = Path(agentdistill.__file__).parent / "recorded"
    run = tmp_path_factory.mktemp("recorded") / "run"
    run.mkdir()
    shutil.copy(packed / "run.json", run)
    (run / "trajectories.jsonl").write_bytes(lzma.decompress((packed / "trajectories.jsonl.xz").read_bytes()))
    grade(run)
    return run


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A RUN of three attempts: one with all that a step can hold, one that is wrong, one with no verdict."""
    turns = [("system", "Solve."), ("user", "New task:\nq"), ("assistant", f"Thought: {ODD}"), ("user", HUGE)]
    turns += [("assistant", "Thought: done")]
    looked = Step(
        thought=ODD,
        code="print(search('q'))",
        observation=HUGE,
        error="boom",
        error_kind=ErrorKind.EXCEPTION,
        tool_calls=(ToolCall("search", {"query": ODD}, {"passages": ["p1"]}),),
        candidates=(Candidate("t", "c", Execution(value=2**70), 3, True),),
        tokens_in=10,
        tokens_out=5,
        seconds=0.5,
    )
    done = Step("done", "final_answer('漢字')", f"Last output: {ODD}", dropped=(0,))
    full = Trajectory(
        id="a#0@1",
        task=Task("a", f"Question {ODD}?", "漢字", meta={"data": {"n": 2**64}}),
        messages=tuple({"role": role, "content": text} for role, text in turns),  # type: ignore[misc]
        steps=(looked, done),
        answer="漢字",
        stop_reason=StopReason.FINAL_ANSWER,
        model="m",
        first_thought=FirstThought(ThoughtStatus.USED, ODD, "content", ODD, True, "continue"),
        usage=Usage(30, 9, 1.5, 0.25),
    )
    wrong = replace(full, id="b#0@1", answer=None, usage=Usage(1, 1, 0.1, None))
    new = replace(full, id="c#0@1")
    with RunWriter(tmp_path / "odd", stage="generate", shape={}, asked={}) as run:
        for attempt in (full, wrong, new):
            run.append(attempt)
    write_scores(tmp_path / "odd", [Score(full.id, True, "number"), Score(wrong.id, False, "number")])
    return tmp_path / "odd"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def from_messages(path: Path) -> Iterator[dict[str, Any]]:
    yield from load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def from_hf(path: Path) -> Iterator[dict[str, Any]]:
    yield from load_from_disk(str(path))


def from_sharegpt(path: Path) -> Iterator[dict[str, Any]]:
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    for row in lines(path):
        turns = row.pop("conversations")
        yield {
            **row,
            "messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns],
        }


def from_atif(path: Path) -> Iterator[dict[str, Any]]:
    """The conversation of an ATIF document: what the agent read between its turns is in its observations."""
    roles = {"system": "system", "user": "user", "agent": "assistant"}
    for row in lines(path):
        document = atif.Trajectory.model_validate(row)
        assert document.schema_version == "ATIF-v1.7"
        messages = []
        for step in document.steps:
            messages.append({"role": roles[step.source], "content": step.message})
            if step is not document.steps[-1] and step.observation:
                messages += [
                    {"role": "user", "content": result.content} for result in step.observation.results
                ]
        assert document.extra is not None
        yield {**document.extra, "messages": messages}


READERS = {"messages": from_messages, "hf": from_hf, "sharegpt": from_sharegpt, "atif": from_atif}


def test_every_format_has_a_round_trip() -> None:
    assert set(READERS) == set(ExportFormat)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("which", ["recorded", "odd"])
def test_round_trip(name: str, which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(which)
    found = export(run, tmp_path / "out", name)
    scores = read_scores(run)
    attempts = list(read_trajectories(run))
    rows = list(READERS[name](tmp_path / "out"))
    assert found.rows == len(rows) == len(attempts) > 0
    assert found.correct == sum(score.correct for score in scores.values())
    assert found.ungraded == len(attempts) - len(scores)
    for row, attempt in zip(rows, attempts, strict=True):
        score = scores.get(attempt.id)
        assert row["messages"] == list(attempt.messages)
        assert (row["id"], row["answer"], row["gold"]) == (attempt.id, attempt.answer, attempt.task.answer)
        assert row["correct"] is (score.correct if score else None)
        assert (row["question"], row["usd"]) == (attempt.task.question, attempt.usage.usd)


@pytest.mark.parametrize("name", READERS)
def test_round_trip_of_curated_rows(name: str, recorded: Path, tmp_path: Path) -> None:
    curate([recorded], tmp_path / "data", load_prompts("student"))
    found = export(tmp_path / "data", tmp_path / "out", name, correct_only=True)
    before, _ = read_data(tmp_path / "data")
    after = list(READERS[name](tmp_path / "out"))
    assert found.rows == found.correct == len(before) > 80
    assert [(row["id"], row["messages"], row["correct"]) for row in after] == [
        (row["id"], row["messages"], True) for row in before
    ]


def test_atif_tells_what_the_agent_did(odd: Path, tmp_path: Path) -> None:
    export(odd, tmp_path / "out", "atif")
    document = atif.Trajectory.model_validate(lines(tmp_path / "out")[0])
    assert [step.source for step in document.steps] == ["system", "user", "agent", "agent"]
    looked, done = document.steps[2:]
    assert looked.tool_calls and looked.tool_calls[0].arguments == {"code": "print(search('q'))"}
    assert looked.observation and done.observation
    assert looked.observation.results[0].source_call_id == looked.tool_calls[0].tool_call_id
    assert done.observation.results[0].content == f"Last output: {ODD}"
    assert looked.metrics and (looked.metrics.prompt_tokens, looked.metrics.completion_tokens) == (10, 5)
    assert looked.extra and looked.extra["error_kind"] == "exception"
    assert looked.extra["tool_calls"][0]["arguments"] == {"query": ODD}
    assert looked.extra["candidates"][0]["votes"] == 3
    assert done.extra == {"dropped": [0]}
    assert document.final_metrics and document.final_metrics.total_cost_usd == 0.25
    assert document.extra and document.extra["first_thought"]["cot"] == ODD
    assert document.extra["task_meta"] == {"data": {"n": 2**64}}
    assert document.agent.version == agentdistill.__version__


def test_only_correct_attempts_and_the_others_counted(odd: Path, tmp_path: Path) -> None:
    found = export(odd, tmp_path / "out", correct_only=True)
    assert [row["id"] for row in lines(tmp_path / "out")] == ["a#0@1"]
    assert found.left_out == {"wrong answer": 1, "not graded": 1}


def test_an_ungraded_run_has_null_verdicts_and_no_correct_ones(odd: Path, tmp_path: Path) -> None:
    (odd / "scores.jsonl").unlink()
    assert export(odd, tmp_path / "out").ungraded == 3
    assert [row["correct"] for row in lines(tmp_path / "out")] == [None] * 3
    with pytest.raises(RunDirectoryError, match="agentdistill grade"):
        export(odd, tmp_path / "other", correct_only=True)


def test_half_a_surrogate_pair_is_a_question_mark(odd: Path, tmp_path: Path) -> None:
    file = odd / "trajectories.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("Thought: done", "Thought: \\ud83c"), "utf-8")
    for name, reader in READERS.items():
        export(odd, tmp_path / name, name)
        assert next(reader(tmp_path / name))["messages"][-1]["content"] == "Thought: ?"


def test_an_attempt_without_a_turn_is_counted(odd: Path, tmp_path: Path) -> None:
    empty = replace(next(read_trajectories(odd)), id="d#0@1", messages=(), steps=(), answer=None)
    with RunWriter(odd, stage="generate", shape={}, asked={}) as run:
        run.append(empty)
    found = export(odd, tmp_path / "out", "atif")
    assert (found.rows, found.left_out) == (3, {"no turn of the model": 1})


@pytest.mark.parametrize("name", ["messages", "hf"])
def test_what_is_there_is_replaced_only_when_asked_for(odd: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    export(odd, out, name)
    with pytest.raises(UsageError, match="--force"):
        export(odd, out, name, correct_only=True)
    assert len(list(READERS[name](out))) == 3
    export(odd, out, name, correct_only=True, force=True)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert len(list(READERS[name](out))) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_force_never_takes_another_folder(odd: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("x")
    for name in ExportFormat:
        with pytest.raises(UsageError, match="is not"):
            export(odd, precious, name, force=True)
    assert (precious / "chapter.txt").exists()


def test_a_full_disk_leaves_what_was_there(odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    program = (
        "import resource, signal, sys\nfrom agentdistill.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.argv = ['agentdistill', 'export', {str(odd)!r}, '-o', {str(out)!r}, '--force']\nmain()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert "cannot write" in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "out.jsonl"]
    assert out.read_text() == "before"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentdistill", "export", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "HF_TOKEN_PATH": "/nowhere", **environment},
    )


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--format", "nope"], 2, "messages, hf, atif, sharegpt"),
        (["--push", "me/data"], 2, "--format hf"),
        (["--format", "hf", "--push", "a/b/c"], 2, "OWNER/NAME"),
        (["--format", "hf", "--push", "me/data"], 2, "HF_TOKEN"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(
    odd: Path, tmp_path: Path, more: list[str], code: int, says: str
) -> None:
    ran = command(str(odd), "-o", str(tmp_path / "out"), *more)
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (code, "", 1), ran.stderr
    assert says in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_not_there_costs_nothing_but_the_push(odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_none"}
    ran = command(str(odd), "-o", str(out), "--format", "hf", "--push", "me/data", **nowhere)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "me/data could not be pushed" in ran.stderr.splitlines()[-1]
    assert len(list(from_hf(out))) == 3


def test_the_command_says_what_it_wrote(odd: Path, tmp_path: Path) -> None:
    ran = command(str(odd), "-o", str(tmp_path / "new" / "out.jsonl"), "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["rows"], summary["correct"], summary["ungraded"]) == (3, 1, 1)
    assert "1 of 3 attempts have no verdict, theirs is null" in ran.stderr


def test_a_row_edited_by_hand_is_one_clear_line(odd: Path, tmp_path: Path) -> None:
    file = odd / "trajectories.jsonl"
    file.write_text(file.read_text("utf-8").replace('"role":"assistant"', '"role":"tool"', 1), "utf-8")
    with pytest.raises(RunDirectoryError, match=r"a#0@1.*role 'tool'"):
        export(odd, tmp_path / "out", "sharegpt")
    file.write_text(file.read_text("utf-8").replace('"role":"tool"', '"role":"user"', 1), "utf-8")
    export(odd, tmp_path / "out", "atif")  # a turn less than steps: the conversation without actions
    document = atif.Trajectory.model_validate(lines(tmp_path / "out")[0])
    assert [step.tool_calls for step in document.steps] == [None] * 5
    file.write_text(file.read_text("utf-8").replace('"seed":0', '"seed":"x"', 1), "utf-8")
    with pytest.raises(RunDirectoryError, match="not of its column's type"):
        export(odd, tmp_path / "data", "hf")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_any_other_folder_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(RunDirectoryError, match="neither a RUN nor DATA"):
        export(tmp_path / folder, tmp_path / "out")
