"""Indexes in this process: what is found, what a change does, what damage is noticed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bm25s
import faiss
import numpy as np
import pytest
from encoders import tiny_cross_encoder, tiny_encoder

from retrievers import build, dense, hybrid, manifest, segment, sparse
from retrievers.corpus import BadCorpus
from retrievers.hybrid import fuse
from retrievers.index import MAX_QUERY, BadIndex, Hit, Index

Row = dict[str, str]

VOCABULARY = [
    first + second for first in ("ba", "co", "du", "fi", "ge", "lu") for second in ("rn", "lp", "mst", "nd")
]


def rows(count: int, seed: int = 0, prefix: str = "p") -> list[Row]:
    """Passages of random words, some of them rare."""
    chance = random.Random(seed)
    weights = [1 / (at + 1) for at in range(len(VOCABULARY))]
    return [
        {
            "id": f"{prefix}{number}",
            "title": " ".join(chance.choices(VOCABULARY, k=2)),
            "text": " ".join(chance.choices(VOCABULARY, weights, k=chance.randint(3, 30))) + f" n{number}x",
        }
        for number in range(count)
    ]


def corpus(path: Path, found: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def quiet(*_: Any) -> None:
    pass


def made(folder: Path, found: Sequence[Row], encoder: Path | None = None) -> Path:
    source = corpus(folder.with_suffix(".jsonl"), found)
    build.build(source, folder, encoder, quiet)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


QUERIES = ["barn colp", "n17x", "gend lund fimst", "dulp dulp corn"]


# Sparse


def reference(found: Sequence[Row]) -> tuple[bm25s.BM25, sparse.Words]:
    """bm25s's own index of the same words."""
    words = sparse.Words()
    bare = bm25s.BM25(k1=sparse.K1, b=sparse.B, method="lucene")
    tokens = [words(row["title"]) * sparse.TITLE_WEIGHT + words(row["text"]) for row in found]
    bare.index(tokens, show_progress=False)
    return bare, words


@pytest.mark.parametrize("part", [7, 1000])
def test_scores_are_those_of_bm25s(folder: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(sparse, "PART", part)
    monkeypatch.setattr(segment, "BLOCK", 7)
    monkeypatch.setattr("retrievers.store.BLOCK", 7)
    found = rows(60)
    index = Index.open(made(folder, found))
    bare, words = reference(found)
    for query, k in itertools.product(QUERIES, (1, 5, 20)):
        [hits] = index.search([query], k)
        scores = bare.get_scores(words(query))
        best = sorted((-score, at) for at, score in enumerate(scores.tolist()) if score > 0)[:k]
        assert [hit.id for hit in hits] == [found[at]["id"] for _, at in best]
        assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in best], rel=1e-5)


def test_bm25s_opens_our_files(folder: Path) -> None:
    found = rows(30)
    made(folder, found)
    loaded = bm25s.BM25.load(folder / "000001" / "sparse", mmap=True, load_vocab=False)
    bare, _ = reference(found)
    assert loaded.scores["num_docs"] == 30
    assert np.sort(loaded.scores["data"]) == pytest.approx(np.sort(bare.scores["data"]), rel=1e-5)


def test_words_are_found_in_other_forms_and_without_accents(folder: Path) -> None:
    found = [{"id": "a", "text": "Alû were drowning demons."}, {"id": "b", "text": "A river in Africa."}]
    index = Index.open(made(folder, found))
    for query in ("Alu", "ALÛ", "demon", "drowned", "the demons of the demon"):
        assert [hit.id for hit in index.search([query])[0]] == ["a"], query
    for query in ("", "   ", "the of and", "zebra", "?!"):
        assert index.search([query]) == [[]], query
    assert index.marks("a drowning demon", found[0]["text"]) == [(9, 17), (18, 24)]


def test_the_title_counts(folder: Path) -> None:
    found = [
        {"id": "a", "title": "Nile", "text": "A long river that runs through several lands."},
        {"id": "b", "title": "Africa", "text": "Lands with a river of the name Nile in them all."},
    ]
    [hits] = Index.open(made(folder, found)).search(["nile"])
    assert [hit.id for hit in hits] == ["a", "b"]


# Dense and hybrid


