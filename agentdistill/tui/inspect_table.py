"""A table of any number of rows: what is on the screen is fetched, nothing else.

Guaranteed: a row is one line, whatever is in it. Not guaranteed: straight columns for letters whose width the
terminal and Unicode's tables do not agree on.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from agentdistill.tui.inspect_listing import GAP, Column, Listing, View, fitted

_FETCHED = 200
"""Rows that are fetched at once, and held."""


class RowTable(ScrollView, can_focus=True):
    """Rows of a Listing with a cursor. Posts `Opened` for Enter, or a click on the row of the cursor;
    `Sorted` for a click on a column's head."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"head", "cursor", "right", "wrong", "faint"}
    DEFAULT_CSS = """
    RowTable { height: 1fr; overflow-x: hidden; background: $surface; }
    RowTable > .head { background: $panel; color: $text; text-style: bold; }
    RowTable > .cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    RowTable > .right { color: $text-success; }
    RowTable > .wrong { color: $text-error; }
    RowTable > .faint { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", show=False),
        Binding("home,g", "jump(0)", "First", show=False),
        Binding("end,G", "jump(-1)", "Last", show=False),
    ]
    cursor = reactive(0)

    class Opened(Message):
        """The row under the cursor is to be shown."""

    class Sorted(Message):
        """The rows are to be sorted by a column."""

        def __init__(self, column: str) -> None:
            super().__init__()
            self.column = column

    def __init__(self, listing: Listing, view: View) -> None:
        super().__init__()
        self.listing = listing
        self._view = view
        self._keys: Sequence[int] = array("q")
        self._rows: dict[int, dict[str, Any]] = {}

    @property
    def total(self) -> int:
        """Rows of the view."""
        return len(self._keys)

    @property
    def key(self) -> int | None:
        """The key of the row under the cursor."""
        return self._keys[self.cursor] if self.cursor < len(self._keys) else None

    def show_rows(self, view: View, keys: Sequence[int]) -> None:
        """Show other rows; the cursor stays on its row as long as that is among them."""
        before = self.key
        same_view, self._view = view == self._view, view
        self._keys = keys
        self._rows = {}
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        stays = self.cursor if same_view else 0
        self.cursor = keys.index(before) if before is not None and before in keys else stays
        # Rows may have gone without the cursor having moved: it must be on one of them.
        self.cursor = self.validate_cursor(self.cursor)
        self._follow()
        self.refresh()

    def columns(self) -> list[tuple[Column, int]]:
        """What this width has room for, with the width of each."""
        return self.listing.columns_for(self.scrollable_content_region.width or self.size.width)

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self._keys) - 1))

    def watch_cursor(self) -> None:
        self._follow()
        self.refresh()

    def action_open(self) -> None:
        if self._keys:
            self.post_message(self.Opened())

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_page(self, pages: int) -> None:
        self.cursor += pages * max(1, self.size.height - 2)

    def action_jump(self, to: int) -> None:
        self.cursor = to if to >= 0 else len(self._keys) - 1

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            at = 1
            for column, width in self.columns():
                at += width + GAP
                if event.x < at:
                    self.post_message(self.Sorted(column.name))
                    return
        row = self.scroll_offset.y + event.y - 1
        if 0 <= row < len(self._keys):
            if row == self.cursor:
                self.action_open()
            self.cursor = row

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._keys) + 1)
        self._follow()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._line([self._head(column) for column, _ in self.columns()], width, "head")
        number = self.scroll_offset.y + y - 1
        if number >= len(self._keys):
            return Strip.blank(width, self.rich_style)
        row = self._row(number)
        if row is None:
            return Strip.blank(width, self.rich_style)
        cells = [column.show(row[column.name]) for column, _ in self.columns()]
        return self._line(cells, width, "cursor" if number == self.cursor else "")

    def _head(self, column: Column) -> str:
        arrow = {True: "▼", False: "▲"}[self._view.descending] if column.name == self._view.sort else ""
        return f"{column.title}{arrow}"

    def _line(self, cells: Sequence[str], width: int, kind: str) -> Strip:
        base = self.get_component_rich_style(kind) if kind else self.rich_style
        segments = [Segment(" ", base)]
        for cell, (column, room) in zip(cells, self.columns(), strict=True):
            text = fitted(cell, room, column.right)
            segments += [Segment(text, base + self._style(cell, kind)), Segment(" " * GAP, base)]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, cell: str, kind: str) -> Style:
        name = {
            "✓": "right",
            "gained": "right",
            "✗": "wrong",
            "lost": "wrong",
            "·": "faint",
            "same": "faint",
        }.get(cell)
        if name is None or kind:
            return Style.null()
        return self.get_component_rich_style(name, partial=True)

    def _row(self, number: int) -> dict[str, Any] | None:
        if number not in self._rows:
            start = max(0, number - _FETCHED // 4)
            keys = self._keys[start : start + _FETCHED]
            found = {row["key"]: row for row in self.listing.rows(keys)}
            self._rows = {start + i: found[key] for i, key in enumerate(keys) if key in found}
        return self._rows.get(number)

    def _follow(self) -> None:
        """Keep the row of the cursor on the screen, under the head."""
        top, room = self.scroll_offset.y, max(1, self.size.height - 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + room:
            self.scroll_to(y=self.cursor - room + 1, animate=False)
