"""Speed, disk and memory of an index, beside bare bm25s and bare faiss on the same data. Without the service.

    python benchmarks/retrieval_speed.py [--passages N] [--index FOLDER] [--folder FOLDER] [--out FILE]

Two parts, one run:
1. The real passages (../shared/data/passages.jsonl; retrieval_quality.py keeps an index of them in --index):
   our search beside bm25s's `retrieve` and faiss's `IndexFlatIP`, in turns. Ours also fetches the passages.
2. N passages (a million). For the words: sentences of the real passages recombined. For the vectors: drawn
   around the real embeddings, the noise as long as their median distance to the 10th neighbour (embedding a
   million texts takes hours on a CPU). Build time, disk, resident memory (a process of its own for each kind,
   after its queries), p50, and recall@10 of the compressed index against exact search.

Not guaranteed: that real vectors of a large corpus are as hard or as easy as drawn ones. Noise of equal
length in 384 directions makes many neighbours nearly equally near; but all neighbours of a drawn vector come
from a few of the real ones, and so from a few lists.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import faiss
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from agentdistill import catalog  # noqa: E402
from retrievers import build, dense  # noqa: E402
from retrievers.index import Index  # noqa: E402
from retrievers.segment import Progress  # noqa: E402
from retrievers.sparse import Words  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
BATCH, ROUNDS, K = 64, 30, 5
WIKIPEDIA = 21_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--index", type=Path, help="the index of the real passages [default: built anew]")
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(in_own_process(*options.measure)))
        return
    if not DATA.is_dir():
        sys.exit(f"the passages and questions are not here: {DATA.resolve()}")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        encoder = catalog.fetch("all-minilm-l6-v2")
        real = options.index or folder / "real"
        if not real.exists():
            build.build(str(DATA / "passages.jsonl"), real, encoder, quiet)
        index = Index.open(real, encoder)
        asked = questions()
        vectors = index.encode(asked)
        results: dict[str, Any] = {
            "cores": faiss.omp_get_max_threads(),
            "real": beside_bare(index, asked, vectors),
        }
        tell("real passages", results["real"])
        results["words"] = many_words(folder, options.passages, asked)
        tell(f"{options.passages:,} passages by words", results["words"])
        results["vectors"] = many_vectors(folder, options.passages, stored_vectors(index), vectors)
        tell(f"{options.passages:,} vectors", results["vectors"])
        results["wikipedia"] = extrapolated(options.passages, results)
        tell(f"{WIKIPEDIA:,} passages, extrapolated", results["wikipedia"])
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def questions() -> list[str]:
    files = (DATA / f"{name}_context.jsonl" for name in ("hotpotqa", "musique"))
    return [json.loads(line)["question"] for file in files for line in file.read_text("utf-8").splitlines()]


def stored_vectors(index: Index) -> np.ndarray:
    store = index.segments[0].dense
    assert store is not None
    return store.vectors(np.arange(store.passages))


# ---------------------------------------------------------------------- beside bare bm25s and bare faiss


def beside_bare(index: Index, asked: Sequence[str], vectors: np.ndarray) -> dict[str, Any]:
    segment = index.segments[0]
    bare_words = bare_bm25s(segment.store)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(stored_vectors(index))
    words = Words()

    def bm25s_search(first: int, count: int) -> None:
        tokens = [words(query) for query in asked[first : first + count]]
        bare_words.retrieve(tokens, k=K, show_progress=False)

    return {
        "sparse": in_turns(
            bm25s_search, lambda first, count: index.search(asked[first : first + count], K, "sparse")
        ),
        "dense": in_turns(
            lambda first, count: flat.search(vectors[first : first + count], K),
            lambda first, count: index.search(
                asked[first : first + count], K, "dense", vectors[first : first + count]
            ),
        ),
        "hybrid": in_turns(
            lambda first, count: (bm25s_search(first, count), flat.search(vectors[first : first + count], K)),
            lambda first, count: index.search(
                asked[first : first + count], K, "hybrid", vectors[first : first + count]
            ),
        ),
    }


def bare_bm25s(passages: Any) -> bm25s.BM25:
    from retrievers.sparse import K1, TITLE_WEIGHT, B

    words = Words()
    bare = bm25s.BM25(k1=K1, b=B, method="lucene")
    tokens = [words(passage.title) * TITLE_WEIGHT + words(passage.text) for passage in passages]
    bare.index(tokens, show_progress=False)
    return bare


Search = Callable[[int, int], Any]


def in_turns(bare: Search, ours: Search) -> dict[str, float]:
    """Medians, so that a slow moment of the machine hits neither."""
    for search in (bare, ours):
        search(0, BATCH)
    one: dict[str, list[float]] = {"bare": [], "ours": []}
    many: dict[str, list[float]] = {"bare": [], "ours": []}
    for round_ in range(ROUNDS):
        for name, search in (("bare", bare), ("ours", ours)):
            for at in range(5):
                one[name].append(timed(lambda s=search, a=5 * round_ + at: s(a, 1)))
            many[name].append(timed(lambda s=search, a=round_: s(a, BATCH)))
    single = {name: statistics.median(times) * 1000 for name, times in one.items()}
    batch = {name: BATCH / statistics.median(times) for name, times in many.items()}
    return {
        "bare p50 (ms)": single["bare"],
        "ours p50 (ms)": single["ours"],
        "ours - bare (ms)": single["ours"] - single["bare"],
        f"bare, batch {BATCH} (queries/s)": batch["bare"],
        f"ours, batch {BATCH} (queries/s)": batch["ours"],
        "ours / bare, batch": batch["ours"] / batch["bare"],
    }


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# ---------------------------------------------------------------------- a million


def many_words(folder: Path, count: int, asked: Sequence[str]) -> dict[str, Any]:
    source, index = folder / "recombined.jsonl", folder / "words"
    recombine(source, count)
    stages: dict[str, float] = {}
    seconds = timed(lambda: build.build(str(source), index, None, stopwatch(stages)))
    corpus_bytes = source.stat().st_size
    source.unlink()
    (folder / "asked.json").write_text(json.dumps(list(asked)))
    ours = own_process("words", index, folder / "asked.json")
    bare = own_process("bare words", index, folder / "asked.json")
    disk = size_of(index / "000001" / "sparse")
    return {
        "corpus (MB)": corpus_bytes / 1e6,
        "build (s)": seconds,
        **{f"  of it {stage} (s)": spent for stage, spent in stages.items()},
        "disk, words (MB)": disk / 1e6,
        "disk, all (MB)": size_of(index) / 1e6,
        **{f"ours, {name}": value for name, value in ours.items()},
        **{f"bare, {name}": value for name, value in bare.items()},
    }


def recombine(file: Path, count: int) -> None:
    chance = random.Random(1)
    rows = [json.loads(line) for line in (DATA / "passages.jsonl").read_text("utf-8").splitlines()]
    sentences = [part + "." for row in rows for part in row["text"].split(". ") if len(part) > 20]
    titles = [row["title"] for row in rows]
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            text = " ".join(chance.choices(sentences, k=4))
            row = {"id": str(number), "title": chance.choice(titles), "text": text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def many_vectors(folder: Path, count: int, real: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    drawn = folder / "drawn"
    drawn.mkdir()
    noise = tenth_neighbour(real)
    queries = draw(real, noise, 200, seed=0)
    np.save(folder / "drawn.npy", queries)
    np.save(folder / "asked.npy", asked)
    parts = []
    for start in range(0, count, 50_000):
        part = drawn / f"{start:09d}.npy"
        np.save(part, draw(real, noise, min(50_000, count - start), seed=start + 1).astype("<f2"))
        parts.append(part)
    index = folder / "vectors"
    index.mkdir()
    seconds = timed(lambda: dense.write(index, parts, "compressed", lambda done, size: None))
    exact = {name: exact_rows(parts, np.load(folder / f"{name}.npy")) for name in ("drawn", "asked")}
    shutil.rmtree(drawn)
    found: dict[str, Any] = {
        "noise (norm)": noise,
        "lists": dense.lists_for(count),
        "build (s)": seconds,
        "disk, codes (MB)": (index / "lists.faiss").stat().st_size / 1e6,
        "disk, exact vectors (MB)": (index / "vectors.bin").stat().st_size / 1e6,
    }
    flat = own_process("flat", index, folder / "drawn.npy")
    del flat["rows"]
    for name, best in exact.items():
        ours = own_process("vectors", index, folder / f"{name}.npy")
        shared = [len(set(a) & set(b)) / 10 for a, b in zip(ours.pop("rows"), best, strict=True)]
        found |= {f"{name} queries, recall@10": statistics.mean(shared)}
        found |= {f"{name} queries, {key}": value for key, value in ours.items()}
    found |= {f"flat, {key}": value for key, value in flat.items()}
    resident = "resident after the queries (MB)"
    found["memory, ours / flat"] = found[f"drawn queries, {resident}"] / found[f"flat, {resident}"]
    return found


def tenth_neighbour(vectors: np.ndarray) -> float:
    products, _ = faiss.knn(vectors, vectors, 11, metric=faiss.METRIC_INNER_PRODUCT)
    return float(np.median(np.sqrt(np.maximum(0, 2 - 2 * products[:, 10]))))


def draw(real: np.ndarray, noise: float, count: int, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    offsets = chance.normal(size=(count, real.shape[1])).astype(np.float32)
    offsets *= noise / np.linalg.norm(offsets, axis=1, keepdims=True)
    vectors = real[chance.integers(0, len(real), count)] + offsets
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def exact_rows(parts: Sequence[Path], queries: np.ndarray) -> list[list[int]]:
    scores, rows, first = [], [], 0
    for part in parts:
        vectors = np.load(part).astype(np.float32)
        near, at = faiss.knn(queries, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)
        scores.append(near)
        rows.append(at + first)
        first += len(vectors)
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1)[:, :10]
    return np.take_along_axis(np.concatenate(rows, axis=1), order, axis=1).tolist()


# ---------------------------------------------------------------------- memory: a process for each kind


def own_process(kind: str, index: Path, queries: Path) -> dict[str, Any]:
    line = [sys.executable, __file__, "--measure", kind, str(index), str(queries)]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


def in_own_process(kind: str, folder: str, file: str) -> dict[str, Any]:
    before = resident()
    search, queries = prepared(kind, Path(folder), Path(file))
    opened = resident()
    rows, times = [], []
    for query in queries:
        started = time.perf_counter()
        rows.append(search(query))
        times.append(time.perf_counter() - started)
    after = resident()
    found: dict[str, Any] = {
        "p50 (ms)": statistics.median(times[len(times) // 10 :]) * 1000,
        "resident when open (MB)": sum(opened) - sum(before),
        "resident after the queries (MB)": sum(after) - sum(before),
        "of it not backed by files (MB)": after[0] - before[0],
    }
    return found if "words" in kind else found | {"rows": rows}


def prepared(kind: str, folder: Path, file: Path) -> tuple[Callable[[Any], Any], Sequence[Any]]:
    if "words" in kind:
        asked = json.loads(file.read_text())
        index = Index.open(folder)
        if kind == "words":
            return lambda query: index.search([query], K) and None, asked
        words, sparse = Words(), index.segments[0].sparse
        bare = bm25s.BM25.load(folder / "000001" / "sparse", mmap=True, load_vocab=False)

        def retrieve(query: str) -> None:
            columns = [at for at in map(sparse.column, words(query)) if at is not None]
            bare._get_top_k_results(columns, k=K, sorted=True)

        return retrieve, asked
    queries = np.load(file)[:, None, :]
    opened = dense.open_dense(folder)
    if kind == "vectors":
        return lambda query: opened.search(query, 10, None)[0][0].tolist(), queries
    flat = faiss.IndexFlatIP(opened.dimension)
    for start in range(0, opened.passages, 50_000):
        flat.add(opened.vectors(np.arange(start, min(start + 50_000, opened.passages))))
    return lambda query: flat.search(query, 10)[1][0].tolist(), queries


def resident() -> tuple[float, float]:
    """MB of memory of its own, and of pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    size = {line.split()[0]: int(line.split()[1]) / 1000 for line in lines if line.startswith("Rss")}
    return size["RssAnon:"], size["RssFile:"] + size["RssShmem:"]


