"""The majority over a task's answers."""

from dataclasses import replace

import pytest

from agentdistill.evaluation.majority import answer_key, majority
from agentdistill.stages.grade import summarise
from agentdistill.types import Score, StopReason, Task, TaskKind, Trajectory

TASK = Task("t1", "What is 6 times 7?", "42")


def sampled(*answers: str | None, task: Task = TASK) -> tuple[list[Trajectory], list[Score]]:
    trajectories = [
        Trajectory(f"{task.id}-{k}", task, (), (), answer, StopReason.FINAL_ANSWER, "m", sample=k)
        for k, answer in enumerate(answers)
    ]
    return trajectories, [Score(t.id, answer_key(t.answer, task.kind) == 42, "test") for t in trajectories]


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["41", "42", "42.0"], 1),
        (["$42$", "41", "42 apples", "41", "42"], 0),
        (["41", "42"], 0),  # a tie: the earliest
        (["42", "41", "41", "42"], 0),
        ([None, "", "42"], 2),  # no answer is no vote
        ([None, None], 0),
    ],
)
def test_the_majority_is_counted_by_value(answers: list[str | None], chosen: int) -> None:
    trajectories, scores = sampled(*answers)
    assert majority(trajectories, scores) == [scores[chosen]]
    # The file holds attempts as they ended, not as they began.
    assert majority(trajectories[::-1], scores[::-1]) == [scores[chosen]]


@pytest.mark.parametrize(
    ("a", "b", "kind", "same"),
    [
        ("1/2", "0.5", TaskKind.MATH, True),
        ("\\boxed{x + 1}", "x  + 1", TaskKind.MATH, True),
        ("1 2", "12", TaskKind.MATH, False),
        ("The Eiffel Tower.", "eiffel tower", TaskKind.QA, True),
        ("3.5", "35", TaskKind.QA, False),
        ("(B)", "Option B.", TaskKind.CHOICE, True),
        ("A", "B", TaskKind.CHOICE, False),
        ("A", "a", TaskKind.CODE, False),
    ],
)
def test_answers_are_the_same_as_the_grader_reads_them(a: str, b: str, kind: TaskKind, same: bool) -> None:
    assert (answer_key(a, kind) == answer_key(b, kind)) is same


def test_a_run_with_several_samples_tells_its_majority_with_an_interval() -> None:
    one, marks = sampled("41", "42", "42")
    other, more = sampled("41", "41", "42", task=replace(TASK, id="t2"))
    found = summarise("RUN", one + other, marks + more)
    assert found.all.successes == 3 and found.all.n == 6
    assert found.majority is not None
    assert (found.majority.successes, found.majority.n) == (1, 2)
    assert 0 < found.majority.low < 0.5 < found.majority.high < 1
    assert summarise("RUN", *sampled("42")).majority is None