def test_dense_is_the_order_of_inner_products(folder: Path, encoder: Path) -> None:
    found = rows(50)
    index = Index.open(made(folder, found, encoder), encoder)
    assert index.modes == ("sparse", "dense", "hybrid")
    vectors = dense.Encoder(encoder).encode([f"{row['title']}\n{row['text']}" for row in found])
    queries = index.encode(QUERIES)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1, abs=1e-5)
    for query, hits in zip(queries, index.search(QUERIES, 50, "dense"), strict=True):
        products = vectors @ query
        assert {hit.id for hit in hits} == {row["id"] for row in found}
        by_id = dict(zip((row["id"] for row in found), products.tolist(), strict=True))
        assert [hit.score for hit in hits] == pytest.approx([by_id[hit.id] for hit in hits], abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_hybrid_fuses_both_and_takes_vectors_that_are_there(folder: Path, encoder: Path) -> None:
    index = Index.open(made(folder, rows(50), encoder), encoder)
    vectors = index.encode(QUERIES)
    both = [
        [[hit.id for hit in hits] for hits in index.search(QUERIES, 100, mode)]
        for mode in ("sparse", "dense")
    ]
    found = index.search(QUERIES, 5, vectors=vectors)
    assert found == index.search(QUERIES, 5, "hybrid")
    for hits, ours, theirs in zip(found, *both, strict=True):
        assert [(hit.id, hit.score) for hit in hits] == fuse(ours, theirs)[:5]


def test_fusion() -> None:
    assert fuse(["a", "b"], ["b", "c"], constant=1) == [("b", 1 / 3 + 1 / 2), ("a", 1 / 2), ("c", 1 / 3)]
    assert [key for key, _ in fuse(["a"], ["b"])] == ["a", "b"]
    assert fuse([], []) == []


def test_without_the_encoder_an_index_with_vectors_is_sparse(folder: Path, encoder: Path) -> None:
    index = Index.open(made(folder, rows(10), encoder))
    assert index.modes == ("sparse",)
    assert index.search(["barn"], 1)[0]
    with pytest.raises(BadIndex, match="without a sentence encoder"):
        index.encode(["barn"])


def test_another_encoder_is_refused(folder: Path, encoder: Path, tmp_path: Path) -> None:
    made(folder, rows(10), encoder)
    with pytest.raises(BadIndex, match="the index was built with tiny-0"):
        Index.open(folder, tiny_encoder(tmp_path, seed=1))
    with pytest.raises(BadIndex, match="is no folder of a sentence encoder"):
        Index.open(folder, tmp_path / "nothing")


def test_a_cross_encoder_orders_what_was_found(folder: Path, tmp_path: Path) -> None:
    index = Index.open(made(folder, rows(50)), reranker_folder=tiny_cross_encoder(tmp_path))
    query = QUERIES[0]
    [plain], [hits] = index.search([query], hybrid.RERANKED), index.search([query], 10, rerank=True)
    from sentence_transformers import CrossEncoder

    pairs = [(query, f"{hit.title}\n{hit.text}") for hit in plain]
    scores = CrossEncoder(str(tmp_path / "cross")).predict(pairs, show_progress_bar=False)
    score_of = dict(zip((hit.id for hit in plain), scores.tolist(), strict=True))
    assert [hit.score for hit in hits] == pytest.approx([score_of[hit.id] for hit in hits], abs=1e-5)
    assert [hit.score for hit in hits] == pytest.approx(sorted(score_of.values())[:-11:-1], abs=1e-5)
    assert [hit.id for hit in hits] != [hit.id for hit in plain[:10]]
    assert index.search(["zebra"], rerank=True) == [[]]


def test_a_re_ranker_that_is_none(folder: Path, tmp_path: Path) -> None:
    made(folder, rows(5))
    with pytest.raises(BadIndex, match="no folder of a cross-encoder"):
        Index.open(folder, reranker_folder=tmp_path)
    with pytest.raises(ValueError, match="there is no re-ranker"):
        Index.open(folder).search(["barn"], rerank=True)


# Calls


@pytest.mark.parametrize("k", [0, -1, 1001, 10**9, True, 2.5, "5"])
def test_a_wrong_k_is_a_line(folder: Path, k: Any) -> None:
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 1000"):
        Index.open(made(folder, rows(5))).search(["barn"], k)


def test_other_calls_that_are_wrong(folder: Path) -> None:
    index = Index.open(made(folder, rows(5)))
    with pytest.raises(ValueError, match="a query of 100,000 characters: at most 10,000 go"):
        index.search(["x" * 100_000])
    with pytest.raises(ValueError, match="mode 'dense' is not to be had here: one of sparse"):
        index.search(["x"], mode="dense")
    assert index.search(["barn " * (MAX_QUERY // 5)], 1000)
    assert index.search([]) == []


@pytest.mark.parametrize("query", ["\ud800 barn", "barn\x00", "🦜 barn \u202e", "barn" + "\n" * 50])
def test_strange_queries_find_what_is_in_them(folder: Path, encoder: Path, query: str) -> None:
    found = [{"id": "a", "text": "barn"}, {"id": "b", "text": "colp"}]
    index = Index.open(made(folder, found, encoder), encoder)
    assert index.search([query], 1, "sparse")[0][0].id == "a"
    assert len(index.search([query], 2)[0]) == 2


def test_concurrent_searches_find_the_same(folder: Path, encoder: Path) -> None:
    index = Index.open(made(folder, rows(200), encoder), encoder)
    queries = [f"n{number}x {VOCABULARY[number % 24]}" for number in range(100)]
    alone = [index.search([query], 3)[0] for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: index.search([query], 3)[0], queries))
    assert [[hit.id for hit in hits] for hits in together] == [[hit.id for hit in hits] for hits in alone]


# Compressed


def clustered(count: int, dimension: int = 24) -> np.ndarray:
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(40, dimension))
    vectors = centres[chance.integers(0, 40, count)] + 0.4 * chance.normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_a_compressed_index_finds_the_nearest_and_scores_them_exactly(tmp_path: Path) -> None:
    vectors = clustered(6000)
    parts = [tmp_path / "0.npy", tmp_path / "1.npy"]
    for part, some in zip(parts, (vectors[:4000], vectors[4000:]), strict=True):
        np.save(part, some.astype("<f2"))
    dense.write(tmp_path, parts, "compressed", quiet)
    index = dense.open_dense(tmp_path)
    assert isinstance(index, dense.Compressed)
    queries = vectors[::60] + np.float32(0.01)
    _, exact = faiss.knn(queries, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)
    found = index.search(queries, 10, None)
    shared = [
        len(set(rows.tolist()) & set(best)) for (rows, _), best in zip(found, exact.tolist(), strict=True)
    ]
    assert np.mean(shared) >= 9.5
    for query, (near, scores) in zip(queries, found, strict=True):
        assert scores == pytest.approx(vectors[near] @ query, abs=2e-3)
        assert list(scores) == sorted(scores, reverse=True)
    alive = np.ones(6000, dtype=bool)
    alive[exact[:, :5].ravel()] = False
    for near, _ in index.search(queries, 10, alive):
        assert len(near) == 10
        assert alive[near].all()


def test_many_passages_are_compressed_and_few_are_not(
    folder: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "EXACT_UP_TO", 300)
    monkeypatch.setattr(dense, "lists_for", lambda passages: 4)
    found = rows(600)
    index = Index.open(made(folder, found, encoder), encoder)
    assert isinstance(index.segments[0].dense, dense.Compressed)
    exact = Index.open(made(folder.with_name("exact"), found[:300], encoder), encoder)
    assert isinstance(exact.segments[0].dense, dense.Flat)
    build.remove(folder, [f"p{number}" for number in range(300, 600)], quiet)
    index = Index.open(folder, encoder)
    assert isinstance(index.segments[0].dense, dense.Flat), "it was rewritten, and has become small"
    # The vectors were rounded to float16 meanwhile.
    for ours, theirs in zip(scores(index, "dense"), scores(exact, "dense"), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)


def ids(index: Index, mode: str, k: int = 5) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in index.search(QUERIES, k, mode)]


# Adding and removing


def scores(index: Index, mode: str, k: int = 10) -> list[list[float]]:
    return [[hit.score for hit in hits] for hits in index.search(QUERIES, k, mode)]


def test_passages_are_added_and_removed_and_nothing_is_left_behind(
    folder: Path, encoder: Path, tmp_path: Path
) -> None:
    found = rows(200)
    made(folder, found[:150], encoder)
    build.add(folder, corpus(tmp_path / "more.jsonl", found[150:165]), encoder, quiet)
    build.add(folder, corpus(tmp_path / "more.jsonl", found[165:]), encoder, quiet)
    gone = [f"p{number}" for number in (0, 17, 149, 160, 199)]
    build.remove(folder, gone, quiet)
    index = Index.open(folder, encoder)
    left = [row for row in found if row["id"] not in gone]
    anew = Index.open(made(tmp_path / "anew", left, encoder), encoder)
    assert index.info["passages"] == anew.info["passages"] == 195
    assert ids(index, "dense", 195) == ids(anew, "dense", 195)
    everything = {hit.id for hits in index.search(["barn"], 200, "dense") for hit in hits}
    assert everything == {row["id"] for row in left}
    assert index.search(["n17x"], mode="sparse") == [[]]
    assert [hit.id for hit in index.search(["n150x"], mode="sparse")[0]] == ["p150"]
    # BM25's statistics differ a little, and so may the order of passages that are nearly as good.
    for ours, theirs in zip(ids(index, "sparse"), ids(anew, "sparse"), strict=True):
        assert len(set(ours) & set(theirs)) >= len(theirs) - 1
    names = {"manifest.json", ".lock", *(entry.name for entry in index.manifest.segments)}
    assert {path.name for path in folder.iterdir()} == names
    manifest.verify(folder, index.manifest, quiet)


def test_once_all_is_merged_searches_equal_those_of_an_index_built_anew(
    folder: Path, encoder: Path, tmp_path: Path
) -> None:
    found = rows(100)
    made(folder, found[:40], encoder)
    build.add(folder, corpus(tmp_path / "more.jsonl", found[40:]), encoder, quiet)
    index, anew = Index.open(folder, encoder), Index.open(made(tmp_path / "anew", found, encoder), encoder)
    assert index.info["segments"] == 1, "40 passages are not four times as many as 60"
    for mode in index.modes:
        assert ids(index, mode, 100) == ids(anew, mode, 100)
        for ours, theirs in zip(scores(index, mode), scores(anew, mode), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
    assert index.info["fingerprint"] == anew.info["fingerprint"]


def test_many_small_additions_leave_few_segments(folder: Path, tmp_path: Path) -> None:
    found = rows(300)
    made(folder, found[:200])
    for number in range(200, 300, 5):
        build.add(folder, corpus(tmp_path / "more.jsonl", found[number : number + 5]), None, quiet)
    index = Index.open(folder)
    assert index.info["passages"] == 300
    assert index.info["segments"] <= 4
    assert all(index.search([f"n{number}x"])[0][0].id == f"p{number}" for number in (0, 199, 200, 255, 299))


def test_an_added_passage_is_scored_with_the_statistics_of_the_whole(folder: Path, tmp_path: Path) -> None:
    found = rows(400)
    made(folder, found[:390])
    build.add(folder, corpus(tmp_path / "more.jsonl", found[390:]), None, quiet)
    assert Index.open(folder).info["segments"] == 2
    ours, anew = Index.open(folder), Index.open(made(tmp_path / "anew", found))
    [[hit]], [[same]] = ours.search(["n395x"], 1), anew.search(["n395x"], 1)
    assert hit.id == same.id == "p395"
    assert hit.score == pytest.approx(same.score, rel=1e-5)


def test_ids_that_are_there_are_not_added_twice(folder: Path, tmp_path: Path) -> None:
    made(folder, rows(10))
    more = corpus(tmp_path / "more.jsonl", [*rows(2, prefix="new"), *rows(1, seed=5)])
    with pytest.raises(BadCorpus, match=r"more.jsonl, line 3: the id 'p0' is in the index already"):
        build.add(folder, more, None, quiet)
    assert Index.open(folder).info["passages"] == 10
    skipped: list[str] = []
    build.add(folder, more, None, quiet, skipped.append)
    assert Index.open(folder).info["passages"] == 12
    assert len(skipped) == 1
    build.remove(folder, ["p0"], quiet)
    build.add(folder, corpus(tmp_path / "again.jsonl", rows(1)), None, quiet)
    assert Index.open(folder).info["passages"] == 12, "an id that was removed may come again"


def test_what_is_not_there_is_not_removed_and_nothing_else_either(folder: Path) -> None:
    made(folder, rows(10))
    with pytest.raises(BadIndex, match="not in the index: 'x', 'p99'; nothing was removed"):
        build.remove(folder, ["p1", "x", "p99"], quiet)
    with pytest.raises(BadIndex, match="without passages"):
        build.remove(folder, [f"p{number}" for number in range(10)], quiet)
    assert Index.open(folder).info["passages"] == 10
    build.remove(folder, ["p1", "p1"], quiet)
    with pytest.raises(BadIndex, match="not in the index: 'p1'"):
        build.remove(folder, ["p1"], quiet)


def test_an_open_index_stays_what_it_was(folder: Path, tmp_path: Path) -> None:
    found = rows(20)
    index = Index.open(made(folder, found[:10]))
    before = index.search(QUERIES, 10)
    assert not index.changed()
    build.add(folder, corpus(tmp_path / "more.jsonl", found[10:]), None, quiet)
    build.remove(folder, ["p1", "p2"], quiet)
    assert index.changed()
    assert index.search(QUERIES, 10) == before
    assert Index.open(folder).info["fingerprint"] != index.info["fingerprint"]


def test_one_writer_at_a_time(folder: Path) -> None:
    made(folder, rows(10))
    with build._locked(folder), pytest.raises(BadIndex, match="is being written by another process"):
        build.remove(folder, ["p1"], quiet)


# Corpora that are none


def test_an_empty_corpus(folder: Path) -> None:
    with pytest.raises(BadCorpus, match="there is no passage in it"):
        made(folder, [])
    assert not folder.exists()
    assert not manifest.building_folder(folder).exists()


def test_duplicate_ids_are_named_with_both_lines(folder: Path, tmp_path: Path) -> None:
    found = [*rows(5), *rows(1)]
    with pytest.raises(BadCorpus, match=r"line 6: the id 'p0' was at line 1 already"):
        made(folder, found)
    skipped: list[str] = []
    entries = build.build(corpus(tmp_path / "x.jsonl", found), folder, None, quiet, skipped.append)
    assert entries.passages == 5
    assert len(skipped) == 1


def test_a_build_never_overwrites(folder: Path) -> None:
    made(folder, rows(5))
    with pytest.raises(BadIndex, match="exists already: extend it with `index add`"):
        made(folder, rows(5))
    other = folder.with_name("other")
    other.mkdir()
    (other / "thesis.tex").write_text("")
    with pytest.raises(BadIndex, match="exists already, and is no index"):
        made(other, rows(5))


# Damage


def test_every_file_that_is_cut_or_missing_is_noticed(folder: Path, encoder: Path, tmp_path: Path) -> None:
    made(folder, rows(20), encoder)
    build.remove(folder, ["p3"], quiet)
    names = [
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    ]
    assert len(names) > 12
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1])
        with pytest.raises(BadIndex, match="damaged"):
            Index.open(copy, encoder)
        (copy / name).unlink()
        with pytest.raises(BadIndex, match=r"damaged|has no manifest\.json"):
            Index.open(copy, encoder)
        shutil.rmtree(copy)


