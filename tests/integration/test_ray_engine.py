"""Attempts on a real Ray cluster of two nodes on this machine: the same RUN as without, whoever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, agent, refused, serve

pytest.importorskip("ray")

from agentdistill.errors import (
    AgentDistillError,
    ClusterError,
    ContextOverflowError,
    ModelBusyError,
    NodeLostError,
    SandboxError,
)
from agentdistill.runs import read_failures, read_trajectories
from agentdistill.stages import ray_engine
from agentdistill.types import to_json

TASKS = 24
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each; this process is no driver of it."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    running.add_node(num_cpus=1)
    yield running
    running.shutdown()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serve(Endpoint(script=agent, latency=0.05)) as running:
        yield running


def write_tasks(folder: Path, n: int = TASKS) -> None:
    rows = [{"id": f"t{i}", "question": f"Double {i}?", "answer": str(2 * i)} for i in range(n)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def start(
    folder: Path, endpoint: Endpoint, out: str, *more: str, command: str = "generate"
) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "agentdistill", command, "tasks.jsonl", "-o", out]
    return subprocess.Popen(
        [*call, "--model", f"openai:m@{endpoint.url}", "--concurrency", "2", *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, words = process.communicate(timeout=300)
    assert process.returncode == 0, words
    return words


def on(cluster: Any) -> tuple[str, ...]:
    return ("--engine", "ray", "--ray-address", cluster.address)


def content(run: Path) -> dict[str, Any]:
    """What a RUN holds, by key, without what a clock has said."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if key != "seconds"}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return {made.id: timeless(to_json(made)) for made in read_trajectories(run)}


def made_once(run: Path, n: int = TASKS) -> None:
    assert Counter(made.task.id for made in read_trajectories(run)) == {f"t{i}": 1 for i in range(n)}


def test_both_engines_make_the_same_run_and_go_on_with_each_others(
    tmp_path: Path, cluster: Any, endpoint: Endpoint
) -> None:
    write_tasks(tmp_path)
    more = ("--samples", "2", "--temperature", "0.5")
    finish(start(tmp_path, endpoint, "local", *more))
    alone = endpoint.requests.copy()
    endpoint.requests.clear()
    finish(start(tmp_path, endpoint, "ray", *more, *on(cluster)))
    assert len(endpoint.requests) == len(alone), "a first thought was drawn twice, or not at all"
    assert len(content(tmp_path / "ray")) == 2 * TASKS
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    asked = json.loads((tmp_path / "ray" / "run.json").read_text())["asked"]
    assert (asked["engine"], asked["concurrency"], asked["sandbox"]) == ("ray", 2, "bubblewrap")

    half = (tmp_path / "ray" / "trajectories.jsonl").read_text().splitlines(keepends=True)[:TASKS]
    (tmp_path / "ray" / "trajectories.jsonl").write_text("".join(half))
    words = finish(start(tmp_path, endpoint, "ray", *more))
    assert f"{TASKS} attempts made, {TASKS} were there" in words
    assert content(tmp_path / "ray") == content(tmp_path / "local")


def test_both_nodes_take_part_and_chains_of_thought_are_graded(
    tmp_path: Path, cluster: Any, endpoint: Endpoint
) -> None:
    write_tasks(tmp_path)
    endpoint.latency = 0.5
    more = ("--mode", "cot", "--json", *on(cluster))
    process = start(tmp_path, endpoint, "cot", *more, command="eval")
    finish(process)
    assert endpoint.most_in_flight > 2, "one node takes two at a time"
    made_once(tmp_path / "cot")
    assert (tmp_path / "cot" / "scores.jsonl").exists()


