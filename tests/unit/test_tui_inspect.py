"""`inspect` on the screen, key by key, as Textual's pilot presses them; its page and lines without one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Collapsible, Input

from agentdistill.runs import RunWriter
from agentdistill.tui.inspect import InspectApp, MaskScreen
from agentdistill.tui.inspect_index import RunIndex
from agentdistill.tui.inspect_listing import View
from agentdistill.tui.inspect_page import AttemptPane, AttemptScreen, LongText
from agentdistill.types import Step, StopReason
from tests.inspected import HOSTILE, attempt, full, run_of

Scene = Callable[[Pilot[None], InspectApp], Awaitable[None]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_CACHE", str(tmp_path / "cache"))
    for name in ("NO_COLOR", "COLORFGBG", "TEXTUAL_THEME"):
        monkeypatch.delenv(name, raising=False)


def play(scene: Scene, *runs: Path, size: tuple[int, int] = (80, 24), **given: Any) -> None:
    """Open the RUNs, wait until they are read, and let the scene happen."""

    async def played() -> None:
        indexes = [RunIndex(run) for run in runs]
        app = InspectApp(*indexes, **given)
        async with app.run_test(size=size) as pilot:
            await asyncio.wait_for(app.filled.wait(), 20)
            await pilot.pause()
            await scene(pilot, app)
        for index in indexes:
            index.close()

    asyncio.run(played())


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.app.workers.wait_for_complete()
        await pilot.pause()


def screen_text(app: InspectApp) -> str:
    """What is on the screen, as letters."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    assert len(lines) == height and all(line.cell_length == width for line in lines)
    return "\n".join(line.text.rstrip() for line in lines)


def rows(app: InspectApp) -> list[str]:
    return [row["task"] for row in app.listing.rows(app.listing.keys(app.view))]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    attempts = [
        attempt(1),
        attempt(2, answer="no"),
        attempt(3, answer=None, stop_reason=StopReason.MAX_STEPS),
    ]
    return run_of(tmp_path / "teacher", *attempts, full())


