"""The chat screen: every command and key, by Textual's pilot, over a real jail."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_scenes import SCENES, SETTINGS, SIZE, action, ask, make_app, picture, screen, texts, until
from textual import events
from textual.pilot import Pilot
from textual.widgets import Collapsible

from agentdistill.agent.knowledge import Knowledge
from agentdistill.errors import ModelError, RetrieverError, UnknownModelError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.runs import read_trajectories
from agentdistill.tui.chat import ChatApp
from agentdistill.tui.chat_approval import Approval
from agentdistill.tui.chat_history import History
from agentdistill.tui.chat_input import LONGEST_PASTE, HistorySearch
from agentdistill.types import Json, Limits, Passage, Recollection, Task

ROOT = Path(__file__).parents[2]
Play = Callable[[Pilot[Any], ChatApp], Awaitable[None]]


def play(app: ChatApp, scene: Play, size: tuple[int, int] = SIZE) -> None:
    """Run a scene on a screen of this size, once the conversation is open."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.conversation is not None and "sandbox ready" in screen(app))
            await scene(pilot, app)

    try:
        asyncio.run(run())
    finally:
        app.end()
    if app.error is not None:
        raise app.error


async def command(pilot: Pilot[Any], app: ChatApp, line: str, answer: str) -> None:
    """Give a command and wait for what the screen says to it, however it is wrapped."""
    await ask(pilot, line)
    await until(pilot, lambda: " ".join(answer.split()) in " ".join(screen(app).split()))


# A turn


def test_a_question_its_steps_and_its_answer() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await pilot.press(*"what", "space", *"is", "space", "6")
        await pilot.press("enter")
        await until(pilot, lambda: "= 42" in screen(app))
        shown = screen(app)
        assert "› what is 6" in shown and "Multiply." in shown and "final_answer(6 * 7)" in shown
        assert "step 1:" in shown and "hello" in shown
        assert app.prompt.text == "" and not app.in_turn
        assert re.search(r"[1-9]\d* tok · .*cost unknown", shown)

    play(make_app([action("print('hello')\nfinal_answer(6 * 7)", "Multiply.")]), scene)


def test_text_streams_and_the_clock_ticks_while_code_runs() -> None:
    model = ScriptedModel([action("import time\ntime.sleep(3)\nfinal_answer(1)", "word " * 30)], pause=0.03)

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "go")
        await until(pilot, lambda: "thinking" in screen(app) and "word word" in screen(app))
        assert "time.sleep" not in screen(app), "not all of it at once"
        await until(pilot, lambda: "running 0." in screen(app) and "sandbox running" in screen(app))
        await until(pilot, lambda: "running 2." in screen(app))
        await until(pilot, lambda: "= 1" in screen(app))

    play(make_app(model), scene)


def test_votes_are_cards() -> None:
    replies = [action(f"final_answer({value})") for value in (2, 3, 2)]

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "vote")
        await until(pilot, lambda: "vote: 2 of 3 agree" in screen(app))
        assert "● candidate 1: 2 votes, answers 2" in screen(app)
        assert "n=3" in screen(app)

    play(make_app(replies, replace(SETTINGS, candidates=3)), scene)


def test_a_long_observation_is_folded_and_opens() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "count")
        await until(pilot, lambda: "= 1" in screen(app))
        assert "observation: 40 lines" in screen(app) and "\n    39" not in screen(app)
        card = app.query_one(Collapsible)
        card.query_one("CollapsibleTitle").focus()
        await pilot.press("enter")
        await until(pilot, lambda: not card.collapsed and "   14\n" in screen(app))
        await pilot.press("escape")
        assert app.focused is app.prompt

    play(make_app([action("for i in range(40): print(i)\nfinal_answer(1)")]), scene)


def test_two_megabytes_and_control_codes_and_wide_letters() -> None:
    nasty = "print('\\x1b[31m\\x1b]0;owned\\x07' + '\\u202e' + '漢字🙂' * 10 + 'x' * 2_000_000)"
    nasty += "\nfinal_answer('\\x1b[2J漢')"

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "much")
        await until(pilot, lambda: "= \\x1b[2J漢" in screen(app))
        await ask(pilot, "/vars")
        for strip in app.screen._compositor.render_strips():
            for segment in strip:
                assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", segment.text), segment
        app.query_one(Collapsible).collapsed = False
        await pilot.pause()
        assert "owned" in "".join(str(static.content) for static in app.query(".observation").results())
        assert "\x1b" not in app.export_screenshot()

    play(make_app([action(nasty)]), scene)


