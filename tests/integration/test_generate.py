"""`agentdistill generate` from the command line to the RUN: a real endpoint, real jails."""

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import COUNTED, Endpoint, Messages, agent, serve

from agentdistill.runs import read_failures, read_run_json, read_trajectories

COMMAND = [sys.executable, "-m", "agentdistill", "generate", "tasks.jsonl", "-o", "run"]
N = 4
ENVIRONMENT = {"TERM": "xterm", "COLUMNS": "120"}


def teacher(messages: Messages) -> str:
    """An agent of two steps, a chain of thought where no code is asked for, and what the probe wants."""
    if messages[0]["role"] != "system":
        return COUNTED
    if "<code>" in str(messages[0]["content"]):
        return agent(messages)
    return "We double the number that is given to us.\nThe answer is unknown."


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serve(Endpoint(script=teacher)) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"id": f"t{i}", "question": f"Double {i}?", "answer": str(2 * i + (i == 3))} for i in range(N)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text("[prices.m]\ninput = 2.0\noutput = 10.0\n")
    return tmp_path


def generate(folder: Path, endpoint: Endpoint, *flags: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """What the command says on stdout (JSON) and on stderr."""
    model = ["--model", f"openai:m@{endpoint.url}"]
    found = subprocess.run(
        [*COMMAND, *model, *flags, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **ENVIRONMENT},
    )
    assert found.returncode == code, found.stderr
    return json.loads(found.stdout) if found.stdout else {}, found.stderr


def test_a_run_with_prices_is_accounted_to_the_cent(folder: Path, endpoint: Endpoint) -> None:
    said, words = generate(folder, endpoint, "--config", "run.toml", "--first-thought", "off")
    stored = list(read_trajectories(folder / "run"))
    assert (said["finished"], said["parked"], said["remaining"]) == (N, 0, 0)
    usage = said["usage"]
    assert usage["tokens_in"] == sum(t.usage.tokens_in for t in stored) > 0
    assert usage["usd"] == pytest.approx((usage["tokens_in"] * 2 + usage["tokens_out"] * 10) / 1e6)
    assert usage["usd"] == pytest.approx(sum(t.usage.usd or 0 for t in stored))
    for trajectory in stored:
        assert trajectory.usage.tokens_in == sum(step.tokens_in for step in trajectory.steps)
    assert f"${usage['usd']:.4f}" in words and "Next: agentdistill grade run" in words
    summary = json.loads(
        subprocess.run(
            [sys.executable, "-m", "agentdistill", "grade", "run", "--json"],
            cwd=folder,
            capture_output=True,
            check=True,
        ).stdout
    )
    assert summary["total"]["usd"] == pytest.approx(usage["usd"])


def test_an_unknown_price_is_said_to_be_unknown(folder: Path, endpoint: Endpoint) -> None:
    said, words = generate(folder, endpoint, "--first-thought", "off", "--limit", "1")
    assert said["usage"]["usd"] is None
    assert "cost unknown" in words


def test_samples_differ_in_seed_and_share_one_chain_of_thought_across_calls(
    folder: Path, endpoint: Endpoint
) -> None:
    generate(folder, endpoint, "--samples", "2", "--temperature", "0.7", "--seed", "10")
    generate(folder, endpoint, "--samples", "3", "--temperature", "0.7", "--seed", "10")
    stored = list(read_trajectories(folder / "run"))
    assert Counter(t.task.id for t in stored) == {f"t{i}": 3 for i in range(N)}
    assert {t.seed for t in stored} == {10, 11, 12}
    assert {t.first_thought.text for t in stored} == {"We double the number that is given to us."}
    assert {t.first_thought.prefill for t in stored} == {"continue"}
    asked = [request for request in endpoint.requests if request["messages"][0]["role"] == "system"]
    steps = [request for request in asked if "<code>" in request["messages"][0]["content"]]
    chains = Counter(request["messages"][1]["content"] for request in asked if request not in steps)
    assert len(chains) == N and set(chains.values()) == {1}
    assert {(request["seed"], request["temperature"]) for request in steps} == {
        (10, 0.7),
        (11, 0.7),
        (12, 0.7),
    }


def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(folder: Path, endpoint: Endpoint) -> None:
    flags = ("--config", "run.toml", "--first-thought", "off", "--concurrency", "2")
    said, _ = generate(folder, endpoint, *flags, "--limit", "1")
    one = said["usage"]["usd"]
    said, words = generate(folder, endpoint, *flags, "--budget", str(one * 3.2))
    assert (said["finished"], said["skipped"], said["remaining"]) == (2, 1, 1)
    assert said["run_usage"]["usd"] <= one * 3.2
    assert "1 attempts remain" in words and "larger" in words
    said, _ = generate(folder, endpoint, *flags, "--budget-tokens", "1000000")
    assert (said["finished"], said["skipped"], said["remaining"]) == (1, 3, 0)
    assert read_run_json(folder / "run")["asked"]["budget_tokens"] == 1_000_000


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--samples", "3"), "--temperature"),
        (("--budget", "1.5"), '[prices."m"]'),
        (("--budget", "-1"), "budget"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    folder: Path, endpoint: Endpoint, flags: tuple[str, ...], says: str
) -> None:
    _, words = generate(folder, endpoint, *flags, code=2)
    [line] = [line for line in words.splitlines() if line.startswith("agentdistill:")]
    assert says in line
    assert not (folder / "run").exists()
    assert endpoint.requests == []


def test_an_endpoint_that_counts_no_tokens_cannot_be_given_a_budget(folder: Path, endpoint: Endpoint) -> None:
    endpoint.counts = False
    _, words = generate(folder, endpoint, "--first-thought", "off", "--budget-tokens", "99999", code=2)
    assert "how many tokens" in words
    assert len(list(read_trajectories(folder / "run"))) == 1  # what was made is kept


def test_what_failed_tries_cost_and_why_is_said(folder: Path, endpoint: Endpoint) -> None:
    """The second call of every attempt at t0 is refused: three tries, each has cost its first call."""

    def refuse(request: dict[str, Any]) -> tuple[int, Any] | None:
        second = any("Observation:" in str(message["content"]) for message in request["messages"][1:])
        return (404, {"error": "no"}) if second and "Double 0?" in str(request["messages"]) else None

    endpoint.answer = refuse
    said, words = generate(folder, endpoint, "--first-thought", "off", code=1)
    assert (said["finished"], said["parked"], said["failures"]) == (N - 1, 1, {"RefusedError": 3})
    spent = [row["usage"].tokens_in for row in read_failures(folder / "run")]
    assert len(spent) == 3 and min(spent) > 0
    assert said["usage"]["tokens_in"] == sum(spent) + sum(
        t.usage.tokens_in for t in read_trajectories(folder / "run")
    )
    assert "parked t0 after 3 tries" in words and "failures.jsonl" in words


def test_the_live_view_on_a_terminal(folder: Path, endpoint: Endpoint) -> None:
    endpoint.latency = 0.4
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--model", f"openai:m@{endpoint.url}", "--config", "run.toml", "--concurrency", "2"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**os.environ, **ENVIRONMENT},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert process.wait(60) == 0
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "2 in flight" in screen
    assert re.search(r"accuracy \d+% of [1-4]", screen)
    assert re.search(r"\d+ tokens/s", screen)
    assert re.search(r"\$0\.\d{4}", screen)
    assert "4/4" in screen


def test_the_help_shows_defaults_and_an_example(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "agentdistill", "generate", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ENVIRONMENT},
    ).stdout
    assert "side by side, at most. [default: 4]" in said  # rich takes an unescaped [ for a style
    assert "Example: agentdistill generate tasks.jsonl" in said
