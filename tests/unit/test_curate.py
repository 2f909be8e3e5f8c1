"""Which attempts become rows, and what a row looks like."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentdistill.errors import RunDirectoryError, TaskFileError, UsageError
from agentdistill.knowledge.entry import Entry, FromPerson, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.recall import Searcher
from agentdistill.knowledge.store import Index
from agentdistill.prompts import load_prompts
from agentdistill.runs import RunWriter, write_scores
from agentdistill.stages.curate import curate, read_data
from agentdistill.stages.knowledge_rows import KnowledgeRows
from agentdistill.stages.pairs import read_pairs
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
        (trajectory("full", stop_reason=StopReason.CONTEXT, answer=None), False),
        (trajectory("unseen", steps=(Step("t", "c", "o"), Step("t", "c", "o", dropped=(0,)))), True),
        (trajectory("ungraded"), None),
    )
    found = curate([run], tmp_path / "data", PROMPTS)
    assert found.kept == 2
    assert found.attempts == 8 == found.kept + sum(found.rejected.values())
    assert found.rejected == {
        "wrong answer": 1,
        "a step could not be parsed": 1,
        "ended by the step limit": 1,
        "ended by the context's length": 1,
        "a step did not see all observations": 1,
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


def samples(name: str, *codes: Sequence[str]) -> list[tuple[Trajectory, bool]]:
    """Correct attempts at one task, one for each list of codes."""
    base = trajectory(name)
    found = []
    for number, code in enumerate(codes):
        said = {"role": "assistant", "content": f"Thought: {number}\n<code>\n{code[-1]}\n</code>"}
        changes = {"id": f"{name}#{number}", "sample": number, "messages": (*base.messages[:2], said)}
        steps = tuple(Step("t", text, "o") for text in code)
        found.append((replace(base, steps=steps, **changes), True))  # type: ignore[arg-type]
    return found


ADD = (
    ["a = 1\nfinal_answer(a)"],
    ["total = 1\nfinal_answer(total)"],
    ["final_answer(2 - 1)"],
    ["final_answer(3-2)"],
)


def test_samples_of_one_task_that_compute_the_same_are_one_row(tmp_path: Path) -> None:
    run = store(tmp_path / "run", *reversed(samples("a", *ADD)), *samples("b", ADD[1]))
    found = curate([run], tmp_path / "data", PROMPTS)
    rows, _ = read_data(tmp_path / "data")
    # By sample index, in whatever order they finished; the same code for another task is another row.
    assert [row["id"] for row in rows] == ["a#0", "b#0", "a#2", "a#3"]
    assert found.rejected == {"same code as another row of its task": 1}


def test_a_task_gives_at_most_so_many_rows(tmp_path: Path) -> None:
    run = store(tmp_path / "run", *samples("a", *ADD), *samples("b", ADD[0]))
    found = curate([run], tmp_path / "data", PROMPTS, per_task=2)
    rows, _ = read_data(tmp_path / "data")
    assert [row["id"] for row in rows] == ["a#0", "b#0", "a#2"]
    assert found.rejected == {"same code as another row of its task": 1, "its task has enough rows": 1}
    with pytest.raises(UsageError, match="1 or more"):
        curate([run], tmp_path / "data", PROMPTS, per_task=0)


def test_two_runs_may_use_one_task_id_for_two_questions(tmp_path: Path) -> None:
    first = samples("a", ADD[0])
    [(other, _)] = samples("a", ADD[1])
    other = replace(other, id="a#0b", task=replace(other.task, question="another question"))
    runs = [store(tmp_path / "x", *first), store(tmp_path / "y", (other, True))]
    assert curate(runs, tmp_path / "data", PROMPTS).kept == 2


def test_tasks_of_the_test_files_are_left_out_and_named(tmp_path: Path) -> None:
    run = store(tmp_path / "run", *samples("a", *ADD), (trajectory("b"), True), (trajectory("c"), False))
    test = tmp_path / "held-out.jsonl"
    test.write_text('{"id": "t1", "question": "Question of A?", "answer": "1"}\n')
    found = curate([run], tmp_path / "data", PROMPTS, tests=[test])
    assert found.rejected == {"its question overlaps with a test question": 4, "wrong answer": 1}
    assert [row["task"] for row in read_data(tmp_path / "data")[0]] == ["b"]
    [file] = json.loads((tmp_path / "data" / "data.json").read_text())["tests"]
    assert (file["file"], file["questions"], len(file["sha256"])) == ("held-out.jsonl", 1, 64)
    assert file["removed"] == [{"task": "a", "test": "t1", "file": str(test), "words": 0}]


def test_a_bad_row_of_a_test_file_is_an_error_or_named(tmp_path: Path) -> None:
    run = store(tmp_path / "run", (trajectory("a"), True))
    test = tmp_path / "t.jsonl"
    test.write_text('{"question": "q"}\n{"question": "question of a", "answer": "1"}\n')
    with pytest.raises(TaskFileError, match="row 1"):
        curate([run], tmp_path / "data", PROMPTS, tests=[test])
    assert not (tmp_path / "data").exists()
    found = curate([run], tmp_path / "data", PROMPTS, tests=[test], skip_bad_rows=True)
    assert len(found.skipped) == len(found.overlaps) == 1


def test_rows_survive_what_code_may_print(tmp_path: Path) -> None:
    odd = "\u2028 \x85 \x0c \x1e \r\n \x00 \x1b[31m \u202e 漢字 🎈"
    messages = (
        *trajectory("a").messages,
        {"role": "user", "content": odd},
        {"role": "assistant", "content": odd},
    )
    run = store(tmp_path / "run", (replace(trajectory("a"), messages=messages), True))
    curate([run], tmp_path / "data", PROMPTS)
    [row], _ = read_data(tmp_path / "data")
    assert row["messages"][-1]["content"] == odd


def test_data_of_which_rows_are_missing_is_refused(tmp_path: Path) -> None:
    run = store(tmp_path / "run", (trajectory("a"), True), (trajectory("b"), True))
    curate([run], tmp_path / "data", PROMPTS)
    rows = tmp_path / "data" / "rows.jsonl"
    rows.write_text(rows.read_text().splitlines(keepends=True)[0])
    with pytest.raises(RunDirectoryError, match=r"1 rows, data\.json says 2"):
        read_data(tmp_path / "data")


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


def test_a_knowledge_base_makes_several_rows_of_an_attempt(tmp_path: Path) -> None:
    names = [f"t{n}" for n in range(60)]
    run = store(tmp_path / "run", *((trajectory(name), True) for name in names), (trajectory("no"), False))
    kb = EntryFolder(tmp_path / "kb", create=True)
    for id, own in (("fits", ()), ("own", ("question of t3",)), ("other", ())):
        sources = [FromPerson(author="us", question=question_hash(question)) for question in own]
        what = "weather" if id == "other" else "any question"
        kb.save(
            Entry(
                id=id,
                status="active",
                kind="fact",
                title=f"About {what}",
                trigger=f"A question of {what}",
                learning_summary=(f"This is {id}.",),
                provenance=sources or [FromPerson(author="us")],
            )
        )
    knowledge = KnowledgeRows(Searcher(Index(kb)), "kb")
    found = curate([run], tmp_path / "data", PROMPTS, knowledge=knowledge)
    assert found.attempts == 61 == found.kept + sum(found.rejected.values()) and found.kept == 60
    rows, _ = read_data(tmp_path / "data")
    record = json.loads((tmp_path / "data" / "data.json").read_text())
    counts = Counter(row["variant"] for row in rows)
    assert counts == record["knowledge"]["variants"] == found.variants
    assert counts["plain"] == counts["answer-only"] == 60 == counts["knowledge"] + counts["distractor"]
    assert 1 <= counts["distractor"] <= 14  # one in ten
    assert len({row["id"] for row in rows}) == len(rows) == record["rows"]
    by_id = {row["id"]: row for row in rows}
    plain = by_id["t3#0"]["messages"]
    noted = (by_id.get("t3#0+knowledge") or by_id["t3#0+distractor"])["messages"]
    assert "This is" not in str(plain) and "This is own." not in str(noted)  # leave-one-out
    assert noted[0] == plain[0] and noted[2:] == plain[2:] and plain[1]["content"][10:] in noted[1]["content"]
    assert "This is" in noted[1]["content"] and noted[1]["content"].startswith("New task:\n")
    for row in rows:
        if row["variant"] == "knowledge":
            assert "This is other." not in str(row["messages"])
        if row["variant"] == "answer-only":
            assert [m["content"] for m in row["messages"]][2:] == ["1"]
    again = curate([run], tmp_path / "again", PROMPTS, knowledge=KnowledgeRows(Searcher(Index(kb)), "kb"))
    assert again.variants == found.variants
    assert (tmp_path / "again/rows.jsonl").read_text() == (tmp_path / "data/rows.jsonl").read_text()


def test_right_and_wrong_attempts_at_one_question_are_pairs(tmp_path: Path) -> None:
    attempts = [*samples("a", ["x = 1"], ["x = 2"], ["x = 3"]), *samples("b", ["y = 1"])]
    graded = [(attempt, number in (0, 3)) for number, (attempt, _) in enumerate(attempts)]
    curate([store(tmp_path / "run", *graded)], tmp_path / "data", PROMPTS)
    (pair,) = read_pairs(tmp_path / "data")
    found = [pair[side]["id"] for side in ("chosen", "rejected")]
    assert pair["task"] == "a" and found == ["a#0", "a#1"]
