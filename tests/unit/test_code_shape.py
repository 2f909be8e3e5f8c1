"""Which code counts as the same computation."""

import pytest

from agentdistill.training.code_shape import code_shape

BASE = "total = 48 + 24\nprint(total)\nfinal_answer(total)"


@pytest.mark.parametrize(
    "same",
    [
        "s = 48 + 24\nprint(s)\nfinal_answer(s)",
        "# add them\ntotal = (48\n  + 24)\n\nprint( total )\nfinal_answer(total)",
        "total = 48 + 24.0\nprint('The total is', total)\nfinal_answer(total)",
        "total: int = 48 + 24\nprint(f'The total is {total:.2f}', end='')\nfinal_answer(total)",
        "'''Add them.'''\ntotal = 48 + 24\nprint(total)\nfinal_answer(total)",
    ],
)
def test_other_names_texts_and_formatting_are_the_same(same: str) -> None:
    assert code_shape([same]) == code_shape([BASE])


@pytest.mark.parametrize(
    "other",
    [
        "total = 48 + 25\nprint(total)\nfinal_answer(total)",
        "total = 48 - 24\nprint(total)\nfinal_answer(total)",
        "total = sum([48, 24])\nprint(total)\nfinal_answer(total)",
        "total = 48 + 24\nprint(total)\nfinal_answer(-total)",
        "total = 48 + 24\nprint(other)\nfinal_answer(total)",
    ],
)
def test_another_computation_is_another_shape(other: str) -> None:
    assert code_shape([other]) != code_shape([BASE])


def test_names_are_followed_over_steps_and_never_swapped() -> None:
    assert code_shape(["a = 1\nb = 2", "final_answer(a - b)"]) == code_shape(
        ["x = 1\ny = 2", "final_answer(x - y)"]
    )
    assert code_shape(["a = 1\nb = 2", "final_answer(a - b)"]) != code_shape(
        ["a = 1\nb = 2", "final_answer(b - a)"]
    )
    assert code_shape(["a = 1", "final_answer(a)"]) != code_shape(["a = 1\nfinal_answer(a)"])


def test_names_the_code_only_uses_are_kept() -> None:
    assert code_shape(["final_answer(min(table))"]) != code_shape(["final_answer(max(table))"])
    assert code_shape(["search('who wrote it')"]) != code_shape(["search('author of it')"])
    assert code_shape(["search(f'capital of {x}')"]) != code_shape(["search(f'author of {x}')"])
    assert code_shape(["x = row['city']"]) != code_shape(["x = row['name']"])
    assert code_shape(["import math as m\nm.sqrt(4)"]) == code_shape(["import math as maths\nmaths.sqrt(4)"])
    assert code_shape(["import math as m\nm.sqrt(4)"]) != code_shape(["import cmath as m\nm.sqrt(4)"])


def test_functions_and_their_parameters_are_names_too() -> None:
    one = "def f(a: int, b=2) -> int:\n    '''Add.'''\n    return a + b\nfinal_answer(f(1))"
    two = "def add(x, y=2):\n    return x + y\nfinal_answer(add(1))"
    assert code_shape([one]) == code_shape([two])
    assert code_shape([one]) != code_shape([two.replace("x + y", "y + x")])


@pytest.mark.parametrize(
    "code",
    ["", "print(", "x = '\0'", "x = '\ud800'", "(" * 5000, "-" * 50_000 + "1", "x = '\\d'", "9" * 9000],
)
def test_any_text_has_a_shape(code: str) -> None:
    assert code_shape([code]) == code_shape([code + "\n"])
    assert code_shape([code]) != code_shape([code + " 1"])