# ---------------------------------------------------------------------- what it comes to


def extrapolated(count: int, results: dict[str, Any]) -> dict[str, float]:
    """21 million passages from the measured constants: everything grows with the number, but for the lists.

    There are 4 sqrt(n) lists, so that learning their centres, and finding a list for each vector, grow with
    n^1.5; the lists that a query looks at grow with sqrt(n).
    """
    times = WIKIPEDIA / count
    words, vectors = results["words"], results["vectors"]
    root = dense.lists_for(WIKIPEDIA) / dense.lists_for(count)
    return {
        "build, words (hours)": words["build (s)"] * times / 3600,
        "build, vectors (hours)": vectors["build (s)"] * times * root / 3600,
        "disk (GB)": times
        * (words["disk, all (MB)"] + vectors["disk, codes (MB)"] + vectors["disk, exact vectors (MB)"])
        / 1000,
        "memory, vectors (GB)": vectors["drawn queries, resident after the queries (MB)"] * times / 1000,
        "memory of words not backed by files (GB)": words["ours, of it not backed by files (MB)"]
        * times
        / 1000,
        "p50, words (ms)": words["ours, p50 (ms)"] * times,
        "p50, vectors (ms)": vectors["drawn queries, p50 (ms)"] * times / root,
    }


def stopwatch(stages: dict[str, float]) -> Progress:
    began: dict[str, float] = {}

    def report(stage: str, done: int, size: int) -> None:
        began.setdefault(stage, time.perf_counter())
        stages[stage] = time.perf_counter() - began[stage]

    return report


def quiet(stage: str, done: int, size: int) -> None:
    pass


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tell(title: str, values: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"  {name}: " + ", ".join(f"{key} {number:,.2f}" for key, number in value.items()))
        else:
            print(f"  {name:<58}{value:>14,.3f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
