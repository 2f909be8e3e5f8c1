"""RUNs beside each other: what is paired, what is not and is said, and the page and table of it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.evaluation.stats import paired_difference
from agentdistill.runs import RunWriter
from agentdistill.stages.compare import compare
from agentdistill.stages.grade import grade
from agentdistill.types import Message, Step, StopReason, Task, Trajectory

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def task(number: int, source: str = "sums", question: str = "") -> Task:
    return Task(f"t{number}", question or f"What is {number}?", str(number), source=source)


def attempt(given: Task, correct: bool, sample: int = 0, **fields: Any) -> Trajectory:
    fields = {"steps": (Step("I think", "x = 1", "1"),), **fields}
    answer = given.answer if correct else "wrong"
    return Trajectory(
        f"{given.id}#{sample}@x",
        given,
        fields.pop("messages", ()),
        fields.pop("steps"),
        answer,
        StopReason.FINAL_ANSWER,
        "fake",
        sample,
        **fields,
    )


def run_of(folder: Path, *attempts: Trajectory, graded: bool = True) -> Path:
    with RunWriter(folder, stage="eval", shape={"model": "fake"}, asked={}) as run:
        run.append(*attempts)
    if graded:
        grade(folder)
    return folder


def marks(text: str) -> list[bool]:
    return [mark == "+" for mark in text]


def runs(tmp_path: Path, first: str, second: str) -> list[Path]:
    return [
        run_of(tmp_path / name, *[attempt(task(i), mark) for i, mark in enumerate(marks(text))])
        for name, text in (("before", first), ("after", second))
    ]


def test_pairs_are_by_task_whatever_the_order(tmp_path: Path) -> None:
    before = run_of(tmp_path / "before", *[attempt(task(i), i < 3) for i in range(6)])
    after = run_of(tmp_path / "after", *[attempt(task(i), i > 1) for i in reversed(range(6))])
    (pairing,) = compare([before, after]).pairings
    expected = paired_difference([i < 3 for i in range(6)], [i > 1 for i in range(6)])
    assert pairing.all == pairing.by_source["sums"] == expected
    assert set(pairing.changed) == {"t0", "t1", "t3", "t4", "t5"}
    assert pairing.unpaired() == ""
    assert "exact McNemar p = " in pairing.test(pairing.all)


def test_what_is_not_paired_is_counted_and_named(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", *[attempt(task(i), True) for i in (0, 1, 2)])
    other = attempt(task(2, question="Another question"), True)
    after = run_of(tmp_path / "b", attempt(task(0), False), other, *[attempt(task(i), True) for i in (7, 8)])
    (pairing,) = compare([before, after]).pairings
    assert pairing.all.n == 1
    assert (pairing.only_first, pairing.only_second, pairing.other_question) == (
        ("t1",),
        ("t7", "t8"),
        ("t2",),
    )
    said = pairing.unpaired()
    assert "1 only in the first run (t1)" in said
    assert "2 only in b (t7, t8)" in said
    assert "another question under the same id (t2)" in said


def test_several_attempts_are_compared_by_task(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", *[attempt(task(i), i + s > 5, s) for i in range(6) for s in range(4)])
    after = run_of(tmp_path / "b", *[attempt(task(i), i + s > 3, s) for i in range(6) for s in range(4)])
    (pairing,) = compare([before, after]).pairings
    assert pairing.all.n == 6
    assert pairing.sampled
    assert "randomisation" in pairing.test(pairing.all)
    assert pairing.all.difference == pytest.approx(pairing.all.after - pairing.all.before)


def test_each_source_has_its_own_difference(tmp_path: Path) -> None:
    given = [task(i, "sums" if i < 4 else "names") for i in range(8)]
    before = run_of(tmp_path / "a", *[attempt(t, False) for t in given])
    after = run_of(tmp_path / "b", *[attempt(t, t.source == "sums") for t in given])
    (pairing,) = compare([before, after]).pairings
    assert {name: row.difference for name, row in pairing.rows().items()} == {
        "sums": 1.0,
        "names": 0.0,
        "all": 0.5,
    }


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", attempt(task(0), True))
    with pytest.raises(UsageError, match="two or more"):
        compare([before])
    with pytest.raises(UsageError, match="no task in common"):
        compare([before, run_of(tmp_path / "b", attempt(task(1), True))])
    ungraded = run_of(tmp_path / "c", attempt(task(0), True), graded=False)
    with pytest.raises(RunDirectoryError, match="agentdistill grade"):
        compare([before, ungraded])
    grade(ungraded)
    with RunWriter(ungraded, stage="eval", shape={"model": "fake"}, asked={}) as run:
        run.append(attempt(task(5), True))
    with pytest.raises(RunDirectoryError, match="1 of 2 attempts are not graded"):
        compare([before, ungraded])


def test_another_way_of_grading_is_said(tmp_path: Path) -> None:
    first, second = runs(tmp_path, "++", "+-")
    scores = (second / "scores.jsonl").read_text().replace('"text"', '"judge"')
    (second / "scores.jsonl").write_text(scores)
    (pairing,) = compare([first, second]).pairings
    assert "Graded differently: before by our rules alone, after by judge." in pairing.unpaired()


def test_runs_of_one_name_have_their_paths(tmp_path: Path) -> None:
    first = run_of(tmp_path / "x" / "run", attempt(task(0), True))
    second = run_of(tmp_path / "y" / "run", attempt(task(0), False))
    assert [run.label for run in compare([first, second]).runs] == [str(first), str(second)]


def test_the_page_shows_changed_tasks_side_by_side(tmp_path: Path) -> None:
    cot = attempt(task(0), True, steps=(), messages=(Message(role="assistant", content="Thus it is 0."),))
    before = run_of(tmp_path / "before", attempt(task(0), False), attempt(task(1), True))
    after = run_of(tmp_path / "after", cot, attempt(task(1), True))
    page = tmp_path / "page.html"
    compare([before, after], html=page)
    text = page.read_text()
    assert "What is 0?" in text and "What is 1?" not in text
    assert "gained by after, t0" in text
    assert "Thus it is 0." in text and "I think" in text


def test_three_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    first, second = runs(tmp_path, "+--", "++-")
    third = run_of(tmp_path / "third|x", *[attempt(task(i), True) for i in range(3)])
    table = tmp_path / "table.md"
    found = compare([first, second, third], html=tmp_path / "p.html", markdown_file=table)
    assert [pairing.all.difference for pairing in found.pairings] == pytest.approx([1 / 3, 2 / 3])
    lines = table.read_text().splitlines()
    assert lines[0] == "| run | model | sums |"
    assert lines[2].startswith("| before | fake | 33.3 (")
    assert lines[4].startswith("| third\\|x | fake | 100.0 (")
    assert any("+66.7 points" in line and "2 gained, 0 lost" in line for line in lines)


def test_grading_writes_the_page_of_the_run(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", *[attempt(task(i), i % 2 == 0) for i in range(20)])
    text = (folder / "report.html").read_text()
    assert text.count("✗ wrong") == text.count("✓ right") == 6
    assert "50.0 %" in text and "10 of 20" in text
    assert json.loads((folder / "summary.json").read_text())["all"]["successes"] == 10


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_a_browser_shows_the_page_and_runs_nothing_of_it(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    hostile = task(0, question=HOSTILE)
    step = (Step(HOSTILE, HOSTILE, HOSTILE),)
    before = run_of(tmp_path / "before", attempt(hostile, False, steps=step), attempt(task(1), True))
    after = run_of(tmp_path / "after", attempt(hostile, True, steps=step), attempt(task(1), True))
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    compare([before, after], html=page)
    base = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    dom = subprocess.run(
        [*base, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<title>before and after</title>" in dom
    assert "owned" not in dom.split("</title>")[0]
    assert "+50.0 points" in dom and dom.count("&lt;script&gt;") >= 7
    subprocess.run(
        [*base, "--window-size=900,1600", f"--screenshot={picture}", f"file://{page}"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (900, 1600)
    assert picture.stat().st_size > 20_000  # an empty page of that size has about 5 kB
