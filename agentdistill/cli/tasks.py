"""`agentdistill tasks make` and `tasks show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Make and look at tasks.", no_args_is_help=True)


@app.command()
def make(
    family: Annotated[str, typer.Argument(help="arithmetic or lookup.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file to write.")],
    n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same tasks.")] = 0,
    split: Annotated[str, typer.Option(help="train, or test (wordings that train never shows).")] = "train",
    levels: Annotated[str, typer.Option(help="Difficulty levels, such as 1,2.")] = "1,2,3",
) -> None:
    """Make tasks of a generated family.

    Example: agentdistill tasks make lookup -n 60 --seed 1 --split test -o heldout.jsonl
    """
    from agentdistill.cli.console import err
    from agentdistill.errors import UsageError
    from agentdistill.tasks.families import make_tasks
    from agentdistill.tasks.load import write_tasks

    try:
        numbers = tuple(int(level) for level in levels.split(","))
    except ValueError as error:
        raise UsageError(f"--levels {levels!r}: give numbers such as 1,2") from error
    if split not in ("train", "test"):
        raise UsageError(f"--split {split!r}: give train or test")
    write_tasks(out, make_tasks(family, n, seed, split=split, levels=numbers))  # type: ignore[arg-type]
    err.print(f"{n} tasks in {out}", markup=False)


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="Task file.")],
    limit: o.Limit = 5,
    skip_bad_rows: o.SkipBadRows = None,
    as_json: o.AsJson = False,
) -> None:
    """Show tasks as the loader reads them.

    Example: agentdistill tasks show tasks.jsonl --limit 3
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.tasks.load import load_tasks
    from agentdistill.types import to_json

    loaded = load_tasks(file, limit=limit, skip_bad_rows=bool(skip_bad_rows))
    for line in loaded.skipped:
        err.print(f"skipped {line}", markup=False)
    if as_json:
        print_json([to_json(task) for task in loaded.tasks])
        return
    for task in loaded.tasks:
        typer.echo(f"{task.id}  [{task.kind}]\n  {task.question}\n  -> {task.answer}")
        for name, data in task.meta.get("data", {}).items():
            typer.echo(f"  {name}: {len(data)} rows" if isinstance(data, list) else f"  {name}")
