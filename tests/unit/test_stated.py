"""Does a text give an answer away?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.grading.stated import forms, states
from agentdistill.types import Task, TaskKind


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("That makes 612 bottles.", "612", True),
        ("That makes $1,612.00.", "1612", True),
        ("There are six hundred and twelve bottles.", "612", True),
        ("There are twenty-four.", "24", True),
        ("Take 6121 of them.", "612", False),
        ("Take 61.2 of them.", "612", False),
        ("It is minus five.", "-5", True),
        ("It falls to -5.", "-5", True),
        ("He eats half of it.", "1/2", True),
        ("He eats three quarters of it.", "3/4", True),
        ("He eats \\frac{3}{4} of it.", "\\frac{3}{4}", True),
        ("He eats 3/4 of it.", "0.75", True),
        ("On 3/4/2012 he eats.", "3/4", False),
        ("In a hundred years", "100", False),  # "a hundred" is how people say "many"
        ("She lives in New York City.", "new york", True),
        ("She lives in York.", "new york", False),
        ("It is the spirit of night.", "a spirit", True),
        ("It is 12/25/1937.", "12/25/1937", True),
        ("It is 12/24/1937.", "12/25/1937", False),
        ("So the answer is B.", "(B)", True),
        ("It is (A).", "(A)", True),
        ("A tree has leaves.", "(A)", False),
        ("BBC is a station.", "(B)", False),
        ("Evaluate True and False first.", "True", False),
        ("The expression is True.", "True", True),
        ("not True = False", "False", True),
        ("No, they do not.", "No", True),
        ("There is no end.", "No", True),  # on the safe side
        ("Count the steps with no turn.", "No", False),
        ("", "x", False),
        ("anything", "", False),
    ],
)
def test_states(text: str, answer: str, said: bool) -> None:
    assert states(text, answer) is said


def test_forms_of_an_option() -> None:
    task = Task("t", "Which?\nOptions:\n(A) 12/11/1937\n(B) three cats", "(B)", kind=TaskKind.CHOICE)
    assert forms("B", task) == ("(B)", "three cats")
    assert forms("(A)", task) == ("(A)", "12/11/1937")
    assert forms("three", task) == ("three",)
    assert forms("B", Task("t", "Which vitamin?", "B", kind=TaskKind.QA)) == ("B",)


@given(st.integers(0, 999_999), st.sampled_from(["It is {}.", "{} of them", "so: {}"]))
def test_a_number_is_found_however_it_is_set(number: int, frame: str) -> None:
    assert states(frame.format(f"{number:,}"), str(number))
    assert states(frame.format(number), f"{number}.0")
    assert not states(frame.format(number + 1), str(number))


@given(st.text(), st.text())
def test_any_text_can_be_asked_about(text: str, answer: str) -> None:
    assert states(text, answer) in (True, False)


def test_endless_digits_cost_nothing() -> None:
    assert not states("9" * 1_000_000, "5")
    assert not states("5", "9" * 1_000_000)