def test_the_table(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        text = screen_text(app)
        assert "teacher  4 attempts · 2 right · 2 wrong" in text
        assert "✓  t1" in text and "✗  t2" in text and "max steps" in text
        assert "Search" in text and "Quit" in text

    play(scene, run)


def test_keys_that_move(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        seen = []
        for key in ("down", "j", "up", "k", "up", "end", "down", "home", "G", "g", "pagedown", "pageup"):
            await press(pilot, key)
            seen.append(app.table.cursor)
        assert seen == [1, 2, 1, 0, 0, 3, 3, 0, 3, 0, 3, 0]

    play(scene, run)


def test_filter_sort_and_reverse(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "f")
        assert app.view.only == "wrong" and app.table.total == 2 and "only wrong" in screen_text(app)
        await press(pilot, "f", "F", "F")
        assert app.view.only == "all"
        await press(pilot, "s", "s")
        assert app.view.sort == "task" and "task▲" in screen_text(app)
        await press(pilot, "S")
        assert rows(app) == ["t42", "t3", "t2", "t1"] and "task▼" in screen_text(app)
        await press(pilot, "escape")
        assert app.view == View() and rows(app)[0] == "t1"

    play(scene, run)


def test_the_cursor_stays_on_its_row(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "down", "f")
        assert app.table.key == 2 and app.table.cursor == 0
        await press(pilot, "escape")
        assert app.table.key == 2 and app.table.cursor == 1
        await press(pilot, "end", "f")
        assert app.table.key == 2 and app.table.cursor == 0
        await press(pilot, "slash", *"nowhere", "enter")
        assert app.table.key is None
        await press(pilot, "escape")
        assert app.table.key == 1

    play(scene, run)


def test_search(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "slash", *"What Is 4", "enter")
        assert rows(app) == ["t42"] and "with “What Is 4”" in screen_text(app)
        assert app.focused is app.table
        await press(pilot, "slash")
        assert app.query_one("#search", Input).value == "What Is 4"
        await press(pilot, "escape")
        assert app.focused is app.table and rows(app) == ["t42"]
        await press(pilot, "escape")
        assert app.table.total == 4

    play(scene, run)


def test_a_click_opens_and_sorts(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await pilot.click(app.table, offset=(10, 2))
        await pilot.pause()
        assert app.table.cursor == 1
        await pilot.click(app.table, offset=(5, 0))
        await pilot.pause()
        assert app.view.sort == "task"
        await pilot.click(app.table, offset=(5, 0))
        await pilot.pause()
        assert app.view.descending
        await pilot.click(app.table, offset=(10, app.table.cursor + 1))
        await pilot.pause()
        assert isinstance(app.screen, AttemptScreen)

    play(scene, run)


def test_reload_finds_what_was_appended(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        with RunWriter(run, stage="eval", shape={"model": "fake"}, asked={}) as writer:
            writer.append(attempt(7))
        await press(pilot, "r")
        assert rows(app)[-1] == "t7" and "5 attempts" in screen_text(app)

    play(scene, run)


def test_a_run_that_goes_away_is_said(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        (run / "trajectories.jsonl").unlink()
        (run / "trajectories.jsonl").mkdir()
        await press(pilot, "r")
        assert "cannot read" in screen_text(app)

    play(scene, run)


def test_light_and_dark(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        assert app.theme == "textual-light"
        await press(pilot, "d")
        assert app.theme == "textual-dark"

    monkeypatch.setenv("COLORFGBG", "0;15")
    play(scene, run)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_quit(run: Path, key: str) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await pilot.press(key)
        await pilot.pause()
        assert not app.is_running or app._exit

    play(scene, run)


def test_an_attempt_has_all_there_is(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "end", "enter")
        text = screen_text(app)
        for said in (
            *(
                "t42",
                "✓ right",
                "What is 42?",
                "right answer: 42",
                "Prompt",
                "First thought (used, rule content",
            ),
            *("entry-one (inject, found by hybrid; in the prompt)", "Step 1", "print(search('answer'))"),
            *(
                'search(query="answer") → passages p1, p2',
                "line 7 of what",
                "4,",
                "more characters, 192 lines",
            ),
            *("exception: ZeroDivisionError: no", "did not see the observations of steps 1"),
            "4 candidates, the chosen result has 2 of the votes",
        ):
            assert said in text, said
        assert "line 8 of what" not in text and "Solve it." not in text
        await press(pilot, "a")
        text = screen_text(app)
        for said in (
            "line 199 of what",
            "Solve it.",
            "2 · #1 · chosen · 42",
            "#3 · exception",
            "#4 · no code",
        ):
            assert said in text, said
        await press(pilot, "a")
        assert "line 199 of what" not in screen_text(app)

    play(scene, run, size=(100, 330))


def test_folds_open_one_by_one(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "end", "enter", "tab", "enter")
        assert [fold.collapsed for fold in app.screen.query(Collapsible)][:2] == [False, True]
        app.screen.query_one(LongText).focus()
        await press(pilot, "enter")
        assert not app.screen.query_one(LongText).folded
        await pilot.click(LongText)
        await pilot.pause()
        assert app.screen.query_one(LongText).folded

    play(scene, run, size=(80, 60))


def test_keys_in_an_attempt(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "enter", "n")
        assert app.table.cursor == 1 and "✗ wrong" in screen_text(app)
        await press(pilot, "right", "right")
        assert app.table.cursor == 3
        pane = app.screen.query_one(AttemptPane)
        await press(pilot, "j")
        await pilot.pause(0.5)
        assert pane.scroll_y > 0
        await press(pilot, "p")
        assert app.table.cursor == 2 and "none was given" in screen_text(app)
        await press(pilot, "f", "slash", "s")  # the table's keys do nothing here
        assert app.view == View() and isinstance(app.screen, AttemptScreen)
        await press(pilot, "escape")
        assert not isinstance(app.screen, AttemptScreen) and len(app.screen_stack) == 1

    play(scene, run)


def test_the_mask_without_a_tokenizer_says_what_is_needed(run: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "enter", "m")
        assert isinstance(app.screen, MaskScreen)
        text = screen_text(app)
        assert "--tokenizer" in text and "⟦Thought: easy" in text and "⟦Solve it." not in text
        await press(pilot, "m")
        assert isinstance(app.screen, AttemptScreen)

    play(scene, run)


def test_a_tokenizer_that_is_none_is_said(run: Path, tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "enter", "m")
        assert isinstance(app.screen, AttemptScreen)
        assert any("neither a model folder nor" in said.message for said in app._notifications)

    play(scene, run, size=(120, 30), tokenizer=tmp_path / "none")


def test_two_runs_beside_each_other(run: Path, tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        text = screen_text(app)
        assert "student against teacher  5 tasks · 1 lost · 1 gained" in text
        assert rows(app)[:2] == ["t1", "t2"]
        await press(pilot, "f")
        assert rows(app) == ["t1", "t2"]
        await press(pilot, "enter")
        text = screen_text(app)
        assert "t1  ✓ right" in text and "t1  ✗ wrong" in text and "teacher" in text and "student" in text
        panes = list(app.screen.query(AttemptPane))
        shown = []
        for _ in range(3):
            await press(pilot, "w")
            shown.append([pane.region.width > 0 for pane in panes])
        assert shown == [[True, False], [False, True], [True, True]]
        await press(pilot, "escape", "escape", "end", "enter")
        assert "this run has no attempt" in screen_text(app)

    student = run_of(tmp_path / "student", attempt(1, answer="no"), attempt(2), attempt(9))
    play(scene, run, student, size=(100, 30))


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        for keys in ((), ("enter",), ("a",), ("m",)):
            await press(pilot, *keys)
            text = screen_text(app)
            assert "[red]markup[/red]" in text and "\\x1b[2J" in text
            assert not {"\x1b", "\x9b", "\x07", "\u202e", "\r"} & set(text)

    step = Step(HOSTILE, HOSTILE, HOSTILE * 50, error=HOSTILE)
    hostile = attempt(
        1,
        question=HOSTILE,
        answer=HOSTILE,
        steps=(step,),
        messages=tuple({"role": r, "content": HOSTILE} for r in ("system", "user", "assistant")),  # type: ignore[misc]
    )
    play(scene, run_of(tmp_path / "run", hostile), size=(200, 80))


def test_wide_letters_keep_the_columns(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        text = screen_text(app)  # which checks that every line is as wide as the screen
        assert "大" in text and "answer" in text

    play(scene, run_of(tmp_path / "run", attempt(1, question="大" * 300), attempt(2, question="🙂 ё" * 99)))


def test_an_observation_of_two_megabytes(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        await press(pilot, "enter")
        assert "1,999,300 more characters" in screen_text(app)
        await press(pilot, "a")
        [long] = app.screen.query(LongText)
        assert "(1,980,000 characters more)" in str(long.content)

    big = attempt(1, steps=(Step("much", "print('x' * 2_000_000)", "x" * 2_000_000),))
    play(scene, run_of(tmp_path / "run", big), size=(80, 40))


def test_an_empty_run(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        assert "no attempts yet" in screen_text(app)
        await press(pilot, "enter", "end", "up", "s", "f", "m")
        assert len(app.screen_stack) == 1

    play(scene, run_of(tmp_path / "run", graded=False))


def test_a_run_without_scores(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        assert "1 ungraded" in screen_text(app)
        await press(pilot, "enter")
        assert "not graded" in screen_text(app)

    play(scene, run_of(tmp_path / "run", attempt(1), graded=False))


def test_without_colour(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(pilot: Pilot[None], app: InspectApp) -> None:
        for strip in app.screen._compositor.render_strips():
            for segment in strip.apply_filter(app._filters[0], app.screen.background_colors[1]):
                for color in (segment.style.color, segment.style.bgcolor) if segment.style else ():
                    triplet = color.triplet if color else None
                    assert triplet is None or len(set(triplet)) == 1, segment

    monkeypatch.setenv("NO_COLOR", "1")
    play(scene, run)


def test_a_big_run_shows_rows_before_it_is_read(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *[attempt(i) for i in range(3000)])

    async def played() -> None:
        index = RunIndex(run)
        app = InspectApp(index)
        async with app.run_test(size=(80, 24)) as pilot:
            await asyncio.wait_for(app.filled.wait(), 20)
            await press(pilot, "end")
            assert app.table.cursor == 2999 and "t2999" in screen_text(app)
            assert len(app.table._rows) <= 200
        index.close()

    asyncio.run(played())


# ---------------------------------------------------------------------- without a screen


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "agentdistill", "inspect", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_lines_where_there_is_no_terminal(run: Path) -> None:
    done = command(run, "--only", "wrong", "--sort=-tokens_out")
    assert done.returncode == 0 and done.stderr == ""
    head, *lines = done.stdout.splitlines()
    assert head.split()[0] == "task" and [line.split()[1] for line in lines] == ["t3", "t2"]


def test_json(run: Path, tmp_path: Path) -> None:
    found = json.loads(command(run, "--json", "--limit", 2).stdout)
    assert [(row["task"], row["correct"], row["steps"]) for row in found] == [
        ("t1", True, 1),
        ("t2", False, 1),
    ]
    student = run_of(tmp_path / "student", attempt(1, answer="no"))
    [pair, *_] = json.loads(command(run, student, "--json").stdout)
    assert pair["change"] == "lost" and (pair["first"]["right"], pair["second"]["right"]) == (1, 0)
    empty = run_of(tmp_path / "empty", graded=False)
    assert json.loads(command(empty, "--json").stdout) == []


def test_wrong_calls_are_one_line(run: Path, tmp_path: Path) -> None:
    for arguments, code in (
        ((tmp_path / "missing",), 2),
        ((run, "--only", "foo"), 2),
        ((run, "--sort", "foo"), 2),
        ((run, run, run), 2),
        ((tmp_path,), 1),
    ):
        done = command(*arguments)
        assert done.returncode == code and done.stdout == "" and done.stderr.count("\n") == 1, arguments


def test_the_page(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    hostile = attempt(5, question=HOSTILE, steps=(Step(HOSTILE, HOSTILE, HOSTILE),), answer=HOSTILE)
    with RunWriter(run, stage="eval", shape={"model": "fake"}, asked={}) as writer:
        writer.append(hostile)
    assert command(run, "--html", page).returncode == 0
    text = page.read_text()
    assert (
        "<script" not in text and "default-src &#x27;none&#x27;" not in text and "default-src 'none'" in text
    )
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\r"} & set(text)
    assert "&lt;script&gt;" in text and text.count('<details class="entry">') == 5
    assert "4 candidates, the chosen result has 2 of the votes" in text
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    assert command(run, "--html", page, "--limit", 1).returncode == 0
    assert "1 of 5 attempts" in page.read_text()
