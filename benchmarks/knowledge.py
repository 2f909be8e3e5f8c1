"""A knowledge base of 10,000 entries: building the index, opening it, retrieval, `kb search`.

    python benchmarks/knowledge.py [--entries N] [--hybrid]

Entries are generated: words drawn by a Zipf law from a vocabulary of 20,000, ten families, three bullets. By
default vectors are random and the encoder is one that draws them (it costs nothing, so that what is timed is
the retrieval beyond the embedding); with --hybrid the catalog's encoder embeds all entries, and `kb search
--hybrid` is timed too: once alone, once after `agentdistill services up --index INDEX`. Not guaranteed:
that another machine gives the same milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agentdistill import catalog
from agentdistill.clients.served_encoder import encoder_up_here
from agentdistill.knowledge.encoder import ENCODER, Encoder, Vectors
from agentdistill.knowledge.entry import Entry, FromPerson, question_hash, write_entry
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.recall import LocalKnowledgeBase, Searcher
from agentdistill.knowledge.store import INDEX, Index
from agentdistill.types import Task

FAMILIES = tuple(f"family{n}" for n in range(10))
DIMENSION = 384  # of all-MiniLM-L6-v2


class RandomEncoder(Encoder):
    """Vectors of the real ones' size, in no time."""

    name = "random"

    def __init__(self) -> None:
        super().__init__(Path())
        self._random = np.random.default_rng(0)

    def encode(self, texts: Sequence[str]) -> Vectors:
        # Positive parts, so that cosines are above the floor and rankings are as deep as they get.
        drawn = np.abs(self._random.standard_normal((len(texts), DIMENSION), dtype=np.float32))
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


class Words:
    def __init__(self, size: int = 20_000) -> None:
        self.random = random.Random(0)
        letters = "bcdfghjklmnprstvw"
        self.words = [
            "".join(
                self.random.choice(letters) + self.random.choice("aeiou")
                for _ in range(self.random.randint(2, 4))
            )
            for _ in range(size)
        ]
        self.weights = [1 / (rank + 3) for rank in range(size)]

    def draw(self, count: int) -> str:
        return " ".join(self.random.choices(self.words, self.weights, k=count))


def write(folder: EntryFolder, words: Words, count: int) -> None:
    for n in range(count):
        entry = Entry(
            id=f"e-{n}",
            status="active",
            kind="procedure",
            title=words.draw(6),
            trigger=words.draw(12),
            learning_summary=(words.draw(15), words.draw(15)),
            supplementary_knowledge=(words.draw(15),),
            families=(FAMILIES[n % len(FAMILIES)],),
            provenance=(FromPerson(author="benchmark", question=question_hash(str(n))),),
        )
        folder.path(entry.id).write_text(
            write_entry(entry)
        )  # without the fsync of `save`, which is not what is timed


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--hybrid", action="store_true", help="embed all entries with the catalog's encoder")
    asked = parser.parse_args()
    encoder = Encoder(catalog.fetch(ENCODER)) if asked.hybrid else RandomEncoder()
    words = Words()
    with tempfile.TemporaryDirectory() as place:
        folder = EntryFolder(Path(place), create=True)
        write(folder, words, asked.entries)
        past = time.time() - 60  # files that were not written a moment ago
        for path in folder.files("entries"):
            os.utime(path, (past, past))
        found: dict[str, float | int] = {"entries": asked.entries}
        found["index build, words, s"] = seconds(lambda: Index(folder))
        found["index build, vectors, s"] = seconds(lambda: Index(folder, encoder))
        found["index size, MB"] = (Path(place) / INDEX).stat().st_size / 1e6
        found["open, nothing changed, s"] = seconds(lambda: Searcher(Index(folder, encoder)))
        searcher = Searcher(Index(folder, encoder))
        base = LocalKnowledgeBase(searcher)
        tasks = [Task(f"t{n}", words.draw(45), "1", source=FAMILIES[n % 10]) for n in range(300)]
        embedding = statistics.median(seconds(lambda: encoder.encode(["x " * 45])) for _ in range(30))
        for name, one in (("hybrid", base), ("lexical", LocalKnowledgeBase(Searcher(Index(folder))))):
            times = [seconds(lambda t=task, b=one: b.recall(t.question, t)) for task in tasks]
            beyond = embedding if name == "hybrid" else 0.0
            found[f"recall beyond the embedding, {name}, p50 ms"] = (statistics.median(times) - beyond) * 1000
            found[f"recall beyond the embedding, {name}, p95 ms"] = (
                statistics.quantiles(times, n=20)[-1] - beyond
            ) * 1000
        command = [sys.executable, "-m", "agentdistill", "kb", "search", place, tasks[0].question]
        runs = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(5)]
        found["kb search, lexical, whole process, median s"] = statistics.median(runs)
        if asked.hybrid:  # whether a retriever is up decides what this costs: `served` says so
            found["served"] = encoder_up_here(encoder.name) is not None
            command.append("--hybrid")
            runs = [
                seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(5)
            ]
            found["kb search, hybrid, whole process, median s"] = statistics.median(runs)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
