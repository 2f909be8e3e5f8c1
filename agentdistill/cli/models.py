"""`agentdistill models list`, `pull`, `export`, `merge` and `push`."""

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


@app.command()
def merge(
    models: Annotated[
        list[str], typer.Argument(help="CHECKPOINT folders, GGUF files or catalog names, two or more.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the merged model.")],
    weights: Annotated[
        str | None, typer.Option(help="One a model, with commas, summing to 1. [default: equal]")
    ] = None,
) -> None:
    """Average checkpoints, as Balanced Actor Initialization does; tokenizer and prompts are the first one's.

    Example: agentdistill models merge student smollm2-135m -o merged --weights 0.9,0.1
    """
    from agentdistill.errors import UsageError
    from agentdistill.stages.train import student_base
    from agentdistill.training.merge import merge as run

    try:
        numbers = [float(part) for part in weights.split(",")] if weights else [1 / len(models)] * len(models)
    except ValueError as error:
        raise UsageError(f"--weights {weights!r}: give numbers with commas between them") from error
    typer.echo(run([student_base(name) for name in models], numbers, out))


@app.command()
def push(
    checkpoint: Annotated[Path, typer.Argument(help="CHECKPOINT folder.")],
    repository: Annotated[
        str | None, typer.Argument(help="NAME/MODEL on the hub; without it only the card is written.")
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="Graded RUN of this student, for the card. Repeatable.", show_default=False),
    ] = None,
    licence: Annotated[str, typer.Option(help="The student's licence (SPDX).")] = "apache-2.0",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Write the model card README.md into a checkpoint, and upload it to the Hugging Face hub.

    Example: agentdistill models push checkpoints/student me/student --scores runs/after
    """
    from agentdistill.stages.publish import push as upload
    from agentdistill.stages.publish import write_card

    typer.echo(write_card(checkpoint, scores or (), licence))
    if repository:
        typer.echo(upload(checkpoint, repository, private=private))
