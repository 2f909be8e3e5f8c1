"""From failed attempts to entries: what the teacher sees, what is refused, what a resume pays for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentdistill.errors import ModelError, UsageError
from agentdistill.knowledge.distill import Refusal, load_distill_prompt, read_reply
from agentdistill.knowledge.entry import Entry, Status, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.models.scripted import ScriptedModel
from agentdistill.runs import RunWriter, write_scores
from agentdistill.stages.knowledge import LOG, BuildSummary, build
from agentdistill.stages.knowledge_review import audit
from agentdistill.types import ErrorKind, Message, Score, Step, StopReason, Task, TaskKind, Trajectory

QUESTION = "Three friends share a basket of forty two red apples and each eats four of them today"


def reply(title: str = "Sharing equally", bullet: str = "Subtract what is used before dividing.") -> str:
    return (
        f"**KIND:** pitfall\n**TITLE:** {title}\nWHEN: A task shares things.\nLEARN:\n- {bullet}\n"
        "- Check that nothing is counted twice.\nKNOW:\n* In Python, divmod gives quotient and rest.\n"
    )


def failed(name: str = "a", question: str = QUESTION, answer: str = "30", **changes: object) -> Trajectory:
    given = {
        "steps": (Step("Just divide.", "print(42 / 3)", "14.0"), Step("Done.", "final_answer(14)", "14")),
        "answer": "14",
        "stop_reason": StopReason.FINAL_ANSWER,
        **changes,
    }
    task = Task(name, question, answer, source="sharing_train")
    return Trajectory(f"{name}#0", task, (), model="student", **given)  # type: ignore[arg-type]


def store(folder: Path, *attempts: Trajectory, correct: Sequence[str] = ()) -> Path:
    with RunWriter(folder, stage="generate", shape={}, asked={}) as run:
        run.append(*attempts)
    write_scores(folder, [Score(a.id, a.task.id in correct, "number") for a in attempts])
    return folder


def made(
    tmp_path: Path, run: Path, *script: str | Exception
) -> tuple[BuildSummary, ScriptedModel, EntryFolder]:
    teacher = ScriptedModel(list(script), model_id="teacher")
    summary = build(run, tmp_path / "kb", teacher, concurrency=1)
    return summary, teacher, EntryFolder(tmp_path / "kb")


def log(folder: EntryFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder.folder / LOG).read_text().splitlines()]


def test_a_failure_becomes_an_entry_with_its_provenance(tmp_path: Path) -> None:
    run = store(tmp_path / "run", failed("a"), failed("right", "Another question?"), correct=["right"])
    summary, _, folder = made(tmp_path, run, reply())
    assert (summary.failures, summary.added, summary.refused) == (1, 1, {})
    [entry] = folder.entries()
    assert entry.title == "Sharing equally"
    assert entry.learning_summary[0] == "Subtract what is used before dividing."
    assert entry.supplementary_knowledge == ("In Python, divmod gives quotient and rest.",)
    assert entry.families == ("sharing",) and entry.task_kinds == (TaskKind.MATH,)
    [source] = entry.provenance
    assert source.model_dump() == {
        "trajectory": "a#0",
        "steps": (0, 1),
        "question": question_hash(QUESTION),
        "student": "student",
        "teacher": "teacher",
        "prompt": load_distill_prompt().sha256[:12],
    }
    assert summary.usage.tokens_out > 0


def test_the_teacher_sees_the_attempt_and_not_the_answer(tmp_path: Path) -> None:
    asked: list[Sequence[Message]] = []
    secret = failed("a", answer="7654321")

    def script(messages: Sequence[Message]) -> str:
        asked.append(messages)
        return reply()

    build(store(tmp_path / "run", secret), tmp_path / "kb", ScriptedModel(script), concurrency=1)
    said = "\n".join(message["content"] for message in asked[0])
    assert QUESTION in said and "print(42 / 3)" in said and "14.0" in said and "the answer is wrong" in said
    assert "7654321" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the answer is wrong"),
        (
            {
                "answer": None,
                "stop_reason": StopReason.MAX_STEPS,
                "steps": (Step("x", None, "", error="no code", error_kind=ErrorKind.PARSE),),
            },
            "no code that could be read",
        ),
        (
            {
                "answer": None,
                "stop_reason": StopReason.MAX_STEPS,
                "steps": (
                    Step(
                        "x",
                        "1/0",
                        "",
                        error="Traceback\nZeroDivisionError: x",
                        error_kind=ErrorKind.EXCEPTION,
                    ),
                ),
            },
            "the code raised an error (ZeroDivisionError: x)",
        ),
        (
            {
                "answer": None,
                "stop_reason": StopReason.MAX_STEPS,
                "steps": (Step("x", "f", "", error="late", error_kind=ErrorKind.TIMEOUT),),
            },
            "too long",
        ),
        ({"answer": None, "stop_reason": StopReason.MAX_STEPS}, "no final answer"),
    ],
)
def test_the_error_class_is_told(changes: dict[str, object], words: str) -> None:
    last = load_distill_prompt().messages(failed("a", **changes))[-1]["content"]
    assert words in last.split("What went wrong:")[1]


@pytest.mark.parametrize(
    ("bullet", "reason"),
    [
        ("Each of them has thirty left.", Refusal.ANSWER),
        ("The result should be 30.0 here.", Refusal.ANSWER),
        ("If friends share a basket of forty two red apples, subtract.", Refusal.QUESTION),
    ],
)
def test_a_leak_is_refused_and_counted(tmp_path: Path, bullet: str, reason: Refusal) -> None:
    summary, teacher, folder = made(tmp_path, store(tmp_path / "run", failed()), reply(bullet=bullet))
    assert summary.refused == {reason.value: 1} and not folder.entries()
    assert len(teacher.calls) == 2  # asked once more, differently
    [row] = log(folder)
    assert row["reason"] == reason.value and bullet in str(row["reply"])


def test_a_second_try_may_succeed(tmp_path: Path) -> None:
    run = store(tmp_path / "run", failed())
    summary, _, folder = made(tmp_path, run, "I cannot do this.", reply())
    assert summary.added == 1 and len(folder.entries()) == 1


@pytest.mark.parametrize("text", ["", "TITLE: x", "TITLE: x\nWHEN: y\nLEARN:\n", "LEARN:\n- a", "\x00" * 50])
def test_a_reply_without_form_is_refused(text: str) -> None:
    found = read_reply(text, failed(), "student", "teacher", load_distill_prompt())
    assert found is Refusal.FORM


def test_control_characters_of_a_model_never_reach_a_file() -> None:
    found = read_reply(reply("\x1b[31mred\x07"), failed(), "student", "teacher", load_distill_prompt())
    assert isinstance(found, Entry) and found.title.isprintable()


def test_what_is_said_again_is_merged(tmp_path: Path) -> None:
    run = store(
        tmp_path / "run", failed("a"), failed("b", "What is left of ten pears when two are eaten?", "8")
    )
    summary, _, folder = made(tmp_path, run, reply(), reply())
    assert (summary.added, summary.merged) == (1, 1)
    [entry] = folder.entries()
    assert len(entry.provenance) == 2 and len(entry.questions) == 2
    assert entry.bullets == tuple(dict.fromkeys(entry.bullets))


def test_the_audit_holds_an_entry_against_all_its_tasks(tmp_path: Path) -> None:
    other = failed("b", "What is left of ten pears when two are eaten?", "8")
    run = store(tmp_path / "run", failed("a", answer="99"), other)
    summary, _, folder = made(tmp_path, run, reply(), reply())
    assert summary.merged == 1
    entries = folder.entries()
    tasks = [failed("a", answer="99").task, other.task]
    assert audit(entries, tasks) == []
    leaking = entries[0].model_copy(update={"learning_summary": ("There are eight left, not 99.",)})
    assert {found.task for found in audit([leaking], tasks)} == {"a", "b"}


@pytest.mark.parametrize("state", [{"locked": True}, {"status": Status.RETIRED}])
def test_locked_and_retired_entries_are_left_alone(tmp_path: Path, state: dict[str, object]) -> None:
    _, _, folder = made(tmp_path, store(tmp_path / "run", failed("a")), reply())
    [entry] = folder.entries()
    folder.save(entry.model_copy(update=state))
    before = folder.path(entry.id).read_bytes()
    more = store(tmp_path / "more", failed("b", "What is left of ten pears when two are eaten?", "8"))
    summary, _, _ = made(tmp_path, more, reply())
    assert sum(summary.queued.values()) == 1
    assert folder.path(entry.id).read_bytes() == before
    _, [waiting], problems = folder.check()
    assert waiting.status is Status.DRAFT and not problems


def test_a_resume_pays_for_nothing_twice(tmp_path: Path) -> None:
    run = store(
        tmp_path / "run", failed("a"), failed("b", "What is left of ten pears when two are eaten?", "8")
    )
    first, _, _ = made(tmp_path, run, reply("One", "Read the question twice."), reply("Two", "Count again."))
    again, teacher, _ = made(tmp_path, run, ModelError("must not be asked"))
    assert (first.added, again.skipped, again.added) == (2, 2, 0)
    assert not teacher.calls and again.whole_usage.tokens_out == first.usage.tokens_out


def test_an_entry_whose_log_line_a_kill_took_is_found_again(tmp_path: Path) -> None:
    run = store(tmp_path / "run", failed("a"))
    _, _, folder = made(tmp_path, run, reply())
    line = (folder.folder / LOG).read_bytes()
    (folder.folder / LOG).write_bytes(line[: len(line) // 2])  # torn
    again, teacher, _ = made(tmp_path, run, ModelError("must not be asked"))
    assert again.skipped == 1 and not teacher.calls
    assert [row["outcome"] for row in log(folder)] == ["added"]


def test_an_endpoint_that_fails_is_tried_again_by_the_next_call(tmp_path: Path) -> None:
    run = store(tmp_path / "run", failed("a"))
    with pytest.raises(ModelError):
        made(tmp_path, run, ModelError("gone"))
    summary, _, folder = made(tmp_path, run, reply())
    assert summary.added == 1
    assert [row["outcome"] for row in log(folder)] == ["failed"] * 3 + ["added"]


def test_another_teacher_is_another_question(tmp_path: Path) -> None:
    class Other(ScriptedModel):
        def fingerprint(self) -> dict[str, str]:
            return {"engine": "other"}

    run = store(tmp_path / "run", failed("a"))
    made(tmp_path, run, reply())
    again = build(run, tmp_path / "kb", Other([reply("Else", "Draw a picture.")], "other"), concurrency=1)
    assert (again.skipped, again.added) == (0, 1)


def test_an_ungraded_attempt_is_an_error(tmp_path: Path) -> None:
    run = store(tmp_path / "run", failed("a"))
    write_scores(run, [])
    with pytest.raises(UsageError, match="not graded"):
        made(tmp_path, run, reply())
