"""`agentdistill inspect`: a RUN as a table, or two RUNs task by task, and each attempt as a page.

Guaranteed: the first rows are there before the whole RUN is read; keys are answered meanwhile; nothing is
written into a RUN. Not guaranteed: that rows appended while it is open are seen before `r` is pressed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from agentdistill.errors import AgentDistillError
from agentdistill.tui.inspect_index import RunIndex
from agentdistill.tui.inspect_listing import Attempts, Listing, Pairs, View
from agentdistill.tui.inspect_mask import load_mask_tokenizer, token_mask, turn_mask
from agentdistill.tui.inspect_page import FAINT, AttemptPane, AttemptScreen
from agentdistill.tui.inspect_table import RowTable
from agentdistill.visible import visible, visible_line

_POLL = 0.5
"""Seconds after which what has been read meanwhile is shown."""

_OF_THE_TABLE = {"search", "filter", "sort", "reverse", "clear", "reload"}


class InspectApp(App[None]):
    """The table of one or two RUNs. The indexes are filled here; whoever opened them closes them."""

    CSS = """
    #head { height: auto; max-height: 3; padding: 0 1; background: $panel; }
    #search { display: none; border: none; height: 1; padding: 0 1; background: $boost; }
    #search.open { display: block; }
    #status { height: auto; max-height: 3; padding: 0 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search"),
        Binding("f", "filter(1)", "Filter"),
        Binding("F", "filter(-1)", "Filter back", show=False),
        Binding("s", "sort(1)", "Sort"),
        Binding("S", "reverse", "Reverse"),
        Binding("escape", "clear", "All rows", show=False),
        Binding("r", "reload", "Reload"),
        Binding("d", "dark", "Light/dark"),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]
    TITLE = "agentdistill inspect"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, *indexes: RunIndex, view: View | None = None, tokenizer: Path | None = None) -> None:
        super().__init__()
        self.indexes = indexes
        self.listing: Listing = Attempts(indexes[0]) if len(indexes) == 1 else Pairs(*indexes)
        self.view = self.listing.checked(view or View())
        self.table = RowTable(self.listing, self.view)
        self.filled = asyncio.Event()
        self.tokenizer_folder = tokenizer
        self._tokenizer: Any = None
        self._stop = threading.Event()
        self._status = "reading"
        self._counts: list[str] = []
        # A terminal that says that it is light is believed, unless a theme was asked for.
        if "TEXTUAL_THEME" not in os.environ and os.environ.get("COLORFGBG", "").rpartition(";")[2] in (
            "7",
            "15",
        ):
            self.theme = "textual-light"

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Input(id="search", placeholder="text in the question, the answers or the id", compact=True)
        yield self.table
        yield Static(id="status", markup=False)
        yield Footer()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is done to the table is done in front of it."""
        return action not in _OF_THE_TABLE or len(self.screen_stack) == 1

    def on_mount(self) -> None:
        self.table.focus()
        self.action_reload()

    def on_unmount(self) -> None:
        self._stop.set()

    # ------------------------------------------------------------------ reading

    def action_reload(self) -> None:
        """Read what was appended, or graded, since."""
        self.filled.clear()
        self._fill()

    @work(thread=True, exclusive=True)
    def _fill(self) -> None:
        shown = 0.0
        single = isinstance(self.listing, Attempts)

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if time.monotonic() - shown >= _POLL:
                shown = time.monotonic()
                self.call_from_thread(self._show, f"reading, {100 * done // max(1, total)} %", single)

        problem = ""
        try:
            for index in self.indexes:
                index.fill(progress, self._stop)
            if not self._stop.is_set():
                self.listing.prepare()
                self._count()
        except AgentDistillError as error:
            problem = str(error)
        if not self._stop.is_set():
            problems = [problem, *(said for index in self.indexes for said in index.problems)]
            self.call_from_thread(self._show, "; ".join(filter(None, problems)), True)
            self.call_from_thread(self.filled.set)

    def _show(self, status: str, rows: bool = True) -> None:
        self._status = status
        if rows:
            self._show_rows()
        self._show_texts()

    def _show_rows(self) -> None:
        # While it is being read, all rows in their order need no query.
        whole = self.view == View() and isinstance(self.listing, Attempts)
        keys = array("q", range(1, self.listing.count() + 1)) if whole else self.listing.keys(self.view)
        self.table.show_rows(self.view, keys)

    def _show_texts(self) -> None:
        view, total = self.view, self.listing.count()
        what = self.listing.noun
        found = (
            f"{self.table.total:,} of {total:,} {what}" if self.table.total != total else f"{total:,} {what}"
        )
        parts = [found, *self._counts]
        if view.only != "all":
            parts.append(f"only {view.only}")
        if view.search:
            parts.append(f"with “{visible_line(view.search, 40)}”")
        self.query_one("#head", Static).update(
            Content.assemble((self.listing.name, "bold"), (f"  {' · '.join(parts)}", FAINT))
        )
        said = self._status or ("" if total else "no attempts yet")
        status = self.query_one("#status", Static)
        status.update(Content(visible(said, 400)))
        status.display = bool(said)

    def _count(self) -> None:
        """How many of all rows some filters let through: counted once, not at every key."""
        names = ("right", "wrong", "ungraded") if isinstance(self.listing, Attempts) else ("lost", "gained")
        counts = {name: self.listing.matching(name) for name in names}
        self._counts = [f"{count:,} {name}" for name, count in counts.items() if count]

    # ------------------------------------------------------------------ what is listed

    def _look(self, view: View) -> None:
        self.view = view
        self._show_rows()
        self._show_texts()

    def action_filter(self, by: int) -> None:
        names = list(self.listing.filters)
        self._look(replace(self.view, only=names[(names.index(self.view.only) + by) % len(names)]))

    def action_sort(self, by: int) -> None:
        names = ["", *(column.name for column, _ in self.table.columns())]
        at = names.index(self.view.sort) if self.view.sort in names else 0
        self._look(replace(self.view, sort=names[(at + by) % len(names)], descending=False))

    def action_reverse(self) -> None:
        self._look(replace(self.view, descending=not self.view.descending and bool(self.view.sort)))

    def action_search(self) -> None:
        box = self.query_one("#search", Input)
        box.value = self.view.search
        box.add_class("open")
        box.focus()

    def action_clear(self) -> None:
        """Leave the search box, or show all rows again in their order."""
        if self.query_one("#search", Input).has_class("open"):
            self._close_search()
        elif self.view != View():
            self._look(View())

    @on(Input.Submitted, "#search")
    def _searched(self, event: Input.Submitted) -> None:
        self._close_search()
        self._look(replace(self.view, search=event.value.strip()))

    def _close_search(self) -> None:
        self.query_one("#search", Input).remove_class("open")
        self.table.focus()

    @on(RowTable.Sorted)
    def _sorted(self, event: RowTable.Sorted) -> None:
        again = event.column == self.view.sort
        self._look(replace(self.view, sort=event.column, descending=again and not self.view.descending))

    def action_dark(self) -> None:
        self.theme = "textual-light" if self.theme == "textual-dark" else "textual-dark"

    # ------------------------------------------------------------------ an attempt

    @on(RowTable.Opened)
    def _opened(self) -> None:
        self.action_open_row(0)

    def action_open_row(self, by: int) -> None:
        """Open the row of the cursor, or the one after it or before."""
        self.table.cursor += by
        if self.table.key is not None:
            self.push_screen(AttemptScreen(self.listing.pages(self.table.key)))

    def action_mask(self) -> None:
        """The loss mask of the attempt that is open, in the front pane."""
        if self.table.key is None or not isinstance(self.screen, AttemptScreen):
            return
        panes = list(self.screen.query(AttemptPane))
        front = next((i for i, pane in enumerate(panes) if pane.has_focus_within), 0)
        index, n = self.listing.lines(self.table.key)[front]
        if n is not None:
            self._mask(index, n)

    @work(thread=True, group="mask", exclusive=True)
    def _mask(self, index: RunIndex, n: int) -> None:
        try:
            trajectory = index.trajectory(n)
            if self.tokenizer_folder is None:
                said = "Whole turns, by text: --tokenizer FOLDER_OR_GGUF shows it token by token."
                text: Any = turn_mask(trajectory)
            else:
                if self._tokenizer is None:
                    self.call_from_thread(self.notify, "reading the tokenizer")
                    self._tokenizer = load_mask_tokenizer(self.tokenizer_folder)
                said = f"Tokens by {self.tokenizer_folder}."
                text = token_mask(trajectory, self._tokenizer)
        except AgentDistillError as error:
            self.call_from_thread(self.notify, visible(str(error)), severity="error", markup=False)
            return
        self.call_from_thread(self.push_screen, MaskScreen(said, text))


class MaskScreen(Screen[None]):
    """What carries loss in an attempt, in colour and between ⟦ ⟧."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,m,left", "dismiss", "Back")]

    def __init__(self, said: str, text: Any) -> None:
        super().__init__()
        self._said, self._text = said, text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(Content.assemble(("Loss mask. ", "bold"), (visible(self._said), FAINT), "\n"))
            yield Static(self._text)
        yield Footer()

    async def action_dismiss(self, result: None = None) -> None:
        self.dismiss()
