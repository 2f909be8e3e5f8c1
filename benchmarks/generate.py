"""Generation beside a plain thread pool of smolagents agents, on an endpoint that answers every call in 1 s.

    python benchmarks/generate.py [--quick] [--json] [--in-flight 64,256]

Attempts of four steps (three compute and print, one answers). Each line is a process of its own, the
endpoint (tests/endpoint.py) is another, and all of them share this machine's cores.

- ours: `agentdistill.generate`, a fresh session of the strongest sandbox for every attempt, a RUN on disk.
- threads: as many threads, each with a smolagents CodeAgent, LocalPythonExecutor and one OpenAIModel; nothing
  is confined and nothing is stored. The same prompts, the same tasks.

share: calls a second, of those the endpoint could answer with that many in flight, while the middle 60 % of
the calls were made, and over the whole run (start and last attempts included). CPU a step: of the process and
of its sandbox processes, starts of sessions included. One attempt before the clock starts brings the imports.
Not guaranteed: that other cores give the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEPS = 4
LATENCY = 1.0
TARGETS = {"share": 0.95, "cpu_ms": 5.0}
TESTS = Path(__file__).parents[1] / "tests"


def work(messages: list[dict[str, Any]]) -> str:
    """What the endpoint's model says: three steps that compute and print, then the answer."""
    done = sum(message["role"] == "assistant" for message in messages)
    if done < STEPS - 1:
        return (
            f"Thought: I compute part {done}.\n<code>\npart{done} = sum(i * i for i in range(50))\n"
            f"print(part{done})\n</code>"
        )
    return "Thought: I have all parts.\n<code>\nfinal_answer(part0 + part1)\n</code>"


# ---------------------------------------------------------------------- what is measured, in its own process


def ours(url: str, in_flight: int, attempts: int) -> dict[str, float]:
    from agentdistill import generate, load_prompts
    from agentdistill.models.openai_compatible import OpenAICompatibleModel
    from agentdistill.stages.attempt import AttemptSettings
    from agentdistill.types import Task

    tasks = [Task(f"t{i}", f"What is {i} times two?", str(2 * i)) for i in range(attempts)]
    model = OpenAICompatibleModel("m", url, ceiling=in_flight)
    settings = AttemptSettings(prompts=load_prompts("student"), max_steps=STEPS + 1)
    with tempfile.TemporaryDirectory() as folder:
        generate(tasks[:1], Path(folder) / "first", model, settings)
        began, cpu = time.monotonic(), time.process_time()
        result = generate(tasks, Path(folder) / "run", model, settings, concurrency=in_flight)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    model.close()
    assert result.finished == attempts and not result.failures, result
    return {"seconds": seconds, "cpu": cpu}


def threads(url: str, in_flight: int, attempts: int) -> dict[str, float]:
    import yaml
    from smolagents import CodeAgent, LogLevel, OpenAIModel

    from agentdistill import load_prompts

    templates = yaml.safe_load(load_prompts("student").text)
    model = OpenAIModel("m", api_base=url, api_key="none")

    def attempt(number: int) -> None:
        agent = CodeAgent(
            tools=[],
            model=model,
            prompt_templates=templates,
            max_steps=STEPS + 1,
            verbosity_level=LogLevel.OFF,
        )
        agent.run(f"What is {number} times two?")

    attempt(0)
    began, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(attempt, range(attempts)))
    return {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


PARTS = {"ours": ours, "threads": threads}


def alone(part: str, url: str, in_flight: int, attempts: int) -> dict[str, float | None]:
    """A part's figures, `sandbox_cpu` among them: the CPU seconds of all its processes but this one."""
    with own_group() as group:
        if group is None:
            return {**PARTS[part](url, in_flight, attempts), "sandbox_cpu": None}
        before = used(group), time.process_time()
        figures = PARTS[part](url, in_flight, attempts)
        others = used(group) - before[0] - (time.process_time() - before[1])
    return {**figures, "sandbox_cpu": others}


@contextmanager
def own_group() -> Iterator[Path | None]:
    """A cgroup with this process, and all that it starts, in it; None where there can't be one."""
    group = Path("/sys/fs/cgroup/cpuacct")
    group = (group if group.is_dir() else group.parent) / f"agentdistill-benchmark-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:  # not root, or no cgroups here
        yield None
        return
    try:
        yield group
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))


