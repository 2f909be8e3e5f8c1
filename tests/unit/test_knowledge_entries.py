"""Entries as files: what is read, what is refused with which line, canonical writing, merging."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill.errors import EntryFileError, UsageError
from agentdistill.knowledge.edit import begin, export_lines, finish, import_lines, merge_pair
from agentdistill.knowledge.entry import (
    MAX_BULLETS,
    Entry,
    FromPerson,
    FromTrajectory,
    Kind,
    Status,
    Use,
    as_json,
    new_id,
    question_hash,
    read_entry,
    write_entry,
)
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.merge import Conflict, conflict, merged
from agentdistill.types import TaskKind

slowly = settings(max_examples=40, deadline=None)
printable = st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" \t\n\u3000")
lines = st.text(printable, min_size=1, max_size=60).filter(lambda text: bool(text.split()))
bullets = st.lists(lines, max_size=5).map(tuple)
words = st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.+-]{0,9}\Z"), max_size=3).map(tuple)
hashes = st.text(min_size=1).map(question_hash)
sources = st.one_of(
    st.builds(FromPerson, author=lines, note=st.none() | lines, question=st.none() | hashes),
    st.builds(
        FromTrajectory,
        trajectory=lines,
        steps=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        question=hashes,
        student=lines,
        teacher=lines,
        prompt=lines,
    ),
)
counts = st.integers(0, 10**6)
entries = st.builds(
    Entry,
    id=st.from_regex(r"\A[a-z0-9]{1,8}(-[a-z0-9]{1,5}){0,2}\Z"),
    status=st.sampled_from(Status),
    locked=st.booleans(),
    kind=st.sampled_from(Kind),
    title=lines,
    trigger=lines,
    learning_summary=st.lists(lines, min_size=1, max_size=5).map(tuple),
    supplementary_knowledge=bullets,
    task_kinds=st.lists(st.sampled_from(TaskKind), max_size=3).map(tuple),
    families=words,
    tools=words,
    tags=words,
    provenance=st.lists(sources, min_size=1, max_size=3).map(tuple),
    use=st.builds(Use, retrieved=counts, wrong_to_right=counts, right_to_wrong=counts),
)


def entry(**changes: Any) -> Entry:
    given_fields: dict[str, Any] = {
        "id": "a",
        "status": "active",
        "kind": "fact",
        "title": "t",
        "trigger": "w",
        "learning_summary": ("l",),
        "provenance": (FromPerson(author="us"),),
    }
    return Entry(**{**given_fields, **changes})


@slowly
@given(entries)
def test_what_is_written_is_read_alike_by_everybody(one: Entry) -> None:
    text = write_entry(one)
    again, problems = read_entry(text.encode(), "f")
    assert again == one and not problems
    assert write_entry(again) == text
    assert Entry.model_validate(yaml.safe_load(text)) == one  # a reader that guesses types
    assert Entry.model_validate(json.loads(json.dumps(as_json(one)))) == one


@slowly
@given(entries)
def test_a_changed_bullet_is_a_changed_line(one: Entry) -> None:
    changed = one.model_copy(update={"learning_summary": ("Another thought.", *one.learning_summary[1:])})
    before, after = write_entry(one).split("\n"), write_entry(changed).split("\n")
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1


@slowly
@given(entries, entries)
def test_merging_keeps_everything_once(one: Entry, other: Entry) -> None:
    both = merged(one, other)
    said = {b.casefold().rstrip(".!").strip() for b in both.bullets}
    assert {b.casefold().rstrip(".!").strip() for b in one.bullets + other.bullets} == said
    assert set(both.provenance) == {*one.provenance, *other.provenance}
    assert both.questions == one.questions | other.questions
    assert (both.id, both.status, both.title, both.trigger) == (one.id, one.status, one.title, one.trigger)
    assert merged(both, other) == both
    assert merged(one, one).bullets == one.bullets
    assert both.learning_summary[: len(one.learning_summary)] == one.learning_summary


@slowly
@given(entries, st.sampled_from(["locked", "status", "use", "id", "provenance"]))
def test_the_content_hash_is_of_the_content(one: Entry, field: str) -> None:
    changes = {
        "locked": not one.locked,
        "status": Status.RETIRED,
        "use": Use(retrieved=3),
        "id": "other",
        "provenance": (FromPerson(author="somebody"),),
    }
    assert one.model_copy(update={field: changes[field]}).content_hash == one.content_hash
    assert one.model_copy(update={"title": one.title + " more"}).content_hash != one.content_hash
    assert one.model_copy(update={"tags": (*one.tags, "zz-new")}).content_hash != one.content_hash


def test_conflicts() -> None:
    assert conflict(entry(), entry(id="b")) is None
    assert conflict(entry(locked=True), entry(id="b")) is Conflict.LOCKED
    assert conflict(entry(status="retired"), entry(id="b")) is Conflict.RETIRED
    assert conflict(entry(), entry(id="b", kind="pitfall")) is Conflict.KIND
    many = tuple(f"bullet {i}" for i in range(MAX_BULLETS))
    assert (
        conflict(entry(learning_summary=many), entry(id="b", learning_summary=("one more",)))
        is Conflict.TOO_LONG
    )


GOOD = write_entry(entry(id="good", supplementary_knowledge=("k",)))


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (lambda t: t.replace("status: active", "status: actve"), 2, "status = 'actve'"),
        (lambda t: t.replace("kind: fact\n", ""), 1, "kind is missing"),
        (lambda t: t.replace("kind: fact", "kind: fact\nkinds: fact"), 4, "no field kinds"),
        (lambda t: t.replace("kind: fact", "kind: fact\nkind: pitfall"), 4, "kind is there twice"),
        (lambda t: t.replace("- l\n", "- l: m\n"), 7, "learning_summary.0 must be one text"),
        (lambda t: t.split("provenance:")[0], 1, "provenance is missing"),
        (lambda t: t.split("provenance:")[0] + "provenance: []\n", 10, "provenance is empty"),
        (lambda t: t + "- trajectory: x\n", 12, "provenance.1.steps is missing"),
        (
            lambda t: t.replace("- l\n", "<<<<<<< HEAD\n- l\n=======\n- m\n>>>>>>> theirs\n"),
            7,
            "merge conflict",
        ),
        (lambda t: t.replace("- l\n", "- [l\n"), 8, "is no YAML"),
        (lambda t: t.replace("- l\n", "- &x l\n- *x\n"), 7, "anchors"),
        (lambda t: t.replace("title: t", 'title: "a\\ab"'), 4, "control characters"),
        (lambda t: t.replace("title: t", "title: " + "x" * 300), 4, "title = "),
        (lambda t: t.replace("learning_summary:\n- l\nsupplementary_knowledge:\n- k\n", ""), 1, "no bullet"),
        (lambda t: t.replace("id: good", "id: Good One"), 1, "id = 'Good One'"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, change: Any, line: int, words: str) -> None:
    folder = EntryFolder(tmp_path, create=True)
    path = folder.path("good")
    path.write_text(change(GOOD))
    _, _, problems = folder.check()
    assert (str(path), line) in [(found.file, found.line) for found in problems], problems
    assert words in problems[0].what
    with pytest.raises(EntryFileError, match="line"):
        folder.entries()


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe", b"[" * 40000, b"- a\n- b\n", b"x" * 70000, b"{" * 2000, b"\x00"]
)
def test_rubbish_is_one_problem(raw: bytes) -> None:
    found, problems = read_entry(raw, "f")
    assert found is None and len(problems) == 1


@slowly
@given(st.binary(max_size=300))
def test_no_bytes_are_a_crash(raw: bytes) -> None:
    found, problems = read_entry(raw, "f")
    assert (found is None) == bool(problems)


def test_ids_that_are_twice_there_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path, create=True)
    folder.save(entry(id="one"))
    folder.path("two").write_text(write_entry(entry(id="one")))
    (tmp_path / "entries" / "one.yaml.orig").write_text("x")
    told = "\n".join(map(str, folder.check()[2]))
    assert "the id 'one' is that of" in told and "two.yaml" in told and "one.yaml.orig" in told


def test_new_ids_are_names_of_files() -> None:
    for title in ("Counting fruit", "", "../../etc", "Ünïcödé only: é", "x" * 500):
        assert entry(id=new_id(title, "salt")).id
    assert new_id("a", "1") != new_id("a", "2")


def test_two_peoples_edits_merge_as_ordinary_diffs(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    folder = EntryFolder(tmp_path, create=True)
    one = entry(learning_summary=("first", "second", "third", "fourth"), supplementary_knowledge=("k",))
    folder.save(one)
    git("init")
    git("add", "-A")
    git("commit", "-m", "start")
    git("checkout", "-b", "theirs")
    folder.save(one.model_copy(update={"learning_summary": ("first", "second", "third", "fourth, changed")}))
    git("commit", "-am", "theirs")
    git("checkout", "main")
    folder.save(one.model_copy(update={"learning_summary": ("first, changed", "second", "third", "fourth")}))
    git("commit", "-am", "ours")
    git("merge", "theirs", "-m", "both")
    [both] = folder.entries()
    assert both.learning_summary == ("first, changed", "second", "third", "fourth, changed")


def test_an_edit_with_a_mistake_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path, create=True)
    folder.save(entry())
    before = folder.path("a").read_text()
    draft = begin(folder, "a")
    draft.path.write_text(before.replace("kind: fact", "kind: fct"))
    with pytest.raises(EntryFileError, match=r"line 3.*kept"):
        finish(folder, draft)
    assert folder.path("a").read_text() == before
    again = begin(folder, "a")
    assert "kind: fct" in again.path.read_text()
    again.path.write_text(before.replace("kind: fact", "kind: pitfall"))
    assert finish(folder, again) and folder.entries()[0].kind is Kind.PITFALL
    assert not again.path.exists()


def test_an_edit_does_not_overwrite_somebody_elses(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path, create=True)
    folder.save(entry())
    draft = begin(folder, "a")
    draft.path.write_text(draft.before.replace("title: t", "title: mine"))
    folder.save(entry(title="theirs"))
    with pytest.raises(EntryFileError, match="changed meanwhile"):
        finish(folder, draft)
    assert folder.entries()[0].title == "theirs" and "mine" in draft.path.read_text()


def test_a_new_entry_begins_as_a_valid_one(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path, create=True)
    assert finish(folder, begin(folder, "mine", new_author='A "name": x'))
    [made] = folder.entries()
    assert made.id == "mine" and made.provenance == (FromPerson(author='A "name": x'),)
    with pytest.raises(UsageError, match="has an entry"):
        begin(folder, "mine", new_author="me")


def test_export_and_import_are_each_others_reverse(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path / "one", create=True)
    made = [entry(id="a"), entry(id="b", use=Use(retrieved=2), title="zwei \u2028 drei")]
    for one in made:
        folder.save(one)
    file = tmp_path / "kb.jsonl"
    file.write_text(export_lines(folder.entries()))
    other = EntryFolder(tmp_path / "two", create=True)
    assert import_lines(other, file) == (2, 0)
    assert import_lines(other, file) == (0, 2)
    assert other.entries() == folder.entries()
    other.save(made[0].model_copy(update={"title": "changed"}))
    with pytest.raises(EntryFileError, match=r"line 1.*another content"):
        import_lines(other, file)
    assert import_lines(other, file, replace=True) == (1, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "is no JSON"), ("[1]", "fields"), ('{"id": "x"}', "kind is missing"), ("null", "fields")],
)
def test_a_broken_line_imports_nothing(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "kb.jsonl"
    file.write_text(export_lines([entry()]) + line + "\n")
    folder = EntryFolder(tmp_path / "kb", create=True)
    with pytest.raises(EntryFileError, match=f"line 2.*{words}"):
        import_lines(folder, file)
    assert not folder.entries()


def test_a_person_may_merge_a_proposal_into_a_locked_entry(tmp_path: Path) -> None:
    folder = EntryFolder(tmp_path, create=True)
    folder.save(entry(locked=True))
    folder.save(entry(id="b", status="draft", learning_summary=("new",)), review=True)
    assert merge_pair(folder, "a", "b").learning_summary == ("l", "new")
    assert folder.check()[1] == []
    with pytest.raises(UsageError):
        merge_pair(folder, "a", "a")
