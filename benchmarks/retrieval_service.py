"""The retrieval service beside what it is made of: bare bm25s, bare faiss, the index without a service.

    python benchmarks/retrieval_service.py --index INDEX [--data FOLDER] [--rounds 5] [--seconds 60] [--json]

INDEX is one of FOLDER/passages.jsonl (agentdistill index build); the questions are those of FOLDER's
*_context.jsonl. Everything runs on one thread of each library (OMP_NUM_THREADS=1); the two sides of a ratio
are measured in turns in this very run, medians with the quartiles beside them.

- one query: what the handler takes (the service's own Server-Timing) less what the bare call takes for the
  same question, and what the client sees. `sparse` is against bm25s (its tokenizer, its stemmer, its
  retrieve); `dense` with the question's vector in the cache against faiss's flat search with the vector
  given; each also against Index.search, which is the service alone: `hybrid` with vectors that are known to
  both, and with questions that are new to both.
- 64 queries in one request: queries a second against the same batch given to the same bare call.
- load: 64 clients, one connection each, ask hybrid questions for a minute, half of them never asked before.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import bm25s
import faiss
import numpy as np
import psutil
import Stemmer

from agentdistill import services
from agentdistill.clients.shared_retriever import encoder_folder
from retrievers.index import Index

K = 5
TOKEN = "benchmark"
CLIENTS = 64
Search = Callable[[list[str]], Any]


@dataclass
class Figure:
    name: str
    ours: float
    bare: float
    unit: str
    value: float
    target: str = ""
    met: bool | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    client: float | None = None


class Service:
    """The service in a process of its own, asked over one connection that is kept."""

    def __init__(self, index: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        encoder = encoder_folder(index)
        options = ["serve", str(index), "--port", str(self.port)] + (
            ["--encoder", str(encoder)] if encoder else []
        )
        environment = {**os.environ, "AGENTDISTILL_RETRIEVER_TOKEN": TOKEN}
        self.process = subprocess.Popen([*services.retrievers_command(), *options], env=environment)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        while True:
            try:
                self.connection.request("GET", "/health")
                self.connection.getresponse().read()
                break
            except OSError:
                self.connection.close()
                if self.process.poll() is not None:
                    sys.exit("the service has ended")
                time.sleep(0.1)

    def search(self, queries: list[str], mode: str) -> tuple[float, float]:
        """Milliseconds: the handler's own, and the client's."""
        body = json.dumps({"queries": queries, "k": K, "mode": mode}).encode()
        started = time.perf_counter()
        self.connection.request("POST", "/search", body, {"Authorization": f"Bearer {TOKEN}"})
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        taken = (time.perf_counter() - started) * 1000
        assert len(answer["results"]) == len(queries), answer
        return float(response.headers["Server-Timing"].partition("dur=")[2]), taken

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Bare:
    """The same searches without the service."""

    def __init__(self, folder: Path, questions: list[str]) -> None:
        self.index = Index.open(folder, encoder_folder(folder))
        rows = [self.index.passage(row) for row in range(self.index.info["passages"])]
        self.stemmer = Stemmer.Stemmer("english")
        self.bm25 = bm25s.BM25()
        self.bm25.index(self._tokens([f"{p.title} {p.text}" for p in rows]), show_progress=False)
        dense = self.index.segments[0].dense
        assert dense is not None and len(self.index.segments) == 1
        vectors = dense.vectors(np.arange(len(rows)))
        self.flat = faiss.IndexFlatIP(vectors.shape[1])
        self.flat.add(vectors)
        self.known = dict(zip(questions, self.index.encode(questions), strict=True))

    def sparse(self, queries: list[str]) -> Any:
        return self.bm25.retrieve(self._tokens(queries), k=K, show_progress=False)

    def dense(self, queries: list[str]) -> Any:
        return self.flat.search(np.stack([self.known[query] for query in queries]), K)

    def index_sparse(self, queries: list[str]) -> Any:
        return self.index.search(queries, K, "sparse")

    def index_dense(self, queries: list[str]) -> Any:
        return self.index.search(queries, K, "dense", np.stack([self.known[query] for query in queries]))

    def index_hybrid(self, queries: list[str]) -> Any:
        return self.index.search(queries, K, "hybrid", np.stack([self.known[query] for query in queries]))

    def embedded_hybrid(self, queries: list[str]) -> Any:
        return self.index.search(queries, K, "hybrid")

    def _tokens(self, texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=self.stemmer, show_progress=False)


def timed(search: Search, queries: list[str]) -> float:
    started = time.perf_counter()
    search(queries)
    return (time.perf_counter() - started) * 1000


def compare(
    service: Service, mode: str, search: Search, batches: list[list[str]]
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of bare calls, of handlers, of clients, batch by batch, in turns."""
    bare, handler, client = [], [], []
    for number, queries in enumerate(batches):
        if number % 2:
            bare.append(timed(search, queries))
        inside, outside = service.search(queries, mode)
        handler.append(inside)
        client.append(outside)
        if not number % 2:
            bare.append(timed(search, queries))
    return bare, handler, client


def quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def new(questions: list[str], round_: str) -> list[str]:
    """Questions that nobody has asked: the cache has no vector of them."""
    return [f"{question} ({round_})" for question in questions]


AGAINST = (
    ("sparse", "sparse", "bm25s"),
    ("dense", "dense", "faiss flat"),
    ("sparse", "index_sparse", "Index.search"),
    ("dense", "index_dense", "Index.search"),
    ("hybrid", "index_hybrid", "Index.search, vectors known"),
    ("hybrid", "embedded_hybrid", "Index.search with embedding"),
)
"""(mode, a method of Bare, what that is)"""


