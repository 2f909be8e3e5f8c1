"""How the turns before reach the prompt."""

from __future__ import annotations

from agentdistill.prompts import load_prompts
from agentdistill.stages.chat.earlier import ALIVE, CHARACTERS, GONE, LEFT_OUT, earlier
from agentdistill.types import Step, StopReason, Task, Trajectory


def turn(question: str, *codes: str, answer: str | None = "1", error: str | None = None) -> Trajectory:
    steps = tuple(Step("", code, "", error) for code in codes)
    return Trajectory(question, Task(question, question, ""), (), steps, answer, StopReason.FINAL_ANSWER, "m")


def test_nothing_before_is_nothing_in_the_prompt() -> None:
    assert earlier([]) == ""
    task = Task("t", "One?", "", meta={"earlier": ""})
    assert load_prompts("teacher").question(task).startswith("One?")


def test_code_that_failed_is_not_shown() -> None:
    text = earlier([(turn("bad", "x = 1 / 0", error="ZeroDivisionError"), True)])
    assert "x = 1" not in text and "Question: bad\nAnswer: 1" in text


def test_no_answer_is_said() -> None:
    assert "Answer: none was given" in earlier([(turn("q", answer=None), True)])


def test_what_is_gone_stands_apart_and_first() -> None:
    text = earlier([(turn("old", "x = 1"), False), (turn("new", "y = 2"), True)])
    places = [text.index(part) for part in (GONE, "Question: old", ALIVE, "Question: new")]
    assert places == sorted(places)


def test_the_text_grows_at_its_end_so_that_a_prompt_is_cached() -> None:
    turns = [(turn(f"question {i}", f"x = {i}"), True) for i in range(4)]
    for count in range(1, 4):
        assert earlier(turns[: count + 1]).startswith(earlier(turns[:count]))


def test_a_long_conversation_loses_its_oldest_turns() -> None:
    turns = [(turn(f"question {i}", "x = 1\n" * 100), True) for i in range(30)]
    text = earlier(turns)
    assert text.startswith(LEFT_OUT)
    assert "question 29\n" in text and "question 0\n" not in text
    assert len(text) < CHARACTERS + 200


def test_one_enormous_turn_is_cut_and_kept() -> None:
    text = earlier([(turn("q" * 10**6, "c" * 10**6, answer="a" * 10**6), True)])
    assert len(text) < CHARACTERS
    assert all(text.count(letter * 300) for letter in "qca")
