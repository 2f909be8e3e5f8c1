"""`agentdistill models list`, `pull` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Named models and exports.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: o.AsJson = False) -> None:
    """Show the catalog and what is here already.

    Example: agentdistill models list
    """
    from agentdistill import catalog
    from agentdistill.cli.console import print_json

    if as_json:
        print_json(
            [
                {
                    "name": entry.name,
                    "title": entry.title,
                    "bytes": entry.size,
                    "sha256": entry.sha256,
                    "licence": entry.licence,
                    "cached": str(catalog.cached(entry.name) or "") or None,
                }
                for entry in catalog.entries()
            ]
        )
        return
    for entry in catalog.entries():
        state = "here" if catalog.cached(entry.name) else "not fetched"
        typer.echo(f"{entry.name:<22}{entry.title:<38}{entry.size / 1e9:>6.2f} GB  {state}")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Catalog name.")],
    as_json: o.AsJson = False,
) -> None:
    """Fetch a catalog model.

    Example: agentdistill models pull qwen2.5-coder-1.5b
    """
    from agentdistill import catalog
    from agentdistill.cli.console import Bars, print_json
    from agentdistill.stages.progress import fetching

    path = catalog.fetch(name, fetching(name, Bars()))
    if as_json:
        print_json({"name": name, "path": str(path), "sha256": catalog.entry(name).sha256})
    else:
        typer.echo(path)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="CHECKPOINT folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="GGUF file to write.")],
    gguf: Annotated[str, typer.Option("--gguf", help="f32, f16, q8_0 or q4_0.")] = "q8_0",
) -> None:
    """Export a student for llama.cpp; serve it with llamacpp:FILE.

    Example: agentdistill models export checkpoints/student --gguf f16 -o student.gguf
    """
    from agentdistill.errors import UsageError
    from agentdistill.training.export import QUANTS, export_gguf

    for quant in QUANTS:
        if quant == gguf:
            export_gguf(checkpoint, out, quant)
            typer.echo(out)
            return
    raise UsageError(f"--gguf {gguf!r}: give one of {', '.join(QUANTS)}")
