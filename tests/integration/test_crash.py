"""Generation that is killed, has a full disk or a bad endpoint: nothing finished is lost, none made twice."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, agent, serve

from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.prompts import load_prompts
from agentdistill.runs import read_trajectories
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.generate import generate
from agentdistill.types import StopReason, Task

COMMAND = [sys.executable, "-m", "agentdistill", "generate", "tasks.jsonl", "--first-thought", "off"]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serve(Endpoint(script=agent)) as running:
        yield running


def write_tasks(folder: Path, n: int) -> None:
    rows = [{"id": f"t{i}", "question": f"Double {i}?", "answer": str(2 * i)} for i in range(n)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def start(folder: Path, endpoint: Endpoint, out: str = "run", **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "-o", out, "--model", f"openai:m@{endpoint.url}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def whole_lines(file: Path) -> list[str]:
    """The ids in lines that end: what is stored at this moment."""
    if not file.exists():
        return []
    return [json.loads(line)["id"] for line in file.read_bytes().split(b"\n")[:-1]]


def kills(folder: Path, endpoint: Endpoint, tasks: int, times: int, seed: int) -> None:
    """Kill the command this many times, each when some moments have passed since it had begun to work."""
    rng = random.Random(seed)
    write_tasks(folder, tasks)
    endpoint.latency = 0.15
    file = folder / "run" / "trajectories.jsonl"
    kept: set[str] = set()
    killed = 0
    for _ in range(times):
        before = len(endpoint.requests)
        process = start(folder, endpoint)
        while len(endpoint.requests) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 1.0))
        stored = set(whole_lines(file))
        killed += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        assert kept <= stored, "a finished attempt was lost when the next call began"
        kept = set(whole_lines(file))
        assert stored <= kept, "a finished attempt was lost at the kill"
    assert killed > times / 2, "most kills came too late: more tasks are needed"
    last = start(folder, endpoint)
    _, words = last.communicate(timeout=300)
    assert last.returncode == 0, words
    made = [trajectory.task.id for trajectory in read_trajectories(folder / "run")]
    assert Counter(made) == {f"t{i}": 1 for i in range(tasks)}
    assert kept <= set(whole_lines(file))


def test_kill_9_loses_nothing_finished_and_repeats_nothing(tmp_path: Path, endpoint: Endpoint) -> None:
    kills(tmp_path, endpoint, tasks=40, times=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_at_twenty_random_moments(tmp_path: Path, endpoint: Endpoint) -> None:
    kills(tmp_path, endpoint, tasks=250, times=20, seed=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB: a RUN of about twelve attempts."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "agentdistill-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def finishes_on_a_larger_disk(folder: Path, run: Path, endpoint: Endpoint, n: int) -> None:
    before = whole_lines(run / "trajectories.jsonl")
    assert 0 < len(before) < n
    process = start(folder, endpoint, str(run))
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    made = [trajectory.task.id for trajectory in read_trajectories(run)]
    assert Counter(made) == {f"t{i}": 1 for i in range(n)}
    assert whole_lines(run / "trajectories.jsonl")[: len(before)] == before


def test_a_full_disk_loses_nothing_finished_and_repeats_nothing(
    tmp_path: Path, small_disk: Path, endpoint: Endpoint
) -> None:
    write_tasks(tmp_path, 24)
    run = small_disk / "run"
    process = start(tmp_path, endpoint, str(run))
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    [line] = [line for line in words.splitlines() if line.startswith("agentdistill:")]
    assert "No space left" in line and "free some space" in line
    assert "Traceback" not in words
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    finishes_on_a_larger_disk(tmp_path, run, endpoint, 24)


def test_a_file_that_may_not_grow_loses_nothing_finished(tmp_path: Path, endpoint: Endpoint) -> None:
    """The same for whoever may not mount: a limit on the size of files, as quotas make."""
    write_tasks(tmp_path, 24)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    process = start(tmp_path, endpoint, preexec_fn=limited)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    assert [line for line in words.splitlines() if "cannot append to" in line], words
    assert "Traceback" not in words
    finishes_on_a_larger_disk(tmp_path, tmp_path / "run", endpoint, 24)


FAULTS = ("busy", "error", "hang", "cut", "garbage", "empty", "overflow")


def faulty(out: Path, endpoint: Endpoint, tasks: int) -> None:
    endpoint.faults = dict.fromkeys(FAULTS, 0.1)
    model = OpenAICompatibleModel("m", endpoint.url, seconds=0.5)
    listed = [Task(f"t{i}", f"Double {i}?", str(2 * i)) for i in range(tasks)]
    settings = AttemptSettings(prompts=load_prompts("student"), max_steps=3)
    while True:  # as a user would: the same command again, until nothing is left
        result = generate(listed, out, model, settings, concurrency=8)
        if not result.parked:
            break
    model.close()
    made = list(read_trajectories(out))
    assert Counter(trajectory.task.id for trajectory in made) == {task.id: 1 for task in listed}
    for trajectory in made:
        # What the endpoint did to it never shows in an answer; an overflow may end it without one.
        right = trajectory.answer == str(2 * int(trajectory.task.id[1:]))
        assert right or trajectory.stop_reason is StopReason.CONTEXT
    assert set(FAULTS) <= set(endpoint.given)


def test_with_every_fault_at_ten_percent_all_tasks_finish(tmp_path: Path, endpoint: Endpoint) -> None:
    faulty(tmp_path / "run", endpoint, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_every_fault_at_ten_percent_hundreds_finish(tmp_path: Path, endpoint: Endpoint) -> None:
    faulty(tmp_path / "run", endpoint, 200)
