"""The task loader: every shape it knows, and one clear error for whatever else a file may hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentdistill.errors import TaskFileError
from agentdistill.tasks.load import TaskSet, load_tasks, write_tasks
from agentdistill.types import Task, TaskKind

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the development data (../shared/data) is not here")


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(**fields: Any) -> dict[str, Any]:
    return {"question": "What is 1 + 1?", "answer": "2", **fields}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(TaskFileError) as caught:
        load_tasks(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# -- shapes ---------------------------------------------------------------------------------------


def test_a_gsm8k_row_is_split_into_answer_and_solution(tmp_path: Path) -> None:
    solution = "He sold 48/2 = <<48/2=24>>24.\nThat is 1,248/1 = <<x>>1,248.\n#### 1,248"
    (task,) = load_tasks(jsonl(tmp_path / "g.jsonl", row(answer=solution, id="g-0"))).tasks
    assert task.answer == "1248"
    assert task.kind is TaskKind.MATH
    assert task.meta["solution"] == "He sold 48/2 = 24.\nThat is 1,248/1 = 1,248."


def test_the_reference_shape_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"metadata": {"n": 1}, "examples": [row(), row(answer=3)]}, indent=1))
    assert [task.answer for task in load_tasks(path).tasks] == ["2", "3"]


def test_lists_objects_and_json_lines_in_a_json_file_are_taken(tmp_path: Path) -> None:
    for text in (json.dumps([row()], indent=2), json.dumps(row(), indent=2), json.dumps(row()) + "\n\n"):
        path = tmp_path / "one.json"
        path.write_text(text)
        assert len(load_tasks(path).tasks) == 1
    path.write_text(json.dumps(row()) + "\r\n" + json.dumps(row()) + "\r\n")
    assert len(load_tasks(path).tasks) == 2


def test_a_byte_order_mark_and_line_separators_inside_strings_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    text = json.dumps(row(question="one\u2028two\x85three"), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{text}\n{text}\n".encode())
    assert [task.question for task in load_tasks(path).tasks] == ["one\u2028two\x85three"] * 2


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"answer": "(B)"}, TaskKind.CHOICE),
        ({"answer": "-35"}, TaskKind.MATH),
        ({"answer": "$1,200.50"}, TaskKind.MATH),
        ({"answer": "\\frac{1}{2}"}, TaskKind.MATH),
        ({"answer": "x^2 + 1"}, TaskKind.MATH),
        ({"answer": "p - q", "dataset_name": "MATH"}, TaskKind.MATH),
        ({"answer": "\\text{(A)}", "type": "Algebra"}, TaskKind.MATH),
        ({"answer": "1987", "answer_aliases": ["in 1987"]}, TaskKind.QA),
        ({"answer": "1987", "supporting_titles": ["X"]}, TaskKind.QA),
        ({"answer": "1987", "dataset_name": "hotpotqa/hotpot_qa"}, TaskKind.QA),
        ({"answer": "True"}, TaskKind.QA),
        ({"answer": True}, TaskKind.QA),
        ({"answer": "Yes"}, TaskKind.QA),
        ({"answer": "barn damp dot"}, TaskKind.QA),
        ({"answer": "5 apples and 3 pears"}, TaskKind.QA),
        ({"answer": 2.5}, TaskKind.MATH),
        ({"answer": "-35", "kind": "qa"}, TaskKind.QA),
        ({"answer": "Paris", "kind": "math"}, TaskKind.MATH),
    ],
)
def test_the_kind_is_read_or_guessed(tmp_path: Path, fields: dict[str, Any], kind: TaskKind) -> None:
    assert load_tasks(jsonl(tmp_path / "k.jsonl", row(**fields))).tasks[0].kind is kind


def test_other_fields_go_into_meta(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "m.jsonl", row(answer="Hall", answer_aliases=["Stan Hall"], level=3, meta={"a": 1})
    )
    assert load_tasks(path).tasks[0].meta == {"aliases": ["Stan Hall"], "level": 3, "a": 1}


def test_ids_are_made_kept_and_never_repeated(tmp_path: Path) -> None:
    rows = [row(), row(id="a"), row(id="a"), row(id=0), row(id=" 1__8"), row(id="a#3"), row(id="a")]
    ids = [task.id for task in load_tasks(jsonl(tmp_path / "ids.jsonl", *rows)).tasks]
    assert ids == ["ids-1", "a", "a#3", "ids-0", " 1__8", "a#3#6", "a#7"]


def test_equal_questions_stay_two_tasks(tmp_path: Path) -> None:
    """A defect of the reference (METHOD 1.8): they were collapsed into one."""
    assert len(load_tasks(jsonl(tmp_path / "d.jsonl", row(id="x"), row(id="y"))).tasks) == 2


def test_a_set_knows_its_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "s.jsonl", row(), row(), row())
    loaded = load_tasks(path, limit=2)
    assert isinstance(loaded, TaskSet)
    assert len(loaded.tasks) == 2
    assert loaded.source == str(path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_tasks(str(path), limit=0).tasks == ()


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"answer": "2"}, "`question` is missing"),
        (row(question=" "), "`question` is empty"),
        (row(question=7), "`question` is empty or not text"),
        ({"question": "q"}, "`answer` is missing"),
        (row(answer=None), "`answer` is null"),
        (row(answer=" "), "`answer` is empty"),
        (row(answer=[1]), "`answer` is a JSON list"),
        (row(kind="essay"), "math, qa, choice, code"),
        (row(kind=[]), "`kind`"),
        (row(id=[1]), "`id`"),
        (row(meta=3), "`meta`"),
        (row(source=3), "`source`"),
        (row(answer_aliases="x"), "answer_aliases"),
        ([1], "is a JSON list"),
        ("{not json", "not JSON"),
        ('{"question": "q", "answer": NaN}', "NaN"),
        ('{"question": "q", "answer": 1e999}', "not a finite number"),
        ('{"question": "\\ud800", "answer": "2"}', "surrogate"),
        ('{"question": "q", "answer": ' + "9" * 5000 + "}", "digits"),
        ('{"question": "q", "answer": "2", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "deep"),
        ('{"question": "q", "answer": "2", "x": ' + "[" * 700 + "]" * 700 + "}", "deep"),
    ],
)
def test_a_bad_row_is_named_and_can_be_skipped(tmp_path: Path, bad: Any, says: str) -> None:
    path = jsonl(tmp_path / "bad.jsonl", row(), bad, row())
    message = refusal(path)
    assert "row 2" in message
    assert says in message
    assert "--skip-bad-rows" in message
    loaded = load_tasks(path, skip_bad_rows=True)
    assert len(loaded.tasks) == 2
    assert len(loaded.skipped) == 1
    assert f"{path}: row 2: " in loaded.skipped[0]
    assert len(load_tasks(path, limit=1).tasks) == 1  # what lies behind the limit is not read


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "bad.jsonl", *[row(), row(answer=None)] * 5)
    message = refusal(path)
    assert "5 bad rows" in message
    assert "row 2: `answer` is null" in message
    assert "8, 10" in message


def test_a_file_of_bad_rows_only_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    assert "no usable row" in refusal(jsonl(tmp_path / "bad.jsonl", {}, {}), skip_bad_rows=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"[]", "no rows"),
        (b'{"metadata": {}, "examples": []}', "no rows"),
        (b'{"metadata": {}, "examples": 3}', "not a list"),
        (b"3", "JSON int"),
        (b'"text"', "JSON str"),
        (b'[{"question": "q"', "line 1|column"),
        (b'{\n "question": \n', "not JSON"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'{"question": "caf\xe9"}', "UTF-8"),
        (b"\xef\xbb\xbf", "no rows|JSON|empty"),
    ],
)
def test_files_that_are_no_task_files(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content)
    message = refusal(path)
    assert any(part in message for part in says.split("|")), message


def test_no_file_a_directory_and_an_unreadable_name(tmp_path: Path) -> None:
    assert "tasks make" in refusal(tmp_path / "none.jsonl")
    assert "directory" in refusal(tmp_path)
    with pytest.raises(TaskFileError):
        load_tasks("a\0b")
    with pytest.raises(TaskFileError):
        load_tasks("x" * 5000)


# -- writing --------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
tasks = st.builds(
    Task,
    id=words,
    question=words,
    answer=words.filter(lambda text: "####" not in text),
    kind=st.sampled_from(TaskKind),
    source=words | st.just(""),
    split=st.sampled_from(["", "train", "test"]),
    meta=st.dictionaries(words.filter(lambda key: key != "answer_aliases"), plain, max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(tasks, min_size=1, max_size=5, unique_by=lambda task: task.id))
def test_what_is_written_is_read_back(tmp_path: Path, written: list[Task]) -> None:
    path = tmp_path / "t.jsonl"
    write_tasks(path, written)
    assert list(load_tasks(path).tasks) == written


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", row())
    before = path.read_bytes()

    def stops() -> Any:
        yield Task("a", "q", "1")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_tasks(path, stops())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]
    with pytest.raises(TaskFileError, match="cannot write"):
        write_tasks(path / "below" / "a-file.jsonl", [Task("a", "q", "1")])


# -- fuzz and real data ---------------------------------------------------------------------------

fragments = st.lists(
    st.sampled_from(
        [
            *(
                b'{"question": "q", "answer": "1"}',
                b"\n",
                b"[",
                b"]",
                b"{",
                b"}",
                b",",
                b'"examples":',
                b"null",
            ),
            *(
                b'"question": ',
                b'"answer": ',
                b'"kind": "qa"',
                b'"\\ud800"',
                b"1e999",
                b"\xff",
                b'"x"',
                b"####",
            ),
        ]
    ),
    max_size=12,
).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(content=st.binary() | fragments | plain.map(lambda v: json.dumps(v).encode()), skip=st.booleans())
def test_any_bytes_give_tasks_or_a_task_file_error(tmp_path: Path, content: bytes, skip: bool) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(content)
    try:
        loaded = load_tasks(path, skip_bad_rows=skip)
    except TaskFileError as error:
        assert "\n" not in str(error)
        return
    assert loaded.tasks
    assert len({task.id for task in loaded.tasks}) == len(loaded.tasks)
    write_tasks(tmp_path / "again.jsonl", loaded.tasks)


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "skipped", "kind"),
    [
        ("gsm8k_train", 7473, 0, "math"),
        ("gsm8k_dev", 400, 0, "math"),
        ("math_train_medium", 998, 2, "math"),
        ("math_train_hard", 998, 2, "math"),
        ("math500_test", 500, 0, "math"),
        ("hotpotqa_train", 1000, 0, "qa"),
        ("hotpotqa_test", 500, 0, "qa"),
        ("musique_test", 500, 0, "qa"),
        ("hotpotqa_context", 100, 0, "qa"),
        ("musique_context", 100, 0, "qa"),
        ("bbh/boolean_expressions", 250, 0, "qa"),
        ("bbh/date_understanding", 250, 0, "choice"),
        ("bbh/multistep_arithmetic_two", 250, 0, "math"),
        ("bbh/navigate", 250, 0, "qa"),
        ("bbh/object_counting", 250, 0, "math"),
        ("bbh/penguins_in_a_table", 146, 0, "choice"),
        ("bbh/word_sorting", 250, 0, "qa"),
    ],
)
def test_the_development_data_loads(name: str, rows: int, skipped: int, kind: str) -> None:
    loaded = load_tasks(DATA / f"{name}.jsonl", skip_bad_rows=True)
    assert (len(loaded.tasks), len(loaded.skipped)) == (rows, skipped)
    assert {task.kind.value for task in loaded.tasks} == {kind}
    if name.startswith("gsm8k"):
        assert all(task.answer.lstrip("-").replace(".", "").isdigit() for task in loaded.tasks)
        assert not any("<<" in task.meta["solution"] for task in loaded.tasks)
