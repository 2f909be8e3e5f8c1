"""How much of the evidence of multi-hop questions the retriever finds.

    python benchmarks/retrieval_quality.py [--out FILE] [--index FOLDER] [--reranker FOLDER]

Builds an index of ../shared/data/passages.jsonl (kept in --index; embedding takes some minutes) and asks it
the 200 questions of hotpotqa_context.jsonl and musique_context.jsonl. Each question has the titles of the
passages that its answer rests on. Recall@k is the share of those titles among the first k passages, all@k the
share of questions of which all are there. A hash of the question's id splits them in halves: fusion is tuned
on one, the table is of the other. Intervals are 95 %: Wilson for all@k, bootstrap over questions for recall;
differences are paired. MuSiQue's questions follow chains: what a later hop asks for is not named in them.
That bounds what one search can find, and is what an agent's several searches are for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from agentdistill import catalog  # noqa: E402
from agentdistill.evaluation.stats import wilson  # noqa: E402
from retrievers import build, hybrid  # noqa: E402
from retrievers.index import Index  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
CONSTANTS = (1, 2, 5, 10, 20, 60)
RECALL, ALL = (2, 5, 10), (5, 10)


@dataclass(frozen=True)
class Question:
    id: str
    source: str
    text: str
    titles: frozenset[str]

    @property
    def for_tuning(self) -> bool:
        return int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2 == 0


def questions() -> list[Question]:
    found = []
    for source in ("hotpotqa", "musique"):
        with (DATA / f"{source}_context.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                titles = frozenset(row["supporting_titles"])
                found.append(Question(row["id"], source, row["question"], titles))
    return found


def recall(titles: Sequence[str], question: Question, k: int) -> float:
    return len(set(titles[:k]) & question.titles) / len(question.titles)


Found = dict[str, list[str]]
"""For each question's id the titles that were found, best first."""


def table_row(found: Found, asked: Sequence[Question]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for k in RECALL:
        values = np.array([recall(found[q.id], q, k) for q in asked])
        row[f"recall@{k}"] = {"value": values.mean(), **bootstrap(values)}
    for k in ALL:
        hits = sum(recall(found[q.id], q, k) == 1 for q in asked)
        low, high = wilson(hits, len(asked))
        row[f"all@{k}"] = {"value": hits / len(asked), "low": low, "high": high}
    return row


def bootstrap(values: np.ndarray, draws: int = 10_000) -> dict[str, float]:
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"low": float(low), "high": float(high)}


def difference(one: Found, other: Found, asked: Sequence[Question], k: int) -> dict[str, float]:
    values = np.array([recall(one[q.id], q, k) - recall(other[q.id], q, k) for q in asked])
    return {"value": float(values.mean()), **bootstrap(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--index", type=Path, help="where to keep the index [default: a temporary folder]")
    parser.add_argument("--reranker", type=Path, help="folder of a cross-encoder")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"the passages and questions are not here: {DATA.resolve()}")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options.index or Path(folder) / "index", options.reranker)
    show(results)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, reranker: Path | None) -> dict[str, Any]:
    encoder = catalog.fetch("all-minilm-l6-v2")
    if not folder.exists():
        build.build(str(DATA / "passages.jsonl"), folder, encoder, say)
    index = Index.open(folder, encoder, reranker)
    asked = questions()
    tuning, held_out = ([q for q in asked if q.for_tuning is which] for which in (True, False))
    texts = [q.text for q in asked]
    vectors = index.encode(texts)

    def search(mode: str, rerank: bool = False, k: int = hybrid.DEPTH) -> Found:
        hits = index.search(texts, k, mode, vectors, rerank)
        return {q.id: [hit.title for hit in of] for q, of in zip(asked, hits, strict=True)}

    found = {mode: search(mode) for mode in index.modes}
    if reranker is not None:
        found["re-ranked"] = search("hybrid", rerank=True, k=10)
    parts = [index.search(texts, hybrid.DEPTH, mode, vectors) for mode in ("sparse", "dense")]
    title_of = {hit.id: hit.title for part in parts for hits in part for hit in hits}
    sparse, dense = ([[hit.id for hit in hits] for hits in part] for part in parts)
    tuned = {}
    for constant in CONSTANTS:
        fused = {
            q.id: [title_of[key] for key, _ in hybrid.fuse(s, d, constant)]
            for q, s, d in zip(asked, sparse, dense, strict=True)
        }
        tuned[constant] = {name: cell["value"] for name, cell in table_row(fused, tuning).items()}
    return {
        "passages": index.info["passages"],
        "fingerprint": index.info["fingerprint"],
        "tuning": {"questions": len(tuning), "by constant": tuned},
        "held out": tables(found, held_out),
        "all": tables(found, asked),
        "by source": {
            source: tables(found, [q for q in held_out if q.source == source])
            for source in ("hotpotqa", "musique")
        },
    }


def tables(found: dict[str, Found], asked: Sequence[Question]) -> dict[str, Any]:
    rows = {mode: table_row(of, asked) for mode, of in found.items()}
    gains = {
        f"hybrid - {mode}, recall@{k}": difference(found["hybrid"], found[mode], asked, k)
        for mode in ("sparse", "dense")
        for k in (5, 10)
    }
    return {"questions": len(asked), "rows": rows, "paired": gains}


def say(stage: str, done: int, size: int) -> None:
    if stage == "embed":
        sys.stderr.write(f"\rembed: {done:,} of {size:,}" + ("\n" if done == size else ""))


def show(results: dict[str, Any]) -> None:
    print(f"RRF constant on the {results['tuning']['questions']} questions for tuning:")
    for constant, values in results["tuning"]["by constant"].items():
        print(f"  {constant:>3}  " + "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    parts = {"held out": results["held out"], **results["by source"], "all": results["all"]}
    for name, part in parts.items():
        rows = part["rows"]
        print(f"\n{name}: {part['questions']} questions")
        print(f"{'':<10}" + "".join(f"{column:>24}" for column in next(iter(rows.values()))))
        for mode, row in rows.items():
            cells = (f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in row.values())
            print(f"{mode:<10}" + "".join(f"{cell:>24}" for cell in cells))
        for pair, gain in part["paired"].items():
            print(f"  {pair}: {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")


if __name__ == "__main__":
    main()
