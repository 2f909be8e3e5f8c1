"""Which attempts become rows, and what a row looks like."""

from pathlib import Path

import pytest

from agentdistill.errors import RunDirectoryError
from agentdistill.prompts import load_prompts
from agentdistill.runs import RunWriter, write_scores
from agentdistill.stages.curate import curate, read_data
from agentdistill.types import ErrorKind, Score, Step, StopReason, Task, Trajectory

PROMPTS = load_prompts("student")


def trajectory(name: str, **changes: object) -> Trajectory:
    task = Task(name, f"question of {name}", "1")
    messages = (
        {"role": "system", "content": "the teacher's long prompt"},
        {"role": "user", "content": "New task:\nquestion\nhint of the teacher"},
        {"role": "assistant", "content": f"Thought: {name}\n<code>\nfinal_answer(1)\n</code>"},
    )
    given = {
        "steps": (Step("t", "c", "o"),),
        "answer": "1",
        "stop_reason": StopReason.FINAL_ANSWER,
        **changes,
    }
    return Trajectory(f"{name}#0", task, messages, model="m", **given)  # type: ignore[arg-type]


def store(folder: Path, *attempts: tuple[Trajectory, bool | None]) -> Path:
    with RunWriter(folder, stage="generate", shape={}, asked={}) as run:
        for attempt, _ in attempts:
            run.append(attempt)
    write_scores(folder, [Score(a.id, ok, "number") for a, ok in attempts if ok is not None])
    return folder


def test_rows_and_reasons(tmp_path: Path) -> None:
    failed = Step("t", "c", "", error="boom", error_kind=ErrorKind.EXCEPTION)
    unparsed = Step("t", None, "", error="no code", error_kind=ErrorKind.PARSE)
    run = store(
        tmp_path / "run",
        (trajectory("good"), True),
        (trajectory("repaired", steps=(failed, Step("t", "c", "o"))), True),
        (trajectory("wrong"), False),
        (trajectory("unparsed", steps=(unparsed, Step("t", "c", "o"))), True),
        (trajectory("long", stop_reason=StopReason.MAX_STEPS), True),
        (trajectory("ungraded"), None),
    )
    found = curate([run], tmp_path / "data", PROMPTS)
    assert found.kept == 2
    assert found.rejected == {
        "wrong answer": 1,
        "a step could not be parsed": 1,
        "ended by the step limit": 1,
        "not graded": 1,
    }
    rows, prompts = read_data(tmp_path / "data")
    assert [row["task"] for row in rows] == ["good", "repaired"]
    assert prompts == PROMPTS.text
    system, user, assistant = rows[0]["messages"]
    assert system["content"].startswith("Solve the task.")
    assert user["content"] == "New task:\nquestion of good\nFinal answer: a number or an expression."
    assert assistant["content"].endswith("</code>")


def test_the_same_conversation_counts_once(tmp_path: Path) -> None:
    first = store(tmp_path / "a", (trajectory("good"), True))
    second = store(tmp_path / "b", (trajectory("good"), True))
    found = curate([first, second], tmp_path / "data", PROMPTS)
    assert (found.kept, found.rejected) == (1, {"same conversation as another row": 1})


def test_an_ungraded_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", stage="generate", shape={}, asked={}):
        pass
    with pytest.raises(RunDirectoryError, match="agentdistill grade"):
        curate([tmp_path / "run"], tmp_path / "data", PROMPTS)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", [None, "{", '{"rows": 1}'])
def test_any_other_folder_is_no_data(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "data.json").write_text(content)
        (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(RunDirectoryError):
        read_data(tmp_path)