def remove_groups() -> None:
    """Of parts that have ended."""
    for group in Path("/sys/fs/cgroup").glob("**/agentdistill-benchmark-*"):
        group.rmdir()


def used(group: Path) -> float:
    """CPU seconds of a cgroup, version 1 or 2."""
    if (group / "cpuacct.usage").exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    return int((group / "cpu.stat").read_text().split()[1]) / 1e6


# ---------------------------------------------------------------------- the run


class Watch(threading.Thread):
    """Notes how many calls the endpoint has got, and when."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url.removesuffix("/v1") + "/stats"
        self.seen: list[tuple[float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        import httpx

        while not self.over.wait(0.25):
            found = httpx.get(self.url, trust_env=False).json()
            self.seen.append((time.monotonic(), found["requests"]))

    def middle_rate(self) -> float:
        """Calls a second between 20 % and 80 % of the calls."""
        first, last = self.seen[0][1], self.seen[-1][1]
        inside = [
            point for point in self.seen if 0.2 * (last - first) <= point[1] - first <= 0.8 * (last - first)
        ]
        (began, calls), (ended, more) = inside[0], inside[-1]
        return (more - calls) / (ended - began)


def measure(part: str, in_flight: int, waves: int) -> dict[str, Any]:
    sys.path.insert(0, str(TESTS))
    from endpoint import serve_apart

    attempts = in_flight * waves
    with serve_apart("--script", f"{Path(__file__).resolve()}:work", "--latency", str(LATENCY)) as url:
        watch = Watch(url)
        watch.start()
        command = [sys.executable, __file__, "--part", part, url, str(in_flight), str(attempts)]
        found = subprocess.run(command, capture_output=True, text=True)
        watch.over.set()
        watch.join()
    remove_groups()
    if found.returncode != 0:
        raise SystemExit(found.stderr)
    figures = json.loads(found.stdout.splitlines()[-1])
    steps, others = attempts * STEPS, figures["sandbox_cpu"]
    ideal = in_flight / LATENCY
    return {
        "part": part,
        "in_flight": in_flight,
        "attempts": attempts,
        "seconds": figures["seconds"],
        "share": watch.middle_rate() / ideal,
        "whole_share": steps / figures["seconds"] / ideal,
        "cpu_ms": 1000 * figures["cpu"] / steps,
        "sandbox_cpu_ms": None if others is None else 1000 * others / steps,
    }


HEAD = "         in flight  attempts  seconds   share   whole  CPU ms a step  sandbox"


def line(row: dict[str, Any]) -> str:
    sandbox = "unknown" if row["sandbox_cpu_ms"] is None else f"{row['sandbox_cpu_ms']:.1f}"
    return (
        f"{row['part']:<8} {row['in_flight']:>9} {row['attempts']:>9} {row['seconds']:>8.1f} "
        f"{row['share']:>7.1%} {row['whole_share']:>7.1%} {row['cpu_ms']:>14.1f} {sandbox:>8}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of generation.")
    parser.add_argument("--quick", action="store_true", help="fewer attempts: a look, not a figure to report")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    parser.add_argument("--in-flight", default="64,256", help="numbers of attempts side by side")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        part, url, in_flight, attempts = asked.part
        print(json.dumps(alone(part, url, int(in_flight), int(attempts))))
        return
    rows = []
    if not asked.json:
        print(HEAD)
    for in_flight in (int(number) for number in asked.in_flight.split(",")):
        for part in PARTS:
            rows.append(measure(part, in_flight, 3 if asked.quick else 6))
            if not asked.json:
                print(line(rows[-1]), flush=True)
    cores = len(os.sched_getaffinity(0))
    if asked.json:
        print(json.dumps({"cores": cores, "targets": TARGETS, "rows": rows}, indent=1))
    else:
        print(f"{cores} cores. Targets: share {TARGETS['share']:.0%}, CPU a step {TARGETS['cpu_ms']:g} ms.")


if __name__ == "__main__":
    main()
