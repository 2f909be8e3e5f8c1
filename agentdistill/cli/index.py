"""`agentdistill index build`, `add`, `remove`, `search`, `info`: the programs of retrievers/, with bars."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Make passages searchable, for the agent's search tool.", no_args_is_help=True)

ENCODER = "all-minilm-l6-v2"

Corpus = Annotated[
    str,
    typer.Argument(
        help="JSONL file of id, title, text (or id, contents); a folder of .txt, .md, .html; or hf:NAME of a "
        "data set."
    ),
]
Index = Annotated[Path, typer.Argument(help="INDEX folder.")]
EncoderFolder = Annotated[
    Path | None,
    typer.Option("--encoder", help=f"Folder of a sentence-transformers model. \\[default: {ENCODER}]"),
]


@app.command()
def build(
    corpus: Corpus,
    out: Annotated[Path, typer.Option("-o", "--out", help="INDEX folder; the same command resumes it.")],
    dense: Annotated[
        bool, typer.Option("--dense/--no-dense", help="By meaning too, not only by words.")
    ] = True,
    encoder: EncoderFolder = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: embed on all nodes of a Ray cluster, write here.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the cluster's head, or auto. \\[default: RAY_ADDRESS]"),
    ] = None,
    skip_bad_rows: o.SkipBadRows = None,
    as_json: o.AsJson = False,
) -> None:
    """Build an index of a corpus: by words (BM25) and by meaning (sentence embeddings).

    Example: agentdistill index build passages.jsonl -o wiki.index
    """
    arguments = [corpus, str(out), *(_encoder(encoder) if dense else []), *_cluster(engine, ray_address)]
    _report(_run("build", arguments, skip_bad_rows), f"{out}: ", as_json)


@app.command()
def add(
    index: Index,
    corpus: Corpus,
    encoder: EncoderFolder = None,
    skip_bad_rows: o.SkipBadRows = None,
    as_json: o.AsJson = False,
) -> None:
    """Add the passages of a corpus, without building the index again.

    Example: agentdistill index add wiki.index more.jsonl
    """
    arguments = [str(index), corpus, *(_encoder(encoder) if _has_vectors(index) else [])]
    _report(_run("add", arguments, skip_bad_rows), f"{index}: ", as_json)


@app.command()
def remove(
    index: Index,
    ids: Annotated[list[str], typer.Argument(help="Ids of passages.", metavar="ID...")],
    as_json: o.AsJson = False,
) -> None:
    """Remove passages by their ids, without building the index again.

    Example: agentdistill index remove wiki.index p17 p18
    """
    _report(_run("remove", [str(index), "--", *ids]), f"{index}: ", as_json)


@app.command()
def search(
    index: Index,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.", min=1, max=1000)] = 5,
    mode: Annotated[
        str | None,
        typer.Option(help="sparse (words), dense (meaning) or hybrid. \\[default: the best there is]"),
    ] = None,
    encoder: EncoderFolder = None,
    reranker: Annotated[
        Path | None,
        typer.Option(help="Folder of a cross-encoder that orders what was found.", show_default=False),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Show the passages that fit a query best, with its words highlighted.

    Example: agentdistill index search wiki.index "Who directed Maximum Overdrive?" -k 3
    """
    from agentdistill.cli.console import print_json

    arguments = ["-k", str(k), *(["--mode", mode] if mode else [])]
    if mode != "sparse" and _has_vectors(index):
        arguments += _encoder(encoder)
    arguments += ["--reranker", str(reranker)] if reranker else []
    found = _run("search", [*arguments, "--", str(index), query])
    if as_json:
        print_json(found)
        return
    _show(found["hits"], found["mode"])