def test_an_answer_that_does_not_come() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "nothing")
        await until(pilot, lambda: "no answer" in screen(app))
        await ask(pilot, "limit")
        await until(pilot, lambda: "= It is 1.  (the step limit was reached)" in screen(app))

    play(make_app([action("final_answer(None)"), *[action("print(1)")] * 3, "It is 1."]), scene)


# Stopping, and what breaks


def test_ctrl_c_stops_the_step_and_gives_the_question_back() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "sleep")
        await until(pilot, lambda: "running" in screen(app))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "stopped: it is as if you had not asked" in screen(app))
        assert app.prompt.text == "sleep" and not app.in_turn and app.is_running
        app.prompt.clear()
        await ask(pilot, "again")
        await until(pilot, lambda: "= 2" in screen(app))

    play(make_app([action("import time\ntime.sleep(60)"), action("final_answer(2)")]), scene)


def test_ctrl_c_leaves_a_model_that_hangs() -> None:
    let_go = threading.Event()

    def hang(messages: Sequence[Any]) -> str:
        let_go.wait(60)
        return ""

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "hang")
        await until(pilot, lambda: "thinking" in screen(app))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "stopped" in screen(app))
        let_go.set()

    play(make_app(ScriptedModel(hang)), scene)


def test_ctrl_c_without_a_turn_leaves_nothing_and_copies_a_selection() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await pilot.press("ctrl+c")
        assert app.is_running
        app.prompt.put("copied")
        app.prompt.select_all()
        await pilot.press("ctrl+c")
        assert app.clipboard == "copied" and app.prompt.text == "copied"

    play(make_app([""]), scene)


def test_what_breaks_is_one_line_and_the_conversation_goes_on() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "break")
        await until(pilot, lambda: "the engine is gone (start it again)" in screen(app))
        assert app.prompt.text == "break"
        await pilot.press("enter")
        await until(pilot, lambda: "= 1" in screen(app))

    play(make_app([ModelError("the engine is gone", "start it again"), action("final_answer(1)")]), scene)


def test_a_sandbox_that_dies() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "one")
        await until(pilot, lambda: "= 1" in screen(app))
        assert app.conversation is not None and app.conversation._sandbox._session is not None
        app.conversation._sandbox._session._link._stream.close()
        await ask(pilot, "two")
        await until(pilot, lambda: "sandbox lost" in screen(app))
        await pilot.press("enter")
        await until(pilot, lambda: "= 2" in screen(app) and "sandbox ready" in screen(app))

    play(make_app([action("final_answer(1)"), *[action("final_answer(2)")] * 2]), scene)


def test_what_keeps_it_from_opening_ends_the_program_with_that_error() -> None:
    def conversation(*_: Any) -> Any:
        raise UnknownModelError("no model 'x'", "give another")

    app = make_app([""], conversation=conversation)

    async def run() -> None:
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: not app.is_running)

    asyncio.run(run())
    app.end()
    assert isinstance(app.error, UnknownModelError)


def test_a_question_may_be_sent_while_the_model_opens() -> None:
    opening = threading.Event()
    app = make_app([action("final_answer(1)")])
    conversation = app.parts.conversation

    def slowly(*given: Any) -> Any:
        opening.wait(20)
        return conversation(*given)

    app.parts = replace(app.parts, conversation=slowly)

    async def run() -> None:
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: "Opening scripted" in screen(app))
            await ask(pilot, "early")
            assert "› early" in screen(app)
            await ask(pilot, "/tools")
            await until(pilot, lambda: "still being opened" in screen(app))
            opening.set()
            await until(pilot, lambda: "= 1" in screen(app))

    asyncio.run(run())
    app.end()


