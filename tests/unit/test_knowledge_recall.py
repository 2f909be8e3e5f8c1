"""The index follows the files whatever happens to it; recall gives what may be given and fits."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import tiny_encoder

from agentdistill.errors import EntryFileError, KnowledgeBaseError
from agentdistill.knowledge.encoder import Encoder, Vectors
from agentdistill.knowledge.entry import Entry, FromPerson, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.merge import Duplicates
from agentdistill.knowledge.notes import load_notes, shown
from agentdistill.knowledge.recall import Choice, Filter, LocalKnowledgeBase, Searcher, family
from agentdistill.knowledge.store import INDEX, Index
from agentdistill.types import Task, TaskKind

ANY = Filter()


def entry(id: str, title: str = "Counting objects", **changes: Any) -> Entry:
    given: dict[str, Any] = {
        "id": id,
        "status": "active",
        "kind": "procedure",
        "title": title,
        "trigger": f"A task is about {title}.",
        "learning_summary": ("Read the list twice.",),
        "provenance": (FromPerson(author="us"),),
    }
    return Entry(**{**given, **changes})


def saved(path: Path, *entries: Entry) -> EntryFolder:
    folder = EntryFolder(path, create=True)
    for one in entries:
        folder.save(one)
    return folder


def aged(folder: EntryFolder) -> EntryFolder:
    """Files that were not written a moment ago."""
    for path in folder.files("entries"):
        os.utime(path, ns=(time.time_ns() - 10**11,) * 2)
    return folder


def ids(folder: EntryFolder, query: str, wanted: Filter = ANY, encoder: Encoder | None = None) -> list[str]:
    return [hit.entry.id for hit in Searcher(Index(folder, encoder)).search(query, 10, wanted)]


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    folder = aged(saved(tmp_path, entry("a"), entry("b", "Sorting words")))
    assert Index(folder).read == 2
    assert Index(folder).read == 0
    folder.save(entry("b", "Rotating words"))
    assert Index(folder).read == 1
    assert ids(folder, "rotating words") == ["b"] and ids(folder, "sorting of things") == []
    folder.path("a").unlink()
    assert [row.id for row in Index(folder).rows] == ["b"]
    assert ids(folder, "counting objects") == []


def test_a_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    """Same size, same times, same inode: the "racy git" case."""
    folder = saved(tmp_path, entry("a", "Counting cats"))
    assert ids(folder, "counting cats") == ["a"]
    path = folder.path("a")
    before = path.stat()
    with path.open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text.replace("cats", "dogs"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ids(folder, "counting dogs") == ["a"]


def test_a_renamed_entry_is_found_once(tmp_path: Path) -> None:
    folder = aged(saved(tmp_path, entry("a")))
    Index(folder)
    folder.path("a").unlink()
    folder.save(entry("z"))
    assert ids(folder, "counting objects") == ["z"]


@pytest.mark.parametrize("damage", [b"rubbish" * 1000, b"", b"SQLite format 3\x00" + b"\x00" * 5000])
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    folder = saved(tmp_path, entry("a"))
    Index(folder)
    (tmp_path / INDEX).write_bytes(damage)
    index = Index(folder)
    assert [row.id for row in index.rows] == ["a"]
    assert bool(index.rebuilt) == bool(damage)


def test_an_index_of_another_version_is_made_anew(tmp_path: Path) -> None:
    folder = saved(tmp_path, entry("a"))
    Index(folder)
    disk = sqlite3.connect(tmp_path / INDEX)
    disk.execute("PRAGMA user_version = 99")
    disk.commit()
    disk.close()
    index = Index(folder)
    assert "version 99" in index.rebuilt and len(index.rows) == 1


def test_a_broken_entry_stops_everything_and_its_repair_helps(tmp_path: Path) -> None:
    folder = saved(tmp_path, entry("a"), entry("b"))
    Index(folder)
    good = folder.path("b").read_text()
    folder.path("b").write_text(good.replace("kind: procedure", "kind: x"))
    for _ in range(2):  # not only the first time
        with pytest.raises(EntryFileError, match=r"b\.yaml line 3"):
            Index(folder)
    folder.path("b").write_text(good)
    assert len(Index(folder).rows) == 2


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EntryFileError, match="no knowledge base"):
        EntryFolder(tmp_path / "nothing")


def test_an_index_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, entry("a"))
    monkeypatch.setattr("agentdistill.knowledge.store._WAIT", 0.2)
    Index(folder)
    other = sqlite3.connect(tmp_path / INDEX, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(KnowledgeBaseError, match="locked"):
        Index(folder)
    other.close()


PROGRAM = """
import sys
from pathlib import Path
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.store import Index
print("go", flush=True)
print(len(Index(EntryFolder(Path(sys.argv[1]))).rows))
"""


def test_processes_side_by_side_and_killed_ones(tmp_path: Path) -> None:
    folder = saved(tmp_path, *(entry(f"e-{n}", f"Counting things of sort {n}") for n in range(300)))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    killed = 0
    for delay in (0.0, 0.01, 0.03, 0.06):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "go\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert killed
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [run.communicate()[0].split()[-1] for run in runs] == ["300"] * 3
    assert len(Index(folder).rows) == 300 and not Index(folder).rebuilt


class Counted(Encoder):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.texts = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.texts += len(texts)
        return super().encode(texts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


def test_a_content_is_embedded_once(tmp_path: Path, tiny: Path) -> None:
    folder = saved(tmp_path, entry("a"), entry("b", "Sorting words"))
    encoder = Counted(tiny)
    first = Index(folder, encoder)
    assert encoder.texts == 2
    folder.path("a").unlink()
    folder.save(entry("renamed"))
    folder.save(entry("b", "Sorting words", status="retired", use={"retrieved": 4}))
    second = Index(folder, encoder)
    assert encoder.texts == 2
    vectors = second.vectors()
    assert vectors is not None and vectors.shape == (2, 24)
    assert np.allclose(sorted(vectors[:, 0]), sorted(first.vectors()[:, 0]))  # type: ignore[index]
    assert Index(folder).vectors() is None


def test_another_encoder_has_vectors_of_its_own(tmp_path: Path, tiny: Path, tmp_path_factory: Any) -> None:
    folder = saved(tmp_path, entry("a"))
    other = tiny_encoder(tmp_path_factory.mktemp("other"), seed=1)
    one, two = Index(folder, Encoder(tiny)).vectors(), Index(folder, Encoder(other)).vectors()
    assert one is not None and two is not None and not np.allclose(one, two)


def test_the_filter(tmp_path: Path) -> None:
    text = "Counting objects"
    folder = saved(
        tmp_path,
        entry("all"),
        entry("draft", status="draft"),
        entry("retired", status="retired"),
        entry("qa", task_kinds=("qa",)),
        entry("gsm", families=("gsm8k", "svamp")),
        entry("tool", tools=("search",)),
        entry("own", provenance=(FromPerson(author="us", question=question_hash(text)),)),
    )
    assert set(ids(folder, text)) == {"all", "qa", "gsm", "tool", "own"}
    assert set(ids(folder, text, Filter(task_kind="math"))) == {"all", "gsm", "tool", "own"}
    assert set(ids(folder, text, Filter(family="svamp"))) == {"all", "qa", "gsm", "tool", "own"}
    assert set(ids(folder, text, Filter(family="other"))) == {"all", "qa", "tool", "own"}
    assert "tool" not in ids(folder, text, Filter(tools=frozenset({"final_answer"})))
    assert "tool" in ids(folder, text, Filter(tools=frozenset({"search", "x"})))
    assert "own" not in ids(folder, text, Filter(not_question=question_hash("counting   OBJECTS")))
    assert ids(folder, text, Filter(statuses=frozenset({"draft"}))) == ["draft"]


def test_words_are_ranked_and_what_hardly_fits_is_left_out(tmp_path: Path) -> None:
    folder = saved(
        tmp_path,
        entry("boats", "Boats that cross a river", learning_summary=("The current adds to the speed.",)),
        entry("rivers", "Names of rivers", learning_summary=("Rivers have names.",)),
    )
    assert ids(folder, "A boat crosses the river against the current. How fast is it?") == ["boats"]
    assert ids(folder, "What is the weather?") == [] == ids(folder, "") == ids(folder, "1 + 2 = ?")
    assert ids(folder, 'NEAR("x" AND * OR ) river boat -current') == ["boats"]  # no query language


def test_what_is_found_by_meaning_and_words_comes_first(tmp_path: Path, tiny: Path) -> None:
    folder = saved(tmp_path, entry("a", "city river king"), entry("b", "film music war"))
    searcher = Searcher(Index(folder, Encoder(tiny)))
    assert searcher.mode == "hybrid"
    hits = searcher.search("the film of the music war", 2, ANY)
    assert hits[0].entry.id == "b" and hits[0].word_rank == 1 and hits[0].cosine is not None
    assert hits[0].score > hits[-1].score or len(hits) == 1
    assert Searcher(Index(folder)).mode == "lexical"


def test_threads_may_search_at_once(tmp_path: Path, tiny: Path) -> None:
    folder = saved(tmp_path, *(entry(f"e-{n}", f"Counting things like number{n}") for n in range(30)))
    base = LocalKnowledgeBase(Searcher(Index(folder, Encoder(tiny))))
    task = Task("t", "How do I go about counting things?", "1")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: base.recall(task.question, task), range(64)))
    assert len(set(found)) == 1 and found[0].entries


def test_a_random_entry_is_never_made_of_the_question(tmp_path: Path) -> None:
    own = FromPerson(author="us", question=question_hash("q 7"))
    folder = saved(tmp_path, *(entry(f"e-{n}") for n in range(3)), entry("own", provenance=(own,)))
    base = LocalKnowledgeBase(Searcher(Index(folder)), Choice.RANDOM)
    drawn = {base.recall("x", Task("t", f"q {n}", "1")).entries for n in range(40)}
    assert len(drawn) == 4
    assert base.recall("x", Task("t", "q 7", "1")).entries != ("own",)
    assert base.recall("x", Task("t", "q 9", "1")) == base.recall("y", Task("t", "q 9", "1"))


def test_the_budget_keeps_whole_bullets_of_both_sorts() -> None:
    one = entry(
        "a",
        learning_summary=tuple(f"Learn {n} " + "x" * 80 for n in range(8)),
        supplementary_knowledge=tuple(f"Know {n} " + "x" * 80 for n in range(8)),
    )
    notes = load_notes()
    for most in (0, 60, 150, 300, 600, 5000):
        text = shown(one, notes, most)
        assert len(text) <= most
        given = [line[2:] for line in text.split("\n") if line.startswith("- ")]
        assert set(given) <= set(one.bullets)
        assert abs(sum(g[0] == "L" for g in given) - sum(g[0] == "K" for g in given)) <= 1
    assert shown(one, notes, 100) == ""


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("gsm8k_train", "gsm8k"),
        ("gsm8k_dev.jsonl", "gsm8k"),
        ("math_train_hard", "math"),
        ("boolean_expressions", "boolean_expressions"),
        ("navigate-test", "navigate"),
        ("navigate_build_1", "navigate"),
        ("testing_things", "testing_things"),
        ("hub/name of it", "hub-name-of-it"),
        ("", ""),
    ],
)
def test_families(source: str, name: str) -> None:
    assert family(Task("t", "q", "1", source=source)) == name
    assert family(Task("t", "q", "1", source=source, meta={"family": "own"})) == "own"


MINILM_PAIRS = [
    ("Track x, y and the direction of every step; the walk returns if both are zero at its end.", True),
    ("Use the compound interest formula with the number of periods.", False),
]


@pytest.mark.models
def test_the_catalogs_encoder_merges_near_duplicates_alone() -> None:
    from agentdistill import catalog

    encoder = Encoder(catalog.fetch("all-minilm-l6-v2"))

    def walk(id: str, bullet: str, **changes: Any) -> Entry:
        trigger = "A task asks whether a walk returns to its start."
        more = {"trigger": trigger, "learning_summary": (bullet,), **changes}
        return entry(id, "Following instructions on a grid", **more)

    known = walk(
        "a", "Track x, y and the direction at each step; the walk returns if both are zero at the end."
    )
    duplicates = Duplicates([known, entry("c", "Sorting words")], encoder)
    for bullet, same in MINILM_PAIRS:
        found = duplicates.of(walk("b", bullet))
        assert (found.id if found else None) == ("a" if same else None)
    assert duplicates.of(walk("b", MINILM_PAIRS[0][0], tags=("other",))) is None
    assert duplicates.of(known) is None


@pytest.mark.models
def test_the_catalogs_encoder_finds_what_shares_no_word(tmp_path: Path) -> None:
    from agentdistill import catalog

    folder = saved(
        tmp_path,
        entry("count", "Counting objects of a category", trigger="A task asks how many of a sort there are."),
        entry(
            "bool", "Evaluating boolean expressions", trigger="A task asks for the value of True and False."
        ),
    )
    task = Task(
        "t",
        "I have an apple, three bananas and a plum. How many fruits do I have?",
        "5",
        TaskKind.MATH,
    )
    encoder = Encoder(catalog.fetch("all-minilm-l6-v2"))
    found = LocalKnowledgeBase(Searcher(Index(folder, encoder))).recall(task.question, task)
    assert found.entries == ("count",) and found.mode == "hybrid"
    assert LocalKnowledgeBase(Searcher(Index(folder))).recall(task.question, task).entries == ()