def single(service: Service, bare: Bare, questions: list[str], rounds: int) -> Iterator[Figure]:
    for mode, call, name in AGAINST:
        found: list[tuple[float, float, float]] = []
        for round_ in range(rounds):
            asked = new(questions, f"one {round_}") if call == "embedded_hybrid" else questions
            found += zip(*compare(service, mode, getattr(bare, call), [[q] for q in asked]), strict=True)
        more = [handler - without for without, handler, _ in found]
        without, handler, client = (statistics.median(column) for column in zip(*found, strict=True))
        value = statistics.median(more)
        title = f"one query, {mode}: handler less {name}"
        spread = quartiles(more)
        yield Figure(title, handler, without, "ms", value, "<= 1 ms", value <= 1, spread, client)


def batch(service: Service, bare: Bare, questions: list[str], rounds: int) -> Iterator[Figure]:
    drawn = random.Random(1)
    for mode, call, name in AGAINST:
        batches = [drawn.sample(questions, 64) for _ in range(rounds * 4)]
        if call == "embedded_hybrid":
            batches = [new(queries, f"batch {number}") for number, queries in enumerate(batches)]
        without, handler, client = compare(service, mode, getattr(bare, call), batches)
        ratios = [b / h for b, h in zip(without, handler, strict=True)]
        value = statistics.median(ratios)
        yield Figure(
            f"64 queries, {mode}: throughput over {name}",
            64_000 / statistics.median(handler),
            64_000 / statistics.median(without),
            "queries/s",
            value,
            ">= 0.9",
            value >= 0.9,
            quartiles(ratios),
            statistics.median(client),
        )


@dataclass
class Load:
    seconds: float
    queries: int
    errors: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    rss_mb: list[float]
    """At the start, after a quarter of the time, after half, three quarters, at the end."""
    threads: int
    descriptors: tuple[int, int]


def load(service: Service, questions: list[str], seconds: float) -> Load:
    return asyncio.run(_load(service, questions, seconds))


async def _load(service: Service, questions: list[str], seconds: float) -> Load:
    process = psutil.Process(service.process.pid)
    times: list[float] = []
    errors = 0
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        nonlocal errors
        drawn = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        turn = 0
        while time.monotonic() < until:
            turn += 1
            question = drawn.choice(questions) + (f" ({number} {turn})" if turn % 2 else "")
            body = json.dumps({"query": question, "k": K}).encode()
            head = f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            started = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            found = json.loads(await reader.readexactly(length))
            times.append((time.perf_counter() - started) * 1000)
            errors += not (answer.startswith(b"HTTP/1.1 200 ") and len(found["results"][0]) == K)
        writer.close()

    async def watch() -> list[float]:
        seen = []
        for _ in range(5):
            seen.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(seconds / 4 if len(seen) < 5 else 0)
        return seen

    before = process.num_fds()
    rss, *ends = await asyncio.gather(
        watch(), *(client(number) for number in range(CLIENTS)), return_exceptions=True
    )
    errors += sum(isinstance(end, BaseException) for end in ends)
    await asyncio.sleep(1)
    assert isinstance(rss, list)
    cuts = statistics.quantiles(times, n=100)
    return Load(
        seconds, len(times), errors, cuts[49], cuts[98], max(times), [round(mb, 1) for mb in rss],
        process.num_threads(), (before, process.num_fds()),
    )  # fmt: skip


def line(figure: Figure) -> str:
    met = "" if figure.met is None else "yes" if figure.met else "NO"
    low, high = figure.spread
    return (
        f"{figure.name:<64} {figure.ours:>9.2f} {figure.bare:>9.2f} {figure.unit:<9} {figure.value:>7.3f} "
        f"({low:.3f}-{high:.3f}) {figure.target:<8} {met:<4} client p50 {figure.client:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of the retrieval service.")
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="single,batch,load", help="parts to run, with commas between")
    parser.add_argument("--rounds", type=int, default=5, help="over the questions")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    asked = parser.parse_args()
    questions = [
        json.loads(row)["question"]
        for name in ("hotpotqa_context.jsonl", "musique_context.jsonl")
        for row in (asked.data / name).read_text(encoding="utf-8").splitlines()
    ]
    bare = Bare(asked.index, questions)
    service = Service(asked.index)
    try:
        service.search(questions, "dense")  # their vectors are in the cache now
        rows = []
        parts = [measure for measure in (single, batch) if measure.__name__ in asked.only.split(",")]
        for measure in parts:
            for figure in measure(service, bare, questions, asked.rounds):
                rows.append(figure)
                if not asked.json:
                    print(line(figure), flush=True)
        found = load(service, questions, asked.seconds) if "load" in asked.only else None
    finally:
        service.close()
    if asked.json:
        print(
            json.dumps({"figures": [asdict(row) for row in rows], "load": found and asdict(found)}, indent=1)
        )
    elif found is not None:
        rate = found.queries / found.seconds
        print(f"load: {CLIENTS} clients, {found.seconds:g} s: {found.queries} queries ({rate:.0f}/s), "
              f"{found.errors} errors, p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, worst "
              f"{found.worst_ms:.0f} ms; RSS {found.rss_mb} MB; descriptors {found.descriptors}")  # fmt: skip


if __name__ == "__main__":
    main()