def test_a_second_question_waits_in_its_place() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "sleep")
        await until(pilot, lambda: "running" in screen(app))
        await ask(pilot, "second")
        await until(pilot, lambda: "one question at a time" in screen(app))
        assert app.prompt.text == "second"
        app.prompt.clear()
        await ask(pilot, "/undo")
        await until(pilot, lambda: "/undo waits for the turn to end" in screen(app))
        app.prompt.clear()
        await command(pilot, app, "/tools", "final_answer")
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not app.in_turn)

    play(make_app([action("import time\ntime.sleep(60)")]), scene)


# Keys


def test_lines_history_and_its_search() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await pilot.press("a", "ctrl+j", "b")
        assert app.prompt.text == "a\nb"
        await pilot.press("up")
        assert app.prompt.text == "a\nb", "inside the text up is a line up"
        await pilot.press("up")
        assert app.prompt.text == "count words"
        await pilot.press("up")
        assert app.prompt.text == "count primes"
        await pilot.press("down", "down")
        assert app.prompt.text == "a\nb"
        await pilot.press("ctrl+r")
        assert isinstance(app.screen, HistorySearch)
        await pilot.press(*"prim")
        await pilot.press("enter")
        await until(pilot, lambda: app.prompt.text == "count primes")
        for key in ("escape", "ctrl+c"):
            await pilot.press("ctrl+r")
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(app.screen, HistorySearch))
        assert app.prompt.text == "count primes"
        await pilot.press("ctrl+r")
        await pilot.press("down")
        await pilot.press("enter")
        await until(pilot, lambda: app.prompt.text == "count primes")

    past = History()
    past.add("count primes")
    past.add("count words")
    play(make_app([""], history=past), scene)


def test_paste() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        app.prompt.post_message(events.Paste("one\r\ntwo\n\x1b[31mthree\n" + "line\n" * 2_000))
        await until(pilot, lambda: "three" in app.prompt.text)
        assert app.prompt.text.startswith("one\ntwo\n\\x1b[31mthree\nline\n"), "and nothing was sent"
        assert app.prompt.document.line_count == 2_004
        app.prompt.clear()
        app.prompt.post_message(events.Paste("x" * (LONGEST_PASTE + 1)))
        await until(pilot, lambda: "too many to paste" in screen(app))
        assert app.prompt.text == ""

    play(make_app([""]), scene)


def test_themes_and_scrolling() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        assert app.current_theme.dark
        await pilot.press("ctrl+t")
        assert app.theme == "textual-light"
        await command(pilot, app, "/theme dark", "")
        assert app.theme == "textual-dark"
        await command(pilot, app, "/theme nothing", "there is no theme nothing")
        app.prompt.clear()
        await command(pilot, app, "/help", "@FILE in a question")
        assert app.talk.scroll_y > 0
        await pilot.press("pageup", "pageup", "pageup")
        assert app.talk.scroll_y == 0
        await pilot.press("pagedown", "pagedown", "pagedown")
        assert app.talk.scroll_y == app.talk.max_scroll_y

    play(make_app([""]), scene)


@pytest.mark.parametrize("leave", ["ctrl+q", "/quit"])
def test_leaving_ends_a_turn(leave: str) -> None:
    app = make_app([action("import time\ntime.sleep(60)")])

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "sleep")
        await until(pilot, lambda: "running" in screen(app))
        if leave.startswith("/"):
            await ask(pilot, leave)
        else:
            await pilot.press(leave)
        for _ in range(100):
            if not app.is_running:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("it goes on")

    play(app, scene)
    assert app.conversation is not None and not app.conversation.busy


# Commands


