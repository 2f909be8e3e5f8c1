"""Where one types: several lines, history, pasted text; and the search through the history.

Guaranteed: a paste never sends anything, and its control codes are made visible; one that is too long is
refused and nothing of it is inserted.
"""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static, TextArea
from textual.widgets.option_list import Option

from agentdistill.tui.chat_history import History
from agentdistill.visible import visible, visible_line

LONGEST_PASTE = 100_000
"""Characters: far beyond what a context holds."""
SHOWN = 50
"""Entries that a search shows at most."""


class Prompt(TextArea):
    """Enter sends; Ctrl-J and, where the terminal tells it, Shift-Enter or Alt-Enter begin a new line."""

    DEFAULT_CSS = """
    Prompt { height: auto; max-height: 8; min-height: 3; border: round $primary-muted; padding: 0 1; }
    Prompt:focus { border: round $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+j,shift+enter,alt+enter", "new_line", "New line", show=False),
    ]

    class Sent(Message):
        """Enter was pressed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Refused(Message):
        """A paste was too long."""

        def __init__(self, characters: int) -> None:
            super().__init__()
            self.characters = characters

    def __init__(self, past: History) -> None:
        super().__init__(
            show_line_numbers=False,
            soft_wrap=True,
            tab_behavior="focus",
            highlight_cursor_line=False,
            placeholder="Ask, or /help.  Enter sends, Ctrl-J is a new line, @file gives a file.",
        )
        self.past = past

    def put(self, text: str) -> None:
        """Have this text, the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def action_new_line(self) -> None:
        self.insert("\n")

    async def _on_key(self, event: events.Key) -> None:
        row, _ = self.cursor_location
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            text = self.text
            if text.strip():
                self.past.add(text)
                self.clear()
                self.post_message(self.Sent(text))
            return
        moved = None  # other keys are TextArea's own affair
        if event.key == "up" and row == 0:
            moved = self.past.back(self.text)
        elif event.key == "down" and row == self.document.line_count - 1:
            moved = self.past.forward()
        if moved is not None:
            event.stop()
            event.prevent_default()
            self.put(moved)

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        if len(event.text) > LONGEST_PASTE:
            self.post_message(self.Refused(len(event.text)))
            return
        text = visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)


class HistorySearch(ModalScreen[str | None]):
    """Choose one of the things typed before."""

    DEFAULT_CSS = """
    HistorySearch { align: center bottom; }
    HistorySearch > Vertical { height: auto; max-height: 80%; border: round $primary; background: $surface; }
    HistorySearch OptionList { height: auto; max-height: 12; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c,ctrl+r", "leave", "Leave", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
    ]

    def __init__(self, past: History) -> None:
        super().__init__()
        self._past = past
        self._found: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content("Search what you typed: words; Enter takes, Escape leaves"))
            yield OptionList()
            yield Input(placeholder="words", compact=True)

    def on_mount(self) -> None:
        self._list("")
        self.query_one(Input).focus()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        self._list(event.value)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        at = self.query_one(OptionList).highlighted
        self.dismiss(self._found[at] if at is not None and at < len(self._found) else None)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index])

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        if self._found:
            options.highlighted = ((options.highlighted or 0) + by) % len(self._found)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _list(self, words: str) -> None:
        self._found = self._past.search(words)[:SHOWN]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(Content(visible_line(text, 150))) for text in self._found])
        options.highlighted = 0 if self._found else None