def test_a_budget_stops_all_nodes(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    write_tasks(tmp_path)
    words = finish(
        start(tmp_path, endpoint, "run", "--first-thought", "off", "--budget-tokens", "4000", *on(cluster))
    )
    assert "The budget is used up" in words
    assert 0 < len(content(tmp_path / "run")) < TASKS


def test_what_a_node_cannot_open_is_said_as_at_home(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    write_tasks(tmp_path)
    process = start(tmp_path, endpoint, "run", "--sandbox", "landlok", *on(cluster))
    _, words = process.communicate(timeout=120)
    assert process.returncode == 2 and "no sandbox is called 'landlok'" in words
    assert "Traceback" not in words and not (tmp_path / "run").exists()


def test_failing_calls_are_parked_with_what_they_cost(
    tmp_path: Path, cluster: Any, endpoint: Endpoint
) -> None:
    write_tasks(tmp_path, 6)
    endpoint.answer = lambda request: refused(401, "no such key")
    process = start(tmp_path, endpoint, "run", "--first-thought", "off", *on(cluster))
    _, words = process.communicate(timeout=300)
    assert process.returncode == 1 and "no such key" in words and "Traceback" not in words
    assert {row["type"] for row in read_failures(tmp_path / "run")} == {"ModelError"}


def lose_nodes(folder: Path, cluster: Any, endpoint: Endpoint, tasks: int, times: int, seed: int) -> int:
    """Take away the second node at random moments, and give one back; how many attempts it has cost."""
    rng = random.Random(seed)
    write_tasks(folder, tasks)
    endpoint.latency = 0.4
    process = start(folder, endpoint, "run", "--first-thought", "off", *on(cluster))
    for _ in range(times):
        before = len(endpoint.requests)
        while len(endpoint.requests) < before + 12 and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        assert process.poll() is None, "too few tasks"
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        time.sleep(rng.uniform(0.0, 1.0))
        cluster.add_node(num_cpus=1)
    finish(process)
    made_once(folder / "run", tasks)
    lost = [row for row in read_failures(folder / "run") if row["type"] == "NodeLostError"]
    assert lost and {row["type"] for row in read_failures(folder / "run")} == {"NodeLostError"}
    return len(lost)


def test_a_lost_node_costs_its_attempts_in_flight(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    lost = lose_nodes(tmp_path, cluster, endpoint, 60, times=1, seed=1)
    assert 1 <= lost <= 2, "it had two in flight"


@pytest.mark.slow
def test_ten_lost_nodes(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    lose_nodes(tmp_path, cluster, endpoint, 600, times=10, seed=2)


def lose_drivers(folder: Path, cluster: Any, endpoint: Endpoint, tasks: int, times: int, seed: int) -> None:
    rng = random.Random(seed)
    write_tasks(folder, tasks)
    endpoint.latency = 0.2
    kept: set[str] = set()
    for _ in range(times):
        before = len(endpoint.requests)
        process = start(folder, endpoint, "run", "--first-thought", "off", *on(cluster))
        while len(endpoint.requests) < before + 2 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2.0))
        assert process.poll() is None, "too few tasks"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        lines = (folder / "run" / "trajectories.jsonl").read_bytes().split(b"\n")[:-1]
        now = {json.loads(line)["id"] for line in lines}
        assert kept <= now and len(now) == len(lines)
        kept = now
    finish(start(folder, endpoint, "run", "--first-thought", "off", *on(cluster)))
    made_once(folder / "run", tasks)
    assert kept <= set(content(folder / "run"))


def test_a_killed_driver_loses_nothing_finished(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    lose_drivers(tmp_path, cluster, endpoint, 40, times=1, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eleven drivers, each of which imports all and opens actors
def test_ten_killed_drivers(tmp_path: Path, cluster: Any, endpoint: Endpoint) -> None:
    lose_drivers(tmp_path, cluster, endpoint, 200, times=10, seed=4)


def test_a_model_in_process_gets_an_actor_for_each_gpu(tmp_path: Path, cluster: Any) -> None:
    """The GPUs are only said to be there: what is seen is how many actors begin, and with which GPU."""
    gpus = cluster.add_node(num_cpus=2, num_gpus=2)
    script = f"""
import os, json
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.baseline import ChainOfThought
from agentdistill.stages.ray_engine import Cluster
import time

def opener():
    with open({str(tmp_path / "opened")!r}, "a") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\\n")
    return ScriptedModel(["The answer is 1."]), ChainOfThought(load_prompts("teacher"))

with Cluster(opener, address={cluster.address!r}, concurrency=3, gpus=True) as engine:
    until = time.monotonic() + 60
    while engine.in_flight_limit() < 12 and time.monotonic() < until:
        time.sleep(0.2)
    print(engine.in_flight_limit())
"""
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["12"], "four actors of three attempts"
        opened = (tmp_path / "opened").read_text().splitlines()
        assert sorted(opened)[-2:] == ["0", "1"] and len(opened) == 4
    finally:
        cluster.remove_node(gpus)


@pytest.mark.parametrize(
    "error",
    [
        SandboxError("no jail", "make one"),
        ModelBusyError("later", retry_after=3.0),
        ContextOverflowError("too long"),
        NodeLostError("gone"),
    ],
)
def test_an_error_comes_back_as_what_it_was(error: AgentDistillError) -> None:
    class Own(type(error)):  # type: ignore[misc]
        """What a module derives for itself is no other error for who gets it."""

    own = Own(error.message, error.remedy)
    assert type(ray_engine._raised(ray_engine._told(own))) is type(error)
    back = ray_engine._raised(json.loads(json.dumps(ray_engine._told(error))))
    assert type(back) is type(error) and str(back) == str(error)
    assert getattr(back, "retry_after", None) == getattr(error, "retry_after", None)


@pytest.mark.parametrize("name", ["Path", "annotations", "SystemExit", "__name__"])
def test_a_name_that_is_no_error_of_ours_makes_none(name: str) -> None:
    assert type(ray_engine._raised({"type": name, "message": "m", "remedy": ""})) is ClusterError


def test_a_node_that_would_make_other_attempts_is_told_apart() -> None:
    facts = {"version": "1", "shape": {"model": {"sha256": "a"}, "max_steps": 5}}
    assert ray_engine._difference(facts, dict(facts)) is None
    other = {"version": "1", "shape": {"model": {"sha256": "b"}, "max_steps": 5}}
    assert "model is {'sha256': 'b'}" in str(ray_engine._difference(facts, other))
    assert "agentdistill 2" in str(ray_engine._difference(facts, {**facts, "version": "2"}))
