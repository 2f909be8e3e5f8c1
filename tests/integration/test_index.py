"""`agentdistill index ...` as a user runs it: whole processes, killed ones among them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from encoders import tiny_encoder

Run = Callable[..., subprocess.CompletedProcess[str]]

AGENTDISTILL = [sys.executable, "-m", "agentdistill"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def index(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        line = [*AGENTDISTILL, "index", *map(str, arguments)]
        ran = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    return index


def write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": "nile", "title": "Nile", "text": "The Nile is a river in Africa. Rivers are long."},
    {"id": "paris", "title": "Paris", "text": "Paris is the capital of France."},
    {"id": "film", "title": "Metropolis", "text": "A film by Fritz Lang about a city of the future."},
    {"id": "evil", "title": "Evil\x1b[31m", "text": "Control \x1b]0;owned\x07 sequences."},
]


def test_from_a_corpus_to_ranked_passages(run: Run, tmp_path: Path, encoder: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    built = run("build", "rows.jsonl", "-o", "wiki", "--encoder", encoder, "--json")
    assert json.loads(built.stdout)["passages"] == 4
    assert "embed: done" in built.stderr
    shown = run("search", "wiki", "long rivers", "-k", 2, "--mode", "sparse").stdout
    assert shown.startswith(" 1. Nile  [nile]  sparse ")
    found = json.loads(run("search", "wiki", "a river", "-k", 3, "--encoder", encoder, "--json").stdout)
    assert found["mode"] == "hybrid"
    assert found["hits"][0]["id"] == "nile"
    assert found["hits"][0]["text"] == ROWS[0]["text"]
    assert [ROWS[0]["text"][start:end] for start, end in found["hits"][0]["marks"]] == ["river", "Rivers"]
    assert "\x1b" not in run("search", "wiki", "control sequences", "--mode", "sparse").stdout
    assert run("search", "wiki", "zebra", "--mode", "sparse").stdout == "nothing found\n"

    write(tmp_path / "more.jsonl", [{"id": "congo", "text": "The Congo is a deep river."}])
    run("add", "wiki", "more.jsonl", "--encoder", encoder)
    run("remove", "wiki", "nile")
    found = json.loads(run("search", "wiki", "river", "--mode", "sparse", "--json").stdout)
    assert [hit["id"] for hit in found["hits"]] == ["congo"]
    said = json.loads(run("info", "wiki", "--json").stdout)
    assert (said["passages"], said["encoder"]["dimension"]) == (4, 24)
    assert re.search(r"passages +4\n", run("info", "wiki").stdout)


def test_a_folder_of_files_without_an_encoder(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "rivers.md").write_text("# Rivers\n\nThe Nile is long.")
    run("build", "notes", "-o", "index", "--no-dense")
    found = json.loads(run("search", "index", "Nile", "--json").stdout)
    assert [(hit["id"], hit["title"]) for hit in found["hits"]] == [("rivers.md#1", "Rivers")]
    assert found["mode"] == "sparse"


def test_errors_are_one_line(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "twice.jsonl", [ROWS[0], ROWS[1], ROWS[0]])
    cases = (
        (("build", "twice.jsonl", "-o", "i", "--no-dense"), 2, "line 3: the id 'nile' was at line 1 already"),
        (("build", "nowhere", "-o", "i", "--no-dense"), 2, "nowhere is neither a file nor a folder"),
        (("build", "twice.jsonl", "-o", "i", "--encoder", "e"), 1, "e is no folder of a sentence encoder"),
        (("search", "i", "x"), 1, "there is no index at i"),
        (("search", ".", "x"), 1, "is no index of agentdistill"),
        (("search", "i", "x", "-k", "0"), 2, "greater than or equal to 1"),
        (("remove", "i", "x"), 1, "there is no index at i"),
        (("info", "i"), 1, "there is no index at i"),
    )
    for arguments, code, what in cases:
        stderr = run(*arguments, code=code).stderr
        assert what in stderr, arguments
        assert len(stderr.strip().splitlines()) <= 2, "an error after at most one finished stage"
    run("build", "twice.jsonl", "-o", "i", "--no-dense", "--skip-bad-rows")
    assert "exists already" in run("build", "twice.jsonl", "-o", "i", "--no-dense", code=1).stderr
    assert "at most 10,000" in run("search", "i", "x" * 100_000, code=2).stderr
    assert "not to be had" in run("search", "i", "x", "--mode", "dense", code=2).stderr


def start(*arguments: object) -> subprocess.Popen[str]:
    """The program alone, as `agentdistill index` starts it."""
    checkout = Path(__file__).parents[2]
    line = [sys.executable, "-P", "-m", "retrievers", *map(str, arguments), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)


def events(program: subprocess.Popen[str]) -> list[dict[str, Any]]:
    with program:
        assert program.stdout is not None
        return [json.loads(line) for line in program.stdout]


def many(count: int) -> list[dict[str, str]]:
    chance = random.Random(1)
    words = [f"w{number}" for number in range(300)]
    return [{"id": str(at), "text": " ".join(chance.choices(words, k=40))} for at in range(count)]


@pytest.mark.slow
def test_a_build_killed_while_it_embeds_goes_on(tmp_path: Path, encoder: Path) -> None:
    source, index = write(tmp_path / "rows.jsonl", many(9000)), tmp_path / "index"
    program = start("build", source, index, "--encoder", encoder)
    kept = tmp_path / "index.building" / "kept"
    with program:
        until = time.monotonic() + 120
        while len(list(kept.glob("vectors-*/*.npy"))) < 2:
            assert program.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        program.kill()
    assert not index.exists()
    before = {path: path.stat().st_mtime_ns for path in kept.glob("vectors-*/*.npy")}
    assert "is not finished: run the same" in events(start("search", index, "x"))[-1]["what"]
    again = start("build", source, index, "--encoder", encoder)
    with again:
        assert again.stdout is not None
        for line in again.stdout:
            if json.loads(line).get("stage") == "vectors":
                break
        kept_now = {path: path.stat().st_mtime_ns for path in before if path.exists()}
        assert not kept_now or kept_now == before, "what was embedded was embedded again"
        last = json.loads(again.stdout.readlines()[-1])
    assert last["event"] == "done"
    assert last["passages"] == 9000
    assert not kept.exists()
    whole = tmp_path / "whole"
    assert (
        events(start("build", source, whole, "--encoder", encoder))[-1]["fingerprint"] == last["fingerprint"]
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_at_any_moment_leaves_a_whole_index_or_none(tmp_path: Path, seed: int) -> None:
    source, index = write(tmp_path / "rows.jsonl", many(3000)), tmp_path / "index"
    more = write(tmp_path / "more.jsonl", [{"id": f"new{at}", "text": "fresh words"} for at in range(2000)])
    chance = random.Random(seed)

    def build_and_kill() -> None:
        """Again and again, a little later each time, until there is an index."""
        for tries in range(30):
            program = start("build", source, index)
            with program:
                if program.stdout is not None and program.stdout.readline():
                    time.sleep(chance.random() * 0.2 * tries)
                program.kill()
            assert program.returncode in (0, -signal.SIGKILL)
            if index.exists():
                return
        raise AssertionError("it never got done")

    build_and_kill()
    assert events(start("info", index))[-1]["passages"] == 3000
    program = start("add", index, more)
    with program:
        if program.stdout is not None:
            program.stdout.readline()
        time.sleep(chance.random() * 0.3)
        program.kill()
    said = events(start("info", index))[-1]
    assert said["event"] == "done", said
    if said["passages"] == 3000:
        assert events(start("add", index, more))[-1]["passages"] == 5000
    assert events(start("search", index, "fresh", "-k", "1000"))[-1]["hits"]


@pytest.mark.models
def test_the_catalogs_encoder_finds_by_meaning(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    run("build", "rows.jsonl", "-o", "wiki")
    found = json.loads(
        run("search", "wiki", "longest waterway of a continent", "--mode", "dense", "--json").stdout
    )
    assert found["hits"][0]["id"] == "nile"
