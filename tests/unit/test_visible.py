"""Text of others on its way to a terminal: nothing in it steers the terminal, nothing readable is lost."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.visible import visible, visible_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext: naïve 大 🙂 മലയാളം", "plain\n\ttext: naïve 大 🙂 മലയാളം"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),  # the same as ESC [ in one character
        ("50%\r100%\x08\x7f\x00", "50%\\r100%\\x08\\x7f\\x00"),
        ("a\u202eb\u2066c\u200bd\ufeff", "a\\u202eb\\u2066c\\u200bd\\ufeff"),
        ("a\u2028b\x0bc\x85d", "a\\u2028b\\x0bc\\x85d"),  # what some take for the end of a line
        ("\ud83d and \U000e0041", "\\ud83d and \\U000e0041"),  # half a surrogate; an invisible "tag" letter
        ("1\u00a0000\u3000km", "1\u00a0000\u3000km"),
        ("[bold]markup[/]", "[bold]markup[/]"),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_comes_back_without_controls(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not {unicodedata.category(letter) for letter in shown if letter not in "\n\t"} & {
        "Cc", "Cf", "Cs", "Zl", "Zp"
    }  # fmt: skip
    assert visible(shown) == shown
    assert "\n" not in visible_line(text) and "\t" not in visible_line(text)


def test_a_limit_says_what_was_left_out() -> None:
    assert visible("x" * 1_500_000, 3) == "xxx … (1,499,997 characters more)"
    assert visible("x" * 3, 3) == "xxx"
    assert visible_line("one\n\n two\x1b " + "x" * 9, 10) == "one two\\x1b …"