def test_a_changed_byte_is_found_by_the_checksums(folder: Path) -> None:
    made(folder, rows(20))
    path = folder / "000001" / "passages.bin"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadIndex, match=r"passages\.bin has another checksum"):
        manifest.verify(folder, manifest.read(folder), quiet)


def test_what_is_no_index_of_ours(folder: Path) -> None:
    with pytest.raises(BadIndex, match="there is no index at"):
        Index.open(folder)
    manifest.building_folder(folder).mkdir()
    with pytest.raises(BadIndex, match="is not finished: run the same `index build` again"):
        Index.open(folder)
    folder.mkdir()
    with pytest.raises(BadIndex, match=r"is no index of agentdistill: it has no manifest\.json"):
        Index.open(folder)
    for text, what in (
        ("{}", "somebody else's"),
        ("[]", "somebody else's"),
        ("{", "is damaged"),
        ('{"format": "agentdistill index", "version": 2}', "is of version 2, this program reads 1"),
        ('{"format": "agentdistill index", "version": 1, "segments": [1]}', "is damaged"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(BadIndex, match=what):
            Index.open(folder)


def test_hits_are_whole_passages(folder: Path) -> None:
    found = rows(5)
    [[hit]] = Index.open(made(folder, found)).search(["n3x"])
    assert hit == Hit(**found[3], score=hit.score)
    assert hit.score > 0
