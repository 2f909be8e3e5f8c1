"""The index of `inspect`: every attempt is found where it lies, whatever happened to the file meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.runs import RunWriter
from agentdistill.tui import inspect_index
from agentdistill.tui.inspect_index import RunIndex
from agentdistill.tui.inspect_listing import Attempts, Pairs, View, duration, fitted
from agentdistill.types import StopReason, Trajectory, to_json
from tests.inspected import HOSTILE, attempt, full, grade_run, run_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inspect"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the index of a small RUN too."""
    monkeypatch.setattr(inspect_index, "KEPT_FROM", 0)


def filled(run: Path) -> RunIndex:
    index = RunIndex(run)
    index.fill()
    return index


def line(trajectory: Trajectory) -> bytes:
    return json.dumps(to_json(trajectory)).encode() + b"\n"


def tasks(index: RunIndex, **view: object) -> list[str]:
    listing = Attempts(index)
    return [row["task"] for row in listing.rows(listing.keys(View(**view)))]  # type: ignore[arg-type]


def test_every_attempt_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    attempts = [attempt(1), full(), attempt(3, question=HOSTILE + "大" * 500, answer=None)]
    index = filled(run_of(tmp_path / "run", *attempts))
    assert [index.trajectory(n) for n in (1, 2, 3)] == attempts
    assert index.count() == 3
    score = index.score(attempts[0].id)
    assert score is not None and score.correct and index.score("nobody's") is None


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        RunIndex(tmp_path / "missing")
    with pytest.raises(RunDirectoryError, match=r"no run\.json"):
        RunIndex(tmp_path)


def test_an_empty_run_and_one_without_scores(tmp_path: Path) -> None:
    empty = filled(run_of(tmp_path / "empty", graded=False))
    assert empty.count() == 0 and tasks(empty) == [] and not empty.problems
    ungraded = filled(run_of(tmp_path / "ungraded", attempt(1), graded=False))
    assert tasks(ungraded, only="ungraded") == ["t1"] and tasks(ungraded, only="wrong") == []


def test_a_torn_last_line_is_left_out_until_it_is_whole(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1))
    whole = line(attempt(2))
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(whole[:100])
        file.flush()
        index = filled(run)
        assert tasks(index) == ["t1"]
        file.write(whole[100:])
    index.fill()
    assert tasks(index) == ["t1", "t2"]
    assert index.trajectory(2) == attempt(2)


@pytest.mark.parametrize(
    "damaged",
    [b"{broken\n", b"[1]\n", b'{"id": "a"}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\n", b'{"id": 7}\n'],
)
def test_a_damaged_line_is_a_row_that_says_so(tmp_path: Path, damaged: bytes) -> None:
    run = run_of(tmp_path / "run", attempt(1))
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(damaged + line(attempt(3)))
    index = filled(run)
    assert tasks(index) == ["t1", "", "t3"]
    listing = Attempts(index)
    [row] = listing.rows(listing.keys(View(only="errors")))
    assert "line 2 is damaged" in row["question"]
    [(_, page)] = listing.pages(2)
    assert isinstance(page, str) and "line 2" in page
    assert index.trajectory(3) == attempt(3)


def test_what_is_no_number_where_a_number_belongs_cannot_stop_the_page(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1))
    row = to_json(attempt(2))
    row["steps"][0]["tokens_in"] = "many"
    row["usage"]["tokens_in"] = 10**40
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(json.dumps(row).encode() + b"\n")
    index = filled(run)
    assert tasks(index) == ["t1", "t2"]
    [(_, page)] = Attempts(index).pages(2)
    assert isinstance(page, str) and "cannot be shown" in page


def test_damaged_scores_are_said_and_the_attempts_stay(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1), attempt(2))
    good = (run / "scores.jsonl").read_text().splitlines()[0]
    (run / "scores.jsonl").write_text(f'{good}\n{{"attempt": 3}}\n')
    index = filled(run)
    assert tasks(index, only="right") == ["t1"] and tasks(index, only="ungraded") == ["t2"]
    assert "scores.jsonl line 2" in index.problems[0]


def test_grading_again_is_seen(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1), graded=False)
    index = filled(run)
    grade_run(run, attempt(1))
    index.fill()
    assert tasks(index, only="right") == ["t1"]