@app.command()
def info(index: Index, as_json: o.AsJson = False) -> None:
    """Say what is in an index, and whether its checksums are right.

    Example: agentdistill index info wiki.index
    """
    from agentdistill.cli.console import print_json

    found = _run("info", [str(index)])
    if as_json:
        print_json(found)
        return
    encoder = found["encoder"]
    lines = {
        "passages": f"{found['passages']:,}",
        "removed": f"{found['removed']:,} since their segment was written",
        "segments": found["segments"],
        "size": f"{found['bytes'] / 1e6:,.1f} MB, checksums right",
        "encoder": f"{encoder['name']} ({encoder['sha256'][:12]})" if encoder else "none: words only",
        "fingerprint": found["fingerprint"],
        "source": found["made_with"].get("source", ""),
    }
    for name, value in lines.items():
        typer.echo(f"{name:<12}{value}")


# ---------------------------------------------------------------------- what is shown


def _report(done: dict[str, Any], head: str, as_json: bool) -> None:
    from agentdistill.cli.console import err, print_json

    if as_json:
        print_json(done)
    err.print(f"{head}{done['passages']:,} passages, {done['bytes'] / 1e6:,.1f} MB", markup=False)


def _show(hits: Sequence[dict[str, Any]], mode: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not hits:
        console.print("nothing found")
    for rank, hit in enumerate(hits, 1):
        head = Text(f"{rank:>2}. ")
        head.append(_printable(hit["title"] or hit["id"]), style="bold")
        head.append(f"  [{_printable(hit['id'])}]  {mode} {hit['score']:.4f}", style="dim")
        body = Text(_printable(hit["text"]))
        for start, end in hit["marks"]:
            body.stylize("bold yellow", start, end)
        console.print(head)
        console.print(body, soft_wrap=not console.is_terminal)
        console.print()


def _printable(text: str) -> str:
    """A corpus may come from anywhere: nothing of it reaches the terminal as a control sequence."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


# ---------------------------------------------------------------------- the program that does it


def _cluster(engine: str, address: str | None) -> list[str]:
    from agentdistill.errors import UsageError

    if engine not in ("local", "ray"):
        raise UsageError(f"no engine is called {engine!r}", "local or ray")
    if engine == "local":
        if address is not None:
            raise UsageError("--ray-address needs --engine ray")
        return []
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UsageError("which Ray cluster?", "give --ray-address HOST:PORT or set RAY_ADDRESS")
    return ["--ray-address", address]


def _encoder(folder: Path | None) -> list[str]:
    from agentdistill import catalog
    from agentdistill.cli.console import Bars
    from agentdistill.stages.progress import fetching

    return ["--encoder", str(folder or catalog.fetch(ENCODER, fetching(ENCODER, Bars())))]


def _has_vectors(index: Path) -> bool:
    """Whether the index needs an encoder. What is wrong with it, the program says."""
    try:
        return bool(json.loads((index / "manifest.json").read_text(encoding="utf-8"))["encoder"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _run(command: str, arguments: Sequence[str], skip_bad_rows: bool | None = None) -> dict[str, Any]:
    """What the program says at its end; its progress becomes bars. Its errors are ours."""
    from agentdistill.cli.console import Bars
    from agentdistill.errors import InfrastructureError, UsageError
    from agentdistill.services import service_folder

    folder = service_folder("retrievers")
    # -P: what lies in the user's folder is no module of the program's.
    line = [sys.executable, "-P", "-m", "retrievers", command, "--json"]
    line += ["--skip-bad-rows"] if skip_bad_rows else []
    environment = {**os.environ, "PYTHONPATH": str(folder.parent), "TOKENIZERS_PARALLELISM": "false"}
    bars, stage, last = Bars(), "", "it said nothing"
    with subprocess.Popen(
        [*line, *arguments], stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as program:
        try:
            for said in program.stdout or ():
                event = json.loads(said)
                match event.pop("event"):
                    case "progress":
                        if event["stage"] != stage:
                            bars.end()
                            stage = event["stage"]
                            bars.begin(stage, event["size"])
                        bars.update(event["done"])
                    case "skipped":
                        bars.message(f"skipped {event['what']}")
                    case "error":
                        last = event["what"]
                    case "done":
                        return dict(event)
        finally:
            bars.end()
            if sys.exc_info()[0] is not None:
                program.terminate()
    if program.returncode == 2:
        raise UsageError(last)
    raise InfrastructureError(last if program.returncode == 1 else f"index {command} ended: {last}")
