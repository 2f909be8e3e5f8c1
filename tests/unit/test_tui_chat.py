"""Parts of the chat screen that need no screen: commands, history, figures, what texts become."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agentdistill.errors import UsageError
from agentdistill.tui.chat_commands import COMMANDS, help_text, read
from agentdistill.tui.chat_history import LONGEST, MOST, History
from agentdistill.tui.chat_run import Commands
from agentdistill.tui.chat_status import Figures
from agentdistill.tui.chat_step import code, divided, plain, printed
from agentdistill.types import Step, Usage


@pytest.mark.parametrize(
    ("line", "name", "argument"),
    [
        ("/help", "help", ""),
        ("  /CANDIDATES  5 ", "candidates", "5"),
        ("/export messages my file.jsonl", "export", "messages my file.jsonl"),
        ("/model", "model", ""),
    ],
)
def test_a_line_is_a_command_and_its_argument(line: str, name: str, argument: str) -> None:
    command, found = read(line)
    assert (command.name, found) == (name, argument)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/hlep", "/help?"),
        ("/", "lists them"),
        ("/candidates", "/candidates N"),
        ("/undo 3", "takes nothing"),
    ],
)
def test_a_wrong_command_is_one_line_with_a_remedy(line: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem.replace("?", r"\?")):
        read(line)


def test_every_command_is_in_the_help_and_has_its_code() -> None:
    text = help_text()
    for command in COMMANDS:
        assert f"/{command.name}" in text and hasattr(Commands, f"_{command.name}")
    assert max(map(len, text.splitlines())) <= 77


# History


def test_back_and_forth_and_what_was_being_typed() -> None:
    past = History()
    for text in ("one", "two", "two", "  "):
        past.add(text)
    assert past.entries == ["one", "two"]
    assert [past.back("half"), past.back(""), past.back("")] == ["two", "one", None]
    assert [past.forward(), past.forward(), past.forward()] == ["two", "half", None]


def test_search_wants_all_words_newest_first() -> None:
    past = History()
    for text in ("count primes", "count words", "Primes, count them"):
        past.add(text)
    assert past.search("primes COUNT") == ["Primes, count them", "count primes"]
    assert past.search("nothing") == []


def test_history_is_kept_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history.jsonl"
    past = History(file)
    past.add("several\nlines, ünïcode \x1b")
    past.add("x" * (LONGEST + 1))
    assert History(file).entries == ["several\nlines, ünïcode \x1b"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_damaged_history_loses_its_damaged_lines_only(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'"one"\n{oops\n[1]\n"two\xff"\n')
    assert History(file).entries == ["one", "two\N{REPLACEMENT CHARACTER}"]
    file.write_text("".join(f'"{i}"\n' for i in range(MOST + 5)))
    assert len(History(file).entries) == MOST


def test_a_history_that_cannot_be_written_is_none() -> None:
    past = History(Path("/proc/nowhere/history"))
    past.add("one")
    assert past.entries == ["one"]


# What is shown


def test_what_is_unknown_is_said_to_be_unknown() -> None:
    figures = Figures(usd=None)
    figures.add(Usage(100, 20, 1.0))
    assert figures.line(1.0) == "120 tok · ?/s · 1.0 s · cost unknown │ sandbox starting │ search off"
    figures.add(Usage(0, 0, 2.0))
    assert figures.line(2.0).startswith("120+ tok")


def test_money_adds_up() -> None:
    figures = Figures(usd=0.0)
    figures.add(Usage(1, 1, 1.0, 0.25))
    figures.add(Usage(1, 1, 1.0, 0.5))
    assert "$0.7500" in figures.line(0)
    figures.add(Usage(1, 1, 1.0, None))
    assert "cost unknown" in figures.line(0)


def test_the_figures_fit_into_80_columns() -> None:
    figures = Figures(tokens=123_456, speed=12.34, seconds=100, sandbox="running", candidates=16, usd=None)
    assert len(figures.line(100.0)) <= 78


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("Thought: I", "I", ""),
        ("Thought: I see\n<code>\nx = 1", "I see", "x = 1"),
        ("<code>\nif x:\n    y\n</code> more", "", "if x:\n    y"),
        ("", "", ""),
    ],
)
def test_text_that_grows_is_divided(text: str, thought: str, action: str) -> None:
    assert divided(text) == (thought, action)


@pytest.mark.parametrize(
    ("observation", "action", "shown"),
    [
        ("Execution logs:\n1\n2\nLast output from code snippet:\nNone", "print(1)", "1\n2"),
        ("Execution logs:\nLast output from code snippet:\n7", "7", "→ 7"),
        ("Execution logs:\nhi\nLast output from code snippet:\n7", "final_answer(7)", "hi"),
        ("Execution logs:\nhalf", "print('half')\n1/0", "half"),
        ("", "", ""),
    ],
)
def test_an_observation_without_headings(observation: str, action: str, shown: str) -> None:
    assert printed(Step("", action, observation)) == shown


HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eevil [bold]x[/bold] [@click=app.quit]y[/]"


def test_no_control_code_and_no_markup_is_drawn() -> None:
    for drawn in (plain(HOSTILE), code(HOSTILE)):
        assert "\x1b" not in drawn.plain and "\x07" not in drawn.plain and "\u202e" not in drawn.plain
        assert "[bold]x[/bold]" in drawn.plain
        assert not any("click" in str(span.style) for span in drawn.spans)
