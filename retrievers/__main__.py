"""`python -m retrievers build|add|remove|search|info|serve`: what `agentdistill index ...` starts.

With --json every line on stdout is a JSON object: {"event": "progress", "stage", "done", "size"} (size 0 if
nobody knows it), {"event": "skipped", "what"}, {"event": "error", "what"}, at the end {"event": "done", ...}.
Without it people's lines go to stderr. Exit codes: 0 done, 1 failed, 2 the call or
the corpus was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

PROGRESS_SECONDS = 0.2

Say = Callable[[dict[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    out = sys.stdout
    if getattr(options, "ray_address", None):  # Ray tells of lost nodes on stdout, which is for our lines
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    say: Say = partial(_say_json, out) if options.json else _say_plainly
    try:
        from retrievers.corpus import BadCorpus
        from retrievers.manifest import BadIndex
    except ImportError as error:
        say({"event": "error", "what": f"{error}: install what retrievers/README.md names"})
        return 1
    try:
        say({"event": "done", **options.command(options, say)})
    except (BadCorpus, ValueError) as error:
        say({"event": "error", "what": str(error)})
        return 2
    except (BadIndex, OSError, MemoryError) as error:
        say({"event": "error", "what": str(error) or type(error).__name__})
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _build(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers.build import build

    arguments = options.corpus, options.index, options.encoder, _progress(say), _skipping(options, say)
    if options.ray_address is None:
        entries = build(*arguments)
    else:
        from retrievers.cluster import ClusterEncoder, connected

        with connected(options.ray_address):
            entries = build(*arguments, ClusterEncoder)
    return {"passages": entries.passages, "bytes": entries.size, "fingerprint": entries.fingerprint}


def _add(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers.build import add

    entries = add(options.index, options.corpus, options.encoder, _progress(say), _skipping(options, say))
    return {"passages": entries.passages, "bytes": entries.size, "fingerprint": entries.fingerprint}


def _remove(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers.build import remove

    entries = remove(options.index, options.ids, _progress(say))
    return {"passages": entries.passages, "bytes": entries.size, "fingerprint": entries.fingerprint}


def _search(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers.index import Index

    index = Index.open(options.index, options.encoder, options.reranker)
    mode = options.mode or index.modes[-1]
    [hits] = index.search([options.query], options.k, mode, rerank=options.reranker is not None)
    found = [{**hit._asdict(), "marks": index.marks(options.query, hit.text)} for hit in hits]
    return {"mode": mode, "hits": found}


def _info(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers import manifest
    from retrievers.index import Index

    index = Index.open(options.index)
    report = _progress(say)
    manifest.verify(options.index, index.manifest, lambda done, size: report("verify", done, size))
    return index.info


def _serve(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    from retrievers.serve import serve

    serve(options)
    return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retrievers", description="Indexes over passages.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=run)
        one.add_argument("--json", action="store_true", help="JSON lines on stdout")
        return one

    places = {"corpus": {"help": "JSONL file, folder, or hf:NAME of a data set"}, "index": {"type": Path}}
    for name, run, order, text in (
        ("build", _build, ("corpus", "index"), "make an index"),
        ("add", _add, ("index", "corpus"), "add passages to one"),
    ):
        one = command(name, run, text)
        for place in order:
            one.add_argument(place, **places[place])  # type: ignore[arg-type]
        one.add_argument("--encoder", type=Path, help="folder of a sentence encoder; without it: words only")
        one.add_argument("--skip-bad-rows", action="store_true")
        if name == "build":
            one.add_argument(
                "--ray-address", help="embed on all nodes of this Ray cluster: HOST:PORT, or auto"
            )
    one = command("remove", _remove, "remove passages")
    one.add_argument("index", type=Path)
    one.add_argument("ids", nargs="+", metavar="ID")
    one = command("search", _search, "search one")
    one.add_argument("index", type=Path)
    one.add_argument("query")
    one.add_argument("-k", type=int, default=5)
    one.add_argument("--mode", choices=("sparse", "dense", "hybrid"))
    one.add_argument("--encoder", type=Path)
    one.add_argument("--reranker", type=Path, help="folder of a cross-encoder")
    one = command("serve", _serve, "answer searches over HTTP")
    one.add_argument("index", type=Path)
    one.add_argument("--encoder", type=Path, help="folder of the index's encoder; without it: words only")
    one.add_argument("--reranker", type=Path, help="folder of a cross-encoder")
    one.add_argument("--host", default="127.0.0.1")
    one.add_argument("--port", type=int, default=8766)
    one.add_argument("--token-file", type=Path, help="its first line; else $AGENTDISTILL_RETRIEVER_TOKEN")
    one.add_argument("--no-token", action="store_true", help="serve everybody here; on loopback only")
    one.add_argument("--cached", type=int, default=10_000, help="queries whose vectors are kept, 2-6 KB each")
    one.add_argument("--threads", type=int, help="that search; default: one a core")
    one.add_argument("--socket", type=int, help=argparse.SUPPRESS)  # these three: see serve.py
    one.add_argument("--users", type=Path, help=argparse.SUPPRESS)
    one.add_argument("--linger", type=float, default=30.0, help=argparse.SUPPRESS)
    one = command("info", _info, "what is in it, and whether its checksums are right")
    one.add_argument("index", type=Path)
    return parser


def _progress(say: Say) -> Callable[[str, int, int], None]:
    """Not more often than anybody can see, but every beginning and end of a stage."""
    said: dict[str, float] = {}

    def report(stage: str, done: int, size: int) -> None:
        now = time.monotonic()
        if stage not in said or done >= size > 0 or now - said[stage] >= PROGRESS_SECONDS:
            said[stage] = now
            say({"event": "progress", "stage": stage, "done": done, "size": size})

    return report


def _skipping(options: argparse.Namespace, say: Say) -> Callable[[str], None] | None:
    return (lambda what: say({"event": "skipped", "what": what})) if options.skip_bad_rows else None


def _say_json(out: TextIO, event: dict[str, Any]) -> None:
    out.write(json.dumps(event, ensure_ascii=True) + "\n")
    out.flush()


def _say_plainly(event: dict[str, Any]) -> None:
    kind = event.pop("event")
    if kind == "progress":
        of = f" of {event['size']:,}" if event["size"] else ""
        sys.stderr.write(f"{event['stage']}: {event['done']:,}{of}\n")
    elif kind == "done" and "hits" in event:
        for rank, hit in enumerate(event["hits"], 1):
            sys.stdout.write(
                f"{rank}. {hit['title']} [{hit['id']}] {hit['score']:.4f}\n   {hit['text'][:300]}\n"
            )
    elif kind == "done":
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in event.items()))
    else:
        sys.stderr.write(f"{kind}: {event['what']}\n")


if __name__ == "__main__":
    sys.exit(main())
