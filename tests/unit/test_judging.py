"""Programs by their tests, graders of one's own, a model as judge, and the figures of a graded RUN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sandboxes import open_backend

from agentdistill.cli.options import load_grader
from agentdistill.errors import GradingError, ModelError, RunDirectoryError, UsageError
from agentdistill.grading import Grader
from agentdistill.grading.judge import METHOD, Judge, agreement
from agentdistill.grading.own import OwnGrader
from agentdistill.models.scripted import ScriptedModel
from agentdistill.runs import RunWriter, read_scores
from agentdistill.stages.grade import JUDGEMENTS, grade
from agentdistill.types import (
    ErrorKind,
    Limits,
    Step,
    StopReason,
    Task,
    TaskKind,
    ToolCall,
    Trajectory,
    Usage,
)

# -- programs -------------------------------------------------------------------------------------

ADD = Task(
    "add",
    "Write add(a, b).",
    "def add(a, b): return a + b",
    TaskKind.CODE,
    meta={"tests": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]},
)


def by_tests(answer: str | None, task: Task = ADD, **limits: Any) -> tuple[bool, str, str]:
    with Grader(open_session=lambda: open_backend("bubblewrap", limits=Limits(**limits))) as grader:
        return grader.grade(answer, task)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        (ADD.answer, (True, "tests", "2 passed")),
        ("Fenced:\n", (False, "error", "the program: SyntaxError")),
        ("```python\ndef add(a, b):\n    return a + b\n```", (True, "tests", "2 passed")),
        ("def add(a, b): return a - b", (False, "tests", "test 1 of 2: AssertionError")),
        ("def add(a, b): return int(a) + b", (False, "error", "test 2 of 2: ValueError")),
        ("raise SystemExit(0)", (False, "error", "the program: ")),
        ("import os; os._exit(0)", (False, "error", "the program: ")),
        ("x =", (False, "error", "the program: SyntaxError")),
        ("", (False, "none", "no answer")),
        (None, (False, "none", "no answer")),
    ],
)
def test_a_program_is_judged_by_its_tests(program: str | None, verdict: tuple[bool, str, str]) -> None:
    correct, method, detail = by_tests(program)
    assert (correct, method) == verdict[:2], detail
    assert detail.startswith(verdict[2])


@pytest.mark.parametrize("program", ["while True: pass", "def add(a, b):\n    while True: pass"])
def test_a_program_that_never_ends_is_a_verdict(program: str) -> None:
    assert by_tests(program, seconds=1.0)[:2] == (False, "timeout")


def test_programs_meet_nothing_of_each_other() -> None:
    task = Task("t", "q", "x", TaskKind.CODE, meta={"tests": "assert 'left' not in globals()"})
    with Grader(open_session=lambda: open_backend("bubblewrap")) as grader:
        assert grader.grade("left = 1", Task("u", "q", "x", TaskKind.CODE, meta={"tests": "assert left"}))[0]
        assert grader.grade("other = 1", task)[0]


def test_a_task_without_tests_and_a_grader_without_a_sandbox_are_refused() -> None:
    with pytest.raises(UsageError, match="'t' has no tests"):
        by_tests("x = 1", Task("t", "q", "x", TaskKind.CODE))
    with pytest.raises(UsageError, match="need a sandbox"):
        Grader().grade("x = 1", ADD)


# -- a grader of one's own ------------------------------------------------------------------------


def own_file(tmp_path: Path, body: str) -> str:
    (tmp_path / "mine.py").write_text(f"def mine(answer, task):\n    {body}\n")
    return f"{tmp_path}/mine.py:mine"


def test_a_grader_of_ones_own_judges_every_kind(tmp_path: Path) -> None:
    grader = load_grader(own_file(tmp_path, "return answer == task.answer[::-1], 'backwards'"))
    assert grader.grade("cba", Task("t", "q", "abc", TaskKind.QA)) == (True, "mine", "backwards")
    assert grader.grade("321", Task("t", "q", "123"))[0]


@pytest.mark.parametrize("body", ["return 1 / 0", "return 'yes'", "return None"])
def test_a_broken_grader_is_an_error_and_no_verdict(tmp_path: Path, body: str) -> None:
    grader = load_grader(own_file(tmp_path, body))
    with pytest.raises(GradingError, match=r"mine.*'t'"):
        grader.grade("x", Task("t", "q", "x"))


def test_a_grader_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--grader"):
        load_grader(f"{tmp_path}/none.py:mine")
    with pytest.raises(UsageError, match="other is no function"):
        load_grader(own_file(tmp_path, "return True").replace(":mine", ":other"))


# -- a judge --------------------------------------------------------------------------------------

NIXON = Task("n", "Who?", "President Richard Nixon", TaskKind.QA, meta={"aliases": ["Tricky Dick"]})


def test_a_judge_is_asked_once_for_each_answer(tmp_path: Path) -> None:
    model = ScriptedModel(["Yes.", "no", "perhaps"])
    judge = Judge(model, Grader(), tmp_path / "j.jsonl")
    assert judge.grade("Richard Nixon", NIXON) == (True, METHOD, "exact match: wrong")
    assert judge.grade("Ford", NIXON) == (False, METHOD, "exact match: wrong")
    assert judge.grade("tricky dick", NIXON)[:2] == (True, "exact")  # neither yes nor no
    again = Judge(ScriptedModel([ModelError("not to be asked")]), Grader(), tmp_path / "j.jsonl")
    assert again.grade("Richard Nixon", NIXON)[0]
    assert again.grade("tricky dick", NIXON)[:2] == (True, "exact")
    assert (judge.asked, again.asked) == (3, 0)
    question = model.calls[0][1]["content"]
    assert "President Richard Nixon / Tricky Dick" in question
    with pytest.raises(ModelError):
        again.grade("Gerald Ford", NIXON)


def test_another_prompt_or_model_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "j.jsonl"
    Judge(ScriptedModel(["yes"]), Grader(), cache).grade("x", NIXON)
    monkeypatch.setattr("agentdistill.grading.judge.PROMPT", "Another prompt.")
    other = Judge(ScriptedModel(["no"]), Grader(), cache)
    assert not other.grade("x", NIXON)[0]
    assert other.asked == 1


def test_what_is_no_phrase_is_not_put_to_the_judge(tmp_path: Path) -> None:
    judge = Judge(ScriptedModel([ModelError("not to be asked")]), Grader(), tmp_path / "j.jsonl")
    assert judge.grade("5", Task("t", "q", "5"))[0]
    assert judge.grade("(B)", Task("t", "q", "B", TaskKind.CHOICE))[0]
    assert not judge.grade(None, NIXON)[0]
    assert not judge.grade("x" * 5000, NIXON)[0]


def test_a_torn_line_of_verdicts_is_cut_and_a_bad_one_is_an_error(tmp_path: Path) -> None:
    cache = tmp_path / "j.jsonl"
    Judge(ScriptedModel(["yes"]), Grader(), cache).grade("x", NIXON)
    whole = cache.read_text()
    cache.write_text(whole + '{"key": "ab')
    assert Judge(ScriptedModel(["no"]), Grader(), cache).grade("x", NIXON)[0]
    assert cache.read_text() == whole
    cache.write_text("{}\n" + whole)
    with pytest.raises(RunDirectoryError, match="line 1 is damaged"):
        Judge(ScriptedModel(["no"]), Grader(), cache)


def test_agreement_counts_all_four_ways() -> None:
    answers = [
        ("Richard Nixon", True),
        ("Ford", False),
        ("Tricky Dick", False),
        ("President Richard Nixon", True),
    ]
    verdicts = [((right, METHOD, ""), answer, NIXON) for answer, right in answers]
    found = agreement("m", verdicts)
    assert found is not None
    assert (found.both, found.only_judge, found.only_exact, found.neither) == (1, 1, 1, 1)
    assert found.kappa == pytest.approx(0.0)
    assert agreement("m", []) is None


# -- a graded RUN ---------------------------------------------------------------------------------


def attempt(task: Task, answer: str | None, sample: int = 0, **fields: Any) -> Trajectory:
    steps = fields.pop("steps", (Step("t", "x", "", tool_calls=(ToolCall("search", {}),)),))
    return Trajectory(
        f"{task.id}#{sample}@x",
        task,
        (),
        steps,
        answer,
        StopReason.FINAL_ANSWER,
        "fake",
        sample,
        usage=Usage(10, 5, 1.0, 0.5),
        **fields,
    )


def run_of(folder: Path, *attempts: Trajectory) -> Path:
    with RunWriter(folder, stage="eval", shape={}, asked={}) as run:
        run.append(*attempts)
    return folder


def test_the_summary_of_a_run(tmp_path: Path) -> None:
    number = Task("m", "2 + 2?", "4", source="sums")
    broken = Step("t", None, "", error="no code", error_kind=ErrorKind.PARSE)
    run = run_of(
        tmp_path / "run",
        attempt(number, "4"),
        attempt(number, "5", 1, steps=(broken,)),
        attempt(NIXON, "Richard Nixon"),
        attempt(NIXON, "Tricky Dick", 1),
    )
    found = grade(run)
    assert (found.tasks, found.samples) == (2, 2)
    assert (found.all.successes, found.all.n) == (2, 4)
    assert found.pass_at == {1: 0.5, 2: 1.0}
    assert found.f1 == {"tasks": pytest.approx((0.8 + 1.0) / 2)}
    assert found.tool_calls == {"search": 0.75}
    assert found.step_errors == {"parse": 1}
    assert (found.usd, found.agreement) == (0.5, None)
    assert found.methods == {"text": 1, "number": 1, "exact": 2}
    written = json.loads((run / "summary.json").read_text())
    assert written["pass_at"] == {"1": 0.5, "2": 1.0}


def test_a_judged_run_says_who_judged_and_keeps_what_was_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(NIXON, "Richard Nixon"), attempt(NIXON, "Ford", 1))
    assert grade(run).all.successes == 0
    judge = ScriptedModel(lambda messages: "yes" if "<<<Richard" in messages[1]["content"] else "no")
    found = grade(run, judge=judge)
    assert found.all.successes == 1
    assert found.agreement is not None
    assert (found.agreement.only_judge, found.agreement.neither) == (1, 1)
    assert "scripted, prompt v1" in found.agreement.judge
    assert len((run / JUDGEMENTS).read_text().splitlines()) == 2
    assert grade(run, judge=judge).all.successes == 1
    assert len(judge.calls) == 2


def test_a_judge_that_fails_leaves_the_scores_as_they_were(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(NIXON, "Tricky Dick"))
    grade(run)
    with pytest.raises(ModelError):
        grade(run, judge=ScriptedModel([ModelError("gone")]))
    assert [score.correct for score in read_scores(run).values()] == [True]


def test_programs_of_a_run_are_tested_in_the_sandbox(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(ADD, ADD.answer), attempt(ADD, "def add(a, b): return a", 1))
    found = grade(run, sandbox="bubblewrap")
    assert (found.all.successes, found.methods) == (1, {"tests": 2})


def test_scores_keep_the_order_of_the_run(tmp_path: Path) -> None:
    tasks = [Task(f"t{i}", "q", str(i)) for i in range(60)]
    run = run_of(tmp_path / "run", *[attempt(task, str(i % 7)) for i, task in enumerate(tasks)])
    found = grade(run, workers=3)
    assert [score.attempt for score in found.scores] == [f"t{i}#0@x" for i in range(60)]
    assert [score.correct for score in found.scores] == [i < 7 for i in range(60)]


def test_an_own_grader_in_a_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(NIXON, "anything"))
    found = grade(run, grader=OwnGrader(lambda answer, task: True, "kind"))
    assert (found.all.successes, found.methods) == (1, {"kind": 1})