@pytest.mark.usefixtures("kept")
def test_a_kept_index_is_used_and_grows(tmp_path: Path, cache: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1), attempt(2))
    filled(run).close()
    assert len(list(cache.iterdir())) == 1
    again = RunIndex(run)
    assert again.from_kept and again.count() == 2
    with RunWriter(run, stage="eval", shape={"model": "fake"}, asked={}) as writer:
        writer.append(attempt(3))
    again.fill()
    assert tasks(again) == ["t1", "t2", "t3"] and again.trajectory(3) == attempt(3)
    assert RunIndex(run).count() == 3


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("how", ["replaced", "shortened", "same size", "gone"])
def test_a_kept_index_of_another_file_is_made_anew(tmp_path: Path, how: str) -> None:
    run = run_of(tmp_path / "run", attempt(1), attempt(2))
    filled(run).close()
    path = run / "trajectories.jsonl"
    if how == "replaced":
        other = run / "other"
        other.write_bytes(line(attempt(5)) + line(attempt(6)) + line(attempt(7)))
        other.replace(path)
        expected = ["t5", "t6", "t7"]
    elif how == "shortened":
        path.write_bytes(line(attempt(5)))
        expected = ["t5"]
    elif how == "same size":
        stat = path.stat()
        path.write_bytes(path.read_bytes().replace(b"t1", b"t8"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        expected = ["t8", "t2"]
    else:
        path.unlink()
        expected = []
    assert tasks(filled(run)) == expected


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("what", [b"", b"no database", b"SQLite format 3\x00" + b"\x00" * 5000])
def test_a_damaged_kept_index_does_no_harm(tmp_path: Path, cache: Path, what: bytes) -> None:
    run = run_of(tmp_path / "run", attempt(1))
    filled(run).close()
    [file] = cache.iterdir()
    file.write_bytes(what)
    assert tasks(filled(run)) == ["t1"]


@pytest.mark.usefixtures("kept")
def test_an_index_that_cannot_be_kept_is_said(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    index = filled(run_of(tmp_path / "run", attempt(1)))
    assert tasks(index) == ["t1"]
    assert "cannot be kept" in index.problems[0]


@pytest.mark.usefixtures("kept")
def test_only_so_many_indexes_are_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_index, "KEPT", 2)
    for number in range(4):
        filled(run_of(tmp_path / f"run{number}", attempt(number))).close()
    assert len(list(cache.iterdir())) == 2


def test_nothing_is_written_into_a_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1))
    before = {path: path.stat().st_mtime_ns for path in [run, *run.iterdir()]}
    filled(run).close()
    assert {path: path.stat().st_mtime_ns for path in [run, *run.iterdir()]} == before


def test_an_attempt_that_moved_meanwhile_is_an_error(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", attempt(1), attempt(2))
    index = filled(run)
    (run / "trajectories.jsonl").write_bytes(line(attempt(9)) * 3)
    with pytest.raises(RunDirectoryError):
        index.trajectory(2)


def test_views(tmp_path: Path) -> None:
    attempts = [
        attempt(1),
        attempt(2, answer="none of it"),
        attempt(3, answer=None, stop_reason=StopReason.MAX_STEPS),
        full(),
    ]
    index = filled(run_of(tmp_path / "run", *attempts))
    assert tasks(index, only="wrong") == ["t2", "t3"]
    assert tasks(index, only="unanswered") == ["t3"]
    assert tasks(index, only="errors") == ["t42"]
    assert tasks(index, search="NONE of") == ["t2"]
    assert tasks(index, search="what is 4") == ["t42"]
    assert tasks(index, search="100%_") == []
    assert tasks(index, sort="tokens_out", descending=True) == ["t42", "t3", "t2", "t1"]
    assert tasks(index, sort="correct") == ["t2", "t3", "t1", "t42"]
    with pytest.raises(UsageError, match="no filter 'foo'"):
        Attempts(index).checked(View(only="foo"))
    with pytest.raises(UsageError, match="no column 'foo'"):
        Attempts(index).checked(View(sort="foo"))


def test_pairs_begin_with_changed_verdicts(tmp_path: Path) -> None:
    before = [attempt(i, answer=str(i) if i in (1, 2) else "no") for i in range(1, 7)]
    after = [attempt(i, answer=str(i) if i in (2, 3) else "no") for i in range(1, 5)]
    after += [attempt(5, question="another question"), attempt(9)]
    first, second = (filled(run_of(tmp_path / name, *rows)) for name, rows in (("a", before), ("b", after)))
    pairs = Pairs(first, second)
    keys = pairs.keys(View())
    found = [(pairs.columns[0].show(row["change"]), row["task"]) for row in pairs.rows(keys)]
    assert found == [
        ("lost", "t1"),
        ("gained", "t3"),
        ("same", "t2"),
        ("same", "t4"),
        ("only in 1", "t5"),
        ("only in 1", "t6"),
        ("only in 2", "t5"),
        ("only in 2", "t9"),
    ]
    assert [n for _, n in pairs.lines(keys[0])] == [1, 1]
    assert [n for _, n in pairs.lines(keys[-1])] == [None, 6]
    assert pairs.matching("changed") == 2 and pairs.matching("unpaired") == 4


def test_with_several_samples_the_attempts_shown_have_the_change(tmp_path: Path) -> None:
    before = [attempt(1, sample=0), attempt(1, sample=1, answer="no"), attempt(1, sample=2)]
    after = [attempt(1, sample=0), attempt(1, sample=1, answer="no"), attempt(1, sample=2, answer="no")]
    first, second = (filled(run_of(tmp_path / name, *rows)) for name, rows in (("a", before), ("b", after)))
    pairs = Pairs(first, second)
    [row] = pairs.rows(pairs.keys(View()))
    shown = [column.show(row[column.name]) for column in pairs.columns]
    assert shown[0] == "lost" and "67%" in shown and "33%" in shown
    assert [n for _, n in pairs.lines(row["key"])] == [1, 2]


def test_cells_are_as_wide_as_they_should_be() -> None:
    assert fitted("大大大", 4) == "大 …"
    assert fitted("大大", 5) == "大大 " and fitted("7", 3, right=True) == "  7"
    assert [duration(s) for s in (0.04, 99.96, 100, 3_725)] == ["0.0 s", "100.0 s", "1:40", "1:02:05"]