def test_undo_retry_vars_right_save_load_export(tmp_path: Path) -> None:
    script = [
        action("x = 1\nfinal_answer(x)"),
        action("x = 2\nfinal_answer(x)"),
        action("x = 3\nfinal_answer(x)"),
    ]

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await command(pilot, app, "/undo", "there is no turn yet")
        app.prompt.clear()
        await ask(pilot, "first")
        await until(pilot, lambda: "= 1" in screen(app))
        await ask(pilot, "second")
        await until(pilot, lambda: "= 2" in screen(app))
        await command(pilot, app, "/vars", "x                int          2")
        await command(pilot, app, "/undo", "undone: second")
        assert "= 2" not in screen(app)
        await command(pilot, app, "/vars", "x                int          1")
        await ask(pilot, "/retry")
        await until(pilot, lambda: "= 3" in screen(app))
        assert len(app._views) == 1 and "= 1" not in screen(app)
        await command(pilot, app, "/right 4", "noted as right: 4")
        await command(pilot, app, f"/save {tmp_path / 'saved'}", "agentdistill grade")
        await command(pilot, app, f"/save {tmp_path / 'saved'}", "give another folder")
        app.prompt.clear()
        await command(pilot, app, f"/export messages {tmp_path / 'out.jsonl'}", "1 turns written to")
        await command(pilot, app, "/export messages", "and a file")
        app.prompt.clear()
        await command(pilot, app, f"/load {tmp_path / 'nowhere'}", "is not a RUN")
        app.prompt.clear()
        await command(pilot, app, f"/load {tmp_path / 'saved'}", "1 turns of")
        assert "› first" in screen(app) and "= 3" in screen(app)

    play(make_app(script, out=tmp_path / "run"), scene)
    [saved] = read_trajectories(tmp_path / "saved")
    assert (saved.answer, saved.task.answer) == ("3", "4")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_conversation_is_gone_on_with(tmp_path: Path) -> None:
    async def first(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "first")
        await until(pilot, lambda: "= 1" in screen(app))

    async def second(pilot: Pilot[Any], app: ChatApp) -> None:
        assert "› first" in screen(app) and "variables are not there any more" in screen(app)

    play(make_app([action("final_answer(1)")], out=tmp_path / "run"), first)
    play(make_app([""], out=tmp_path / "run"), second)


def test_model_and_candidates() -> None:
    def opened(spec: str) -> Any:
        if spec == "wrong":
            raise UnknownModelError("no model 'wrong'", "give another")
        return ScriptedModel([action("final_answer('other')")], model_id="other"), None

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await command(pilot, app, "/model", "the model is scripted")
        await command(pilot, app, "/model wrong", "no model 'wrong' (give another)")
        await command(pilot, app, "/model other", "agentdistill chat · other")
        await command(pilot, app, "/candidates many", "a number from 1 to 64")
        app.prompt.clear()
        await command(pilot, app, "/candidates 2", "2 candidates a step")
        await ask(pilot, "who?")
        await until(pilot, lambda: "vote: 2 of 2 agree" in screen(app) and "= other" in screen(app))

    play(make_app([""], open_model=opened), scene)


class Found:
    """A Retriever with one passage; `down` takes it away."""

    down = False

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if self.down:
            raise RetrieverError("no retriever answers", "start it")
        return [[Passage("p", "Paris [bold]", "Capital of France \x1b[31m", 1.5)] for _ in queries]

    def fingerprint(self) -> dict[str, Json]:
        return {"index": "small"}


class Notes:
    def recall(self, query: str, task: Task, tools: Sequence[str] = ()) -> Recollection:
        return Recollection(("e1",), "Count carefully.", "lexical")

    def fingerprint(self) -> dict[str, Json]:
        return {"entries": 1}


def test_retriever_and_knowledge_base_come_as_cards_and_go() -> None:
    found = Found()
    script = [
        action("final_answer(search('[b]Paris'))"),
        action("print(search('again'))"),
        action("final_answer(0)"),
    ]
    app = make_app(script, retriever=lambda _: found, knowledge=lambda _: Knowledge(Notes()))

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await command(pilot, app, "/retriever", "search is off")
        await command(pilot, app, "/retriever idx/small", "search looks in idx/small")
        await command(pilot, app, "/kb my/notes", "notes come from my/notes")
        await command(pilot, app, "/tools", "Looks facts up")
        await until(pilot, lambda: "search small │ kb notes" in screen(app))
        await ask(pilot, "where?")
        await until(pilot, lambda: "= [1] Paris [bold]: Capital of France" in screen(app))
        assert "search: 1 passages for [b]Paris" in screen(app) and "knowledge base: e1" in screen(app)
        found.down = True
        await ask(pilot, "down?")
        await until(pilot, lambda: "no retriever answers (start it)" in screen(app))
        app.prompt.clear()
        await command(pilot, app, "/retriever off", "no search any more")
        await command(pilot, app, "/kb off", "no knowledge base any more")
        await ask(pilot, "off?")
        await until(pilot, lambda: "= 0" in screen(app))

    play(app, scene, size=(100, 40))


