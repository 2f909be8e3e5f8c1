"""`agentdistill inspect`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.tui.inspect_index import RunIndex
    from agentdistill.tui.inspect_listing import Listing, View

PAGE_ROWS = 500
"""Rows of an HTML page, where no --limit says otherwise: a browser takes seconds for some thousands."""
WIDTH = 160
"""Cells of a row where there is no terminal to ask."""


def inspect(
    runs: Annotated[
        list[Path], typer.Argument(help="RUN folder; or two, to see them task by task.", metavar="RUN [RUN]")
    ],
    html: Annotated[
        Path | None, typer.Option(help="Write the table and its attempts as one page.", show_default=False)
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            help="Rows: all, wrong, right, ungraded, unanswered, errors; of two runs: changed, lost, gained, "
            "same, unpaired."
        ),
    ] = "all",
    search: Annotated[
        str, typer.Option(help="Rows with this text in question, answers or id.", show_default=False)
    ] = "",
    sort: Annotated[
        str, typer.Option(help="Column; -COLUMN for the greatest first.", show_default=False)
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"Rows to print or write. \\[default: all; {PAGE_ROWS} with --html]",
            min=1,
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Model folder or GGUF, to see the loss mask token by token.", show_default=False),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Look at attempts: a table to sort, filter and search; Enter opens one with its steps, votes and tools.

    Without a terminal, or with --json, the rows are printed.

    Example: agentdistill inspect runs/teacher --only wrong
    """
    from agentdistill.cli.console import err
    from agentdistill.errors import UsageError
    from agentdistill.tui.inspect_index import RunIndex
    from agentdistill.tui.inspect_listing import View
    from agentdistill.visible import visible

    if len(runs) > 2:
        raise UsageError(f"{len(runs)} RUNs were given", "inspect shows one, or two beside each other")
    if tokenizer is not None and not tokenizer.exists():
        raise UsageError(f"{tokenizer} is not there", "give a model folder or a GGUF file")
    view = View(only, search, sort.removeprefix("-"), descending=sort.startswith("-"))
    indexes = [RunIndex(run) for run in runs]
    try:
        if html is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
            from agentdistill.tui.inspect import InspectApp

            InspectApp(*indexes, view=view, tokenizer=tokenizer).run()
            return
        listing = _listed(indexes, view)
        if html is not None:
            _write(html, listing, view, limit or PAGE_ROWS)
            err.print(f"written: {html}", markup=False)
        if as_json:
            _print_json(listing, view, limit)
        elif html is None:
            _print_rows(listing, view, limit)
        for index in indexes:
            for problem in index.problems:
                err.print(visible(problem), markup=False)
    finally:
        for index in indexes:
            index.close()


def _listed(indexes: list[RunIndex], view: View) -> Listing:
    from agentdistill.tui.inspect_listing import Attempts, Pairs

    listing = Attempts(indexes[0]) if len(indexes) == 1 else Pairs(*indexes)
    listing.checked(view)
    for index in indexes:
        index.fill()
    listing.prepare()
    return listing


def _print_rows(listing: Listing, view: View, limit: int | None) -> None:
    from agentdistill.tui.inspect_listing import fitted

    columns = listing.columns_for(shutil.get_terminal_size((WIDTH, 24)).columns)
    gap = "  "
    head = gap.join(fitted(column.title, room, column.right) for column, room in columns)
    sys.stdout.write(f"{head.rstrip()}\n")
    for row in listing.each(listing.keys(view, limit)):
        cells = (fitted(column.show(row[column.name]), room, column.right) for column, room in columns)
        sys.stdout.write(f"{gap.join(cells).rstrip()}\n")


def _print_json(listing: Listing, view: View, limit: int | None) -> None:
    """One array, a row a line: of any number of rows one is held."""
    sys.stdout.write("[")
    for number, row in enumerate(listing.records(listing.keys(view, limit))):
        sys.stdout.write(("," if number else "") + "\n" + json.dumps(row, ensure_ascii=False))
    sys.stdout.write("\n]\n")


def _write(path: Path, listing: Listing, view: View, limit: int) -> None:
    from agentdistill.evaluation.attempts_page import Entry, Heading, write_attempts

    keys = listing.keys(view, limit)
    matching = len(listing.keys(view))
    columns = [column for column, _ in listing.columns_for(WIDTH)]
    shown = f"{len(keys):,} of {matching:,}" if len(keys) < matching else f"{matching:,}"
    said = [f"{shown} {listing.noun}", f"only {view.only}" if view.only != "all" else ""]
    said += [f"with “{view.search}”" if view.search else "", f"by {view.sort}" if view.sort else ""]
    write_attempts(
        path,
        title=f"Inspected: {listing.name}",
        subtitle=", ".join(filter(None, said)),
        headings=[Heading(column.title, column.right) for column in columns],
        rows=([column.show(row[column.name]) for column in columns] for row in listing.each(keys)),
        entries=(
            Entry(f"{row['task']}: {row['question']}", listing.pages(row["key"]))
            for row in listing.each(keys)
        ),
    )
