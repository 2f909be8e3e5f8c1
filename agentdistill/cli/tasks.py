"""`agentdistill tasks list`, `tasks make` and `tasks show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Make and look at tasks.", no_args_is_help=True)


@app.command("list")
def list_names(as_json: o.AsJson = False) -> None:
    """List the benchmarks that TASKS may name, and where each comes from.

    The folder that the environment variable AGENTDISTILL_DATA names is looked at first, then the hub.

    Example: agentdistill tasks list
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.tasks.benchmarks import BENCHMARKS, ENVIRONMENT, data_folder, splits_in_folder

    rows = []
    for benchmark in BENCHMARKS.values():
        hub = benchmark.hub
        row = {"name": benchmark.name, "about": benchmark.about, "folder": splits_in_folder(benchmark)}
        row |= {"hub": hub.repository, "splits": list(hub.splits), "subsets": [s for s in hub.subsets if s]}
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['name']:<17}{row['about']}")
        here = f"in the folder: {', '.join(row['folder'])}; " if row["folder"] else ""
        typer.echo(f"{'':<17}{here}on the hub: {row['hub']} ({', '.join(row['splits'])})")
        if row["subsets"]:
            typer.echo(f"{'':<17}subsets: {row['name']}/{', '.join(row['subsets'])}")
    folder = data_folder()
    err.print(
        f"The folder is {folder}." if folder else f"{ENVIRONMENT} names no folder; all come from the hub.",
        markup=False,
    )
    err.print("TASKS is NAME[/SUBSET][:SPLIT][@FIELD=VALUE,...] or a file, with a filter too.", markup=False)


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
    tasks: Annotated[str, typer.Argument(help="Task file, or a benchmark: math500, bbh/navigate.")],
    limit: o.Limit = 5,
    skip_bad_rows: o.SkipBadRows = None,
    as_json: o.AsJson = False,
) -> None:
    """Show tasks as the loader reads them.

    Example: agentdistill tasks show math500@level=1-2 --limit 3
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.tasks.load import load_tasks
    from agentdistill.types import to_json

    loaded = load_tasks(tasks, limit=limit, skip_bad_rows=bool(skip_bad_rows))
    for line in loaded.skipped:
        err.print(f"skipped {line}", markup=False)
    if as_json:
        print_json([to_json(task) for task in loaded.tasks])
        return
    for task in loaded.tasks:
        typer.echo(f"{task.id}  [{task.kind}]\n  {task.question}\n  -> {task.answer}")
        for name, data in task.meta.get("data", {}).items():
            typer.echo(f"  {name}: {len(data)} rows" if isinstance(data, list) else f"  {name}")