def test_approval() -> None:
    script = [
        action("x = 1\nfinal_answer(x)"),
        action("final_answer('x' in dir())"),
        action("final_answer(3)"),
    ]

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await command(pilot, app, "/approve maybe", "takes on or off")
        app.prompt.clear()
        await command(pilot, app, "/approve on", "code waits for your yes")
        await ask(pilot, "try")
        await until(pilot, lambda: isinstance(app.focused, Approval))
        assert "Run this code?" in screen(app)
        await pilot.press("n")
        await until(pilot, lambda: "did not allow" in screen(app) and isinstance(app.focused, Approval))
        await pilot.press("y")
        await until(pilot, lambda: "= False" in screen(app))
        assert app.focused is app.prompt
        await ask(pilot, "stop")
        await until(pilot, lambda: isinstance(app.focused, Approval))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "stopped" in screen(app) and not app.query(Approval))
        app.prompt.clear()
        await command(pilot, app, "/approve off", "code runs without asking")
        await ask(pilot, "free")
        await until(pilot, lambda: "= 3" in screen(app))

    play(make_app(script), scene)


def test_a_file_in_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").write_text("1 2 3")
    (tmp_path / ".secret").write_text("key")

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "read @.secret")
        await until(pilot, lambda: "@.secret is hidden" in screen(app))
        assert app.prompt.text == "read @.secret" and not app.in_turn
        app.prompt.clear()
        await ask(pilot, "sum @numbers.txt")
        await until(pilot, lambda: "= 6" in screen(app))

    play(make_app([action("final_answer(sum(map(int, open('numbers.txt').read().split())))")]), scene)


def test_what_is_printed_is_a_line_without_colours() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        app.post_message(events.Print("\x1b[1;31mwarning\x1b[0m: not isolated\n", stderr=True))
        await until(pilot, lambda: " warning: not isolated" in screen(app))

    play(make_app([""]), scene)


def test_a_wrong_command_gives_the_line_back() -> None:
    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await command(pilot, app, "/undoo", "there is no command /undoo (/undo?)")
        assert app.prompt.text == "/undoo"

    play(make_app([""]), scene)


# Sizes, colours, pictures


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
def test_any_size(size: tuple[int, int]) -> None:
    async def run() -> None:
        app = make_app([action("final_answer(1)")], replace(SETTINGS, limits=Limits(seconds=10)))
        async with app.run_test(size=size) as pilot:
            await ask(pilot, "one " * 40)
            await until(pilot, lambda: "= 1" in screen(app))
        app.end()

    asyncio.run(run())


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scene(pilot: Pilot[Any], app: ChatApp) -> None:
        await ask(pilot, "one")
        await until(pilot, lambda: "= 1" in screen(app))
        colours = {
            (segment.style.color.triplet, segment.style.bgcolor and segment.style.bgcolor.triplet)
            for strip in app.screen._compositor.render_strips()
            for segment in strip.apply_filter(app._filters[-1], app.background_colors[1])
            if segment.style is not None and segment.style.color is not None
        }
        for pair in colours:
            for triplet in filter(None, pair):
                assert triplet.red == triplet.green == triplet.blue, "grey only"

    play(make_app([action("final_answer(1)")]), scene)


@pytest.mark.parametrize("name", list(SCENES))
def test_the_pictures_of_the_docs_are_what_is_drawn(name: str) -> None:
    def steady(svg: str) -> list[str]:
        lines = [re.sub(r"[\d.,]+", "0", line).rstrip(" ▁▂▃▄▅▆▇█") for line in texts(svg).splitlines()]
        return [line for line in lines if line.strip()]

    stored = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text()
    assert steady(asyncio.run(picture(name))) == steady(stored), "python tests/chat_scenes.py docs/pictures"
    assert json.dumps(stored).isascii() or "\x1b" not in stored
