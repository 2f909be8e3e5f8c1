"""`agentdistill curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o


def curate(
    runs: Annotated[list[Path], typer.Argument(help="Graded RUN folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="DATA folder.")],
    prompt: o.Prompt = None,
    as_json: o.AsJson = False,
) -> None:
    """Keep the trajectories worth learning from, and say why the others were left out.

    Example: agentdistill curate runs/teacher -o data/teacher
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.prompts import load_prompts
    from agentdistill.stages.curate import curate as run
    from agentdistill.types import to_json

    summary = run(runs, out, load_prompts(prompt or "student"))
    if as_json:
        print_json(to_json(summary))
        return
    err.print(f"{summary.kept} rows kept in {summary.out}", markup=False)
    for reason, count in sorted(summary.rejected.items()):
        err.print(f"  {count:>5} rejected: {reason}")
    if not summary.kept:
        err.print("No row is left: nothing to train on.")
        raise typer.Exit(1)
