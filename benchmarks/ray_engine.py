"""What `--engine ray` costs by the attempt, and where a second node stops helping, on this machine.

    python benchmarks/ray_engine.py [--per-node 2,8,32] [--waves 8] [--json]

Two Ray nodes of one CPU each on this machine (ray.cluster_utils), an endpoint that answers each call in 0.5 s
(tests/endpoint.py, a process of its own), attempts of four steps in fresh jails (those of generate.py). With
P attempts in flight a node: `local` (no Ray, P in flight), `ray 1` and `ray 2` nodes. An attempt's CPU is
that of all processes of the part but the endpoint: ours, jails, actors and Ray's own daemons, whose idle use,
measured before, is subtracted and shown. The actors are warm before the clock starts. `over local` is the
difference of CPU by the attempt at the same P. Both nodes share this machine's cores, so `scaling` (attempts
a second, 2 nodes over 1) falls from 2 to 1 where the cores are full. Needs root (cgroups). Not guaranteed:
what a network between the nodes adds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from generate import STEPS, TESTS, own_group, remove_groups, used

LATENCY = 0.5
IDLE_SECONDS = 8.0
TARGET_MS = 10.0
NODES = {"local": 0, "ray 1": 1, "ray 2": 2}


class Opener:
    """Model and settings, opened where it is called."""

    def __init__(self, url: str, in_flight: int) -> None:
        self.url = url
        self.in_flight = in_flight

    def __call__(self) -> Any:
        from agentdistill import load_prompts
        from agentdistill.models.openai_compatible import OpenAICompatibleModel
        from agentdistill.stages.attempt import AttemptSettings

        model = OpenAICompatibleModel("m", self.url, ceiling=self.in_flight)
        return model, AttemptSettings(prompts=load_prompts("student"), max_steps=STEPS + 1)


def part(name: str, url: str, in_flight: int, waves: int) -> dict[str, float]:
    """A part's figures, in a process of its own."""
    from ray.cluster_utils import Cluster as Nodes

    from agentdistill.stages.engine import Local
    from agentdistill.stages.generate import store_attempts
    from agentdistill.stages.ray_engine import Cluster
    from agentdistill.types import Task

    nodes = NODES[name]
    attempts = in_flight * waves * max(nodes, 1)
    tasks = [Task(f"t{i}", f"What is {i} times two?", str(2 * i)) for i in range(attempts)]
    with ExitStack() as opened:
        group = opened.enter_context(own_group())
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        if group is None:
            raise SystemExit("this benchmark needs root: it measures by cgroup")
        if nodes:
            os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where an actor finds Opener
            head = {"num_cpus": 1, "include_dashboard": False}
            cluster = Nodes(initialize_head=True, head_node_args=head)
            opened.callback(cluster.shutdown)
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=1)
            opener = Opener(url, in_flight)
            engine: Any = Cluster(opener, address=cluster.address, concurrency=in_flight)
        else:
            engine = Local(*Opener(url, in_flight)(), concurrency=in_flight)
        engine = opened.enter_context(engine)
        while nodes and engine.in_flight_limit() < nodes * in_flight:
            time.sleep(0.5)
        store_attempts(tasks[: max(nodes, 1) * in_flight], folder / "warm", engine)
        began, cpu = time.monotonic(), used(group)
        time.sleep(IDLE_SECONDS)
        idle = (used(group) - cpu) / (time.monotonic() - began)
        began, cpu = time.monotonic(), used(group)
        result = store_attempts(tasks, folder / "run", engine)
        seconds, cpu = time.monotonic() - began, used(group) - cpu
        assert result.finished == attempts and not result.failures, result
    return {
        "attempts": attempts,
        "seconds": seconds,
        "rate": attempts / seconds,
        "cpu_ms": 1000 * (cpu - idle * seconds) / attempts,
        "idle_share": idle,
        "busy_cores": cpu / seconds,
    }


def measure(name: str, per_node: int, waves: int) -> dict[str, Any]:
    sys.path.insert(0, str(TESTS))
    from endpoint import serve_apart

    script = f"{Path(__file__).with_name('generate.py').resolve()}:work"
    with serve_apart("--script", script, "--latency", str(LATENCY)) as url:
        command = [sys.executable, __file__, "--part", name, url, str(per_node), str(waves)]
        found = subprocess.run(command, capture_output=True, text=True)
    remove_groups()
    if found.returncode != 0:
        raise SystemExit(found.stderr)
    return {"part": name, "per_node": per_node, **json.loads(found.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of the Ray engine.")
    parser.add_argument("--per-node", default="2,8,32", help="numbers of attempts in flight a node")
    parser.add_argument("--waves", type=int, default=8, help="attempts are waves x in flight")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        name, url, in_flight, waves = asked.part
        print(json.dumps(part(name, url, int(in_flight), int(waves))))
        return
    rows = []
    if not asked.json:
        print("part    a node  attempts  seconds  a second  CPU ms  over local  scaling  busy cores  idle")
    for per_node in (int(number) for number in asked.per_node.split(",")):
        seen: dict[str, dict[str, Any]] = {}
        for name in NODES:
            row = seen[name] = measure(name, per_node, asked.waves)
            row["over_local_ms"] = row["cpu_ms"] - seen["local"]["cpu_ms"]
            row["scaling"] = row["rate"] / seen["ray 1"]["rate"] if name == "ray 2" else None
            rows.append(row)
            if not asked.json:
                scaling = f"{row['scaling']:.2f}" if row["scaling"] else ""
                print(
                    f"{name:<7} {per_node:>6} {row['attempts']:>9} {row['seconds']:>8.1f} "
                    f"{row['rate']:>9.2f} {row['cpu_ms']:>7.0f} {row['over_local_ms']:>11.1f} {scaling:>8} "
                    f"{row['busy_cores']:>11.2f} {row['idle_share']:>5.2f}",
                    flush=True,
                )
    if asked.json:
        print(json.dumps({"target_ms": TARGET_MS, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
