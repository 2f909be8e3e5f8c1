"""Attempts on the screen: one as a page to read, or two beside each other.

Guaranteed: texts of others reach the screen through `visible` and never as markup; of each at most SHOWN
characters, and how many more there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.highlight import highlight
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Collapsible, Footer, Static

from agentdistill.evaluation.attempt import AttemptPage, Look, Part, Section, verdict_words
from agentdistill.visible import visible, visible_line

SHOWN = 20_000
"""Characters of one text that are shown."""
LEAD_LINES, LEAD = 8, 700
"""Lines and characters of a long text that are shown before it is opened."""
FAINT = "$foreground 65%"
"""The style of our own words between those of others."""


class LongText(Static, can_focus=True):
    """A text of which the beginning is shown; Enter or a click opens and folds it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "open", "Open/fold")]

    def __init__(self, text: str, label: str, classes: str) -> None:
        self._text, self._label = text, label
        self.folded = True
        super().__init__(self._content(), classes=classes, markup=False)

    def fold(self, folded: bool) -> None:
        self.folded = folded
        self.update(self._content())

    def action_open(self) -> None:
        self.fold(not self.folded)

    def on_click(self) -> None:
        self.action_open()

    def _content(self) -> Content:
        if not self.folded:
            return Content.assemble(_label(self._label), visible(self._text, SHOWN), ("\n▲ fold", FAINT))
        lead = "\n".join(self._text[: LEAD + 1].split("\n")[:LEAD_LINES])[:LEAD]
        lines, letters = self._text.count("\n", len(lead)), len(self._text) - len(lead)
        more = f"\n▼ {letters:,} more characters" + (f", {lines:,} lines" if lines else "")
        return Content.assemble(_label(self._label), visible(lead), (more, "$text-accent"))


class AttemptPane(VerticalScroll):
    """The page of one attempt; `heading` says whose it is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("space", "page_down", "Page down", show=False),
        Binding("g", "scroll_home", "Top", show=False),
        Binding("G", "scroll_end", "End", show=False),
    ]

    def __init__(self, heading: str, page: AttemptPage | str) -> None:
        super().__init__()
        self._heading, self._page = heading, page

    def compose(self) -> ComposeResult:
        page = self._page
        heading = [(f"{visible_line(self._heading, 200)}\n", FAINT)] if self._heading else []
        if isinstance(page, str):
            yield Static(
                Content.assemble(*heading, (visible(page, SHOWN), "$text-error")), classes="page-head"
            )
            return
        style = {True: "bold $text-success", False: "bold $text-error", None: f"bold {FAINT}"}[page.verdict]
        facts = " · ".join(f"{name} {visible_line(value, 200)}" for name, value in page.facts)
        yield Static(
            Content.assemble(
                *heading,
                (visible_line(page.title, 200), "bold"),
                "  ",
                (verdict_words(page.verdict), style),
                (f"\n{facts}", FAINT),
            ),
            classes="page-head",
        )
        for section in page.sections:
            yield from _section(section)


class AttemptScreen(Screen[None]):
    """One row of the table, opened: a pane, or two beside each other."""

    CSS = """
    AttemptScreen Horizontal { height: 1fr; }
    AttemptPane { width: 1fr; height: 1fr; padding: 0 1; }
    AttemptPane.beside { border-left: solid $panel; }
    AttemptScreen.one AttemptPane { display: none; }
    AttemptScreen.one AttemptPane.front { display: block; border-left: none; }
    .page-head { margin-bottom: 1; }
    .title { text-style: bold; color: $text-primary; margin-top: 1; }
    .question { text-style: bold; }
    .code { background: $boost; padding: 0 1; margin: 0 0 0 2; }
    .seen { margin: 0 0 0 2; border-left: solid $panel; padding-left: 1; }
    .error { margin: 0 0 0 2; border-left: solid $error; padding-left: 1; color: $text-error; }
    .note { margin: 0 0 0 2; color: $text-muted; }
    .prompt { margin: 0 0 1 0; }
    LongText:focus { background: $boost; border-left: solid $accent; }
    AttemptPane Collapsible { border-top: none; background: transparent; padding: 0; }
    AttemptPane CollapsibleTitle { padding: 0; }
    AttemptPane Contents { padding: 0 0 0 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,left,h", "back", "Back"),
        Binding("n,right", "turn(1)", "Next"),
        Binding("p", "turn(-1)", "Previous"),
        Binding("a", "all", "Open/fold all"),
        Binding("m", "app.mask", "Loss mask"),
        Binding("w", "wide", "One/both"),
        Binding("tab", "app.focus_next", "Next fold", show=False),
    ]

    def __init__(self, panes: Sequence[tuple[str, AttemptPage | str]]) -> None:
        super().__init__()
        self._panes = panes
        self._opened = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            for number, (heading, page) in enumerate(self._panes):
                pane = AttemptPane(heading, page)
                pane.add_class("beside" if number else "front")
                yield pane
        yield Footer()

    def on_mount(self) -> None:
        self.query(AttemptPane).first().focus()

    def action_back(self) -> None:
        self.dismiss()

    def action_turn(self, by: int) -> None:
        self.dismiss()
        self.app.call_later(self.app.run_action, f"open_row({by})")

    def action_all(self) -> None:
        self._opened = not self._opened
        for text in self.query(LongText):
            text.fold(not self._opened)
        for section in self.query(Collapsible):
            section.collapsed = not self._opened

    def action_wide(self) -> None:
        """Both panes, the first alone, the second alone."""
        panes = list(self.query(AttemptPane))
        if len(panes) < 2:
            return
        front = next(i for i, pane in enumerate(panes) if pane.has_class("front"))
        if not self.has_class("one"):
            self.add_class("one")
        elif front == 0:
            panes[0].remove_class("front")
            panes[1].add_class("front")
        else:
            self.remove_class("one")
            panes[1].remove_class("front")
            panes[0].add_class("front")
        next(pane for pane in panes if pane.has_class("front")).focus()


def _section(section: Section) -> Iterator[Widget]:
    title = Content(visible_line(section.title, 300))
    inner = [*(_part(part) for part in section.parts), *(w for s in section.sections for w in _section(s))]
    if section.folded:
        folded = Collapsible(*inner, title="", collapsed=True)
        folded.title = title  # type: ignore[assignment]  # as Content it is not read as markup
        yield folded
    else:
        yield Static(title, classes="title")
        yield from inner


def _part(part: Part) -> Widget:
    kind = str(part.look)
    if part.look is Look.CODE:
        return Static(highlight(visible(part.text, SHOWN), language="python"), classes=kind)
    if part.look in (Look.SEEN, Look.ERROR) and (len(part.text) > LEAD or part.text.count("\n") > LEAD_LINES):
        return LongText(part.text.strip("\n"), part.label, kind)
    return Static(Content.assemble(_label(part.label), visible(part.text.strip(), SHOWN)), classes=kind)


def _label(label: str) -> tuple[str, str]:
    return (f"{label}: " if label else "", f"bold {FAINT}")
