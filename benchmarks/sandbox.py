"""The sandbox beside what it competes with: smolagents' LocalPythonExecutor, a bare jail, a bare fork.

    python benchmarks/sandbox.py [--quick] [--json] [--only step,start,...]

Every ratio is of two things measured in turns in this very run, one thread each (OMP_NUM_THREADS=1), medians
with the quartiles beside them. Not guaranteed: that another machine gives the same milliseconds, nor that a
machine with other work on it meets the targets: compare ratios, and look at the spread.

What is measured against what:
- step: one line in a session that has been idle for 50 ms, against the same line in LocalPythonExecutor.
- twin: a fork of the session like the one after a step, from the order until it is ready, against fork + wait
  of that very process, called by code inside it.
- loop: 100,000 turns of a `for`, against LocalPythonExecutor.
- start: sessions opened past the warm pool, one line each, closed, against the jail's own command line with a
  plain Python in it that makes the same imports and ends: mean of as many in a row.
- pool: open and one line out of a SandboxPool of two that has had time to fill again.
- candidates: eight forks with one line each, against eight times fork + wait of that very process; eight that
  compute for 100 ms, against ceil(8 / cores) times one that does.
- deadline: how long after its deadline `10**10**8` has been stopped; the worst of all.
- leases: 200 idle sessions: the memory of all their processes (PSS: a shared page counts once), step p99.
- docker: start without and with a warm pool, and a step, beside smolagents' DockerExecutor. It is run if its
  image is there: it can only be built with Docker Hub and a package index at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from agentdistill.clients.sandbox import SandboxPool, open_sandbox
from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError
from agentdistill.types import Limits

CORES = len(os.sched_getaffinity(0))
IDLE = 0.05  # seconds before a step that is timed: a model thinks for much longer
LINE = "x = 1 + 1\nx"
LOOP = "s = 0\nfor i in range(100_000):\n    s += i * i % 7\ns"
FORKS = """
import os, time
def forks(count):
    started = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return (time.perf_counter() - started) * 1000
"""
COMPUTE = """
import time
def work(turns):
    for _ in range(turns):
        pass
def turns(milliseconds):
    count = 100_000
    while True:
        started = time.process_time()
        work(count)
        taken = (time.process_time() - started) * 1000
        if taken > milliseconds:
            return int(count * milliseconds / taken)
        count *= 2
"""


@dataclass
class Figure:
    """One row. Times in milliseconds unless `unit` says otherwise; `ratio` is ours / against."""

    name: str
    ours: float
    against: float | None
    what: str  # what it is compared with
    target: str
    met: bool | None
    unit: str = "ms"
    spread: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.against if self.against else None


def clock(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def quartiles(times: list[float]) -> str:
    if len(times) < 4:
        return f"{min(times):.3g}..{max(times):.3g}"
    low, _, high = statistics.quantiles(times, n=4)
    return f"{low:.3g}..{high:.3g}"


def compare(
    name: str,
    ours: list[float],
    against: list[float],
    what: str,
    most: float,
    middle: Any = statistics.median,
) -> Figure:
    mine, other = middle(ours), middle(against)
    spread = f"{quartiles(ours)} | {quartiles(against)}"
    return Figure(name, mine, other, what, f"<= {most:g} x", mine <= most * other, spread=spread)


def session(limits: Limits | None = None, preload: tuple[str, ...] = (), spec: str = "bubblewrap") -> Session:
    return open_sandbox(spec, limits=limits, preload=preload)


def value(opened: Session, code: str) -> Any:
    [execution] = opened.run([code])
    if execution.error:
        raise RuntimeError(execution.error)
    return execution.value


def local_executor() -> Callable[[str], Any]:
    from smolagents.local_python_executor import LocalPythonExecutor

    executor = LocalPythonExecutor([])
    executor.send_tools({})
    return lambda code: executor(code)


# ---------------------------------------------------------------------- steps


def fork_once(opened: Session) -> None:
    """A fork of the session like the twin after a step, but one that says when it is ready."""
    opened.undo(0)  # the twin of the step before is ordered; forks are made in order
    [node] = opened._fork("revive", opened._live, 1)
    if not opened._await_ready(node, 5):
        raise RuntimeError("no fork")
    opened._drop([node])


def step(rounds: int) -> Iterator[Figure]:
    local = local_executor()
    ours: list[float] = []
    hurried: list[float] = []
    theirs: list[float] = []
    twins: list[float] = []
    forks: list[float] = []
    with session() as opened:
        value(opened, FORKS)
        for _ in range(10):
            value(opened, LINE), local(LINE)
        for _ in range(rounds):
            time.sleep(IDLE)
            ours.append(clock(lambda: opened.run([LINE])))
            time.sleep(IDLE)
            twins.append(clock(lambda: fork_once(opened)))
            forks.append(value(opened, "forks(1)"))
            hurried.append(clock(lambda: opened.run([LINE])))
            time.sleep(IDLE)
            theirs.append(clock(lambda: local(LINE)))
    yield compare("one-line step, reply", ours, theirs, "LocalPythonExecutor", 1.0)
    yield compare("  its twin's fork", twins, forks, "bare fork + wait of that process", 1.5)
    yield Figure(
        "  right after another step",
        statistics.median(hurried),
        None,
        "",
        "",
        None,
        spread=quartiles(hurried),
    )


def loop(rounds: int) -> Iterator[Figure]:
    local = local_executor()
    ours: list[float] = []
    theirs: list[float] = []
    with session() as opened:
        for _ in range(rounds):
            time.sleep(IDLE)
            ours.append(clock(lambda: opened.run([LOOP])))
            theirs.append(clock(lambda: local(LOOP)))
    figure = compare("100,000 turns of a loop", ours, theirs, "LocalPythonExecutor", 1 / 50)
    figure.target = "<= 1/50 x"
    yield figure


# ---------------------------------------------------------------------- start


class BareJail:
    """The jail of a session that really runs, with a plain Python in it: its own command line is copied."""

    def __init__(self) -> None:
        with session():
            pid = next(pid for pid in family(os.getpid()) if command_line(pid)[0].endswith("bwrap"))
            command = command_line(pid)
            self.environment = dict(
                item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item
            )
        self.seccomp = command.index("--seccomp") + 1
        self.command = command[: command.index("/sandbox/supervisor.py", command.index("--"))]
        self.filter = seccomp_filter()

    def run(self, program: str) -> float:
        """Milliseconds from its start to its end."""
        reader, writer = os.pipe()
        os.write(writer, self.filter)
        os.close(writer)
        command = [*self.command, "-c", "import sys; sys.path.append('/packages')\n" + program]
        command[self.seccomp] = str(reader)
        try:
            return clock(lambda: self.spawn(command, reader))
        finally:
            os.close(reader)

    def spawn(self, command: list[str], reader: int) -> None:
        null = subprocess.DEVNULL
        subprocess.run(command, env=self.environment, pass_fds=[reader], check=True, stdin=null, stdout=null)


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1] or [""]


def seccomp_filter() -> bytes:
    sys.path.insert(0, str(Path(__file__).parents[1] / "sandbox"))
    try:
        import confine  # type: ignore[import-not-found]
    finally:
        del sys.path[0]
    filtered: bytes = confine.seccomp_filter(confine.IN_A_PID_NAMESPACE)
    return filtered


def start(rounds: int) -> Iterator[Figure]:
    jail = BareJail()
    for name, preload in (("no imports", ()), ("numpy", ("numpy",))):
        ours: list[float] = []
        answered: list[float] = []
        theirs: list[float] = []
        imports = "".join(f"import {module}\n" for module in preload)

        def one(preload: tuple[str, ...] = preload, answered: list[float] = answered) -> None:
            started = time.perf_counter()
            with session(preload=preload) as opened:
                value(opened, LINE)
                answered.append((time.perf_counter() - started) * 1000)

        one()
        jail.run(imports)
        answered.clear()
        batch = max(1, rounds // 5)
        for _ in range(rounds // batch):  # in a row, but not all: a slow minute should hit both
            ours += [clock(one) for _ in range(batch)]
            theirs += [jail.run(imports + LINE) for _ in range(batch)]
        what = "bare jail with these imports"
        title = f"start, one line, close ({name}); mean of {len(ours)}"
        yield compare(title, ours, theirs, what, 1.3, statistics.mean)
        mean = statistics.mean(answered)
        yield Figure("  until the line's answer", mean, None, "", "", None, spread=quartiles(answered))


def pool(rounds: int) -> Iterator[Figure]:
    times: list[float] = []
    with SandboxPool("bubblewrap", preload=("numpy",), size=2) as warm:

        def one() -> None:
            opened = warm.open()
            taken.append(opened)
            value(opened, LINE)

        for _ in range(rounds):
            time.sleep(0.4)  # for the pool to be full again: a session's work is longer than that
            taken: list[Session] = []
            times.append(clock(one))
            taken[0].close()
    name = f"out of the warm pool, one line (numpy); p50 of {rounds}"
    yield Figure(name, statistics.median(times), None, "", "", None, spread=quartiles(times))


# ---------------------------------------------------------------------- candidates


def candidates(rounds: int) -> Iterator[Figure]:
    for name, preload in (("no imports", ()), ("numpy", ("numpy",)), ("sympy", ("sympy",))):
        ours: list[float] = []
        forks: list[float] = []
        with session(Limits(cores=CORES), preload) as opened:
            value(opened, FORKS)
            opened.run(["x = 1"] * 8)
            for _ in range(rounds):
                opened.undo(0)
                time.sleep(IDLE)
                ours.append(clock(lambda: opened.run(["x = 1"] * 8)))
                opened.keep(0)
                opened.undo(0)
                forks.append(value(opened, "forks(8)"))
        yield compare(f"eight light candidates ({name})", ours, forks, "eight bare fork + wait", 1.5)
    several: list[float] = []
    single: list[float] = []
    with session(Limits(cores=CORES)) as opened:
        turns = value(opened, COMPUTE + "turns(100)")
        for _ in range(max(3, rounds // 3)):
            single.append(clock(lambda: opened.run([f"work({turns})"])))
            several.append(clock(lambda: opened.run([f"work({turns})"] * 8)))
            opened.keep(0)
    waves = math.ceil(8 / CORES)
    yield compare(
        "eight that compute for 100 ms",
        several,
        [waves * one for one in single],
        f"{waves} x one such step, {CORES} cores",
        1.3,
    )


def deadline(rounds: int) -> Iterator[Figure]:
    over: list[float] = []
    with session(Limits(seconds=0.5)) as opened:
        for _ in range(max(3, rounds // 3)):
            over.append(clock(lambda: opened.run(["10**10**8"])) - 500)
    yield Figure(
        "10**10**8, after its deadline (worst)",
        max(over),
        None,
        "",
        "<= 100 ms",
        max(over) <= 100,
        spread=quartiles(over),
    )


# ---------------------------------------------------------------------- many


def family(root: int) -> list[int]:
    """All descendants of a process, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def shared_out_memory(pids: list[int]) -> float:
    """Sum of PSS in MB. PermissionError as an ordinary user: the jail's processes are shut to others."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(text.partition("\nPss:")[2].split()[0])
    return total / 1024


def available() -> float:
    text = Path("/proc/meminfo").read_text()
    return int(text.partition("MemAvailable:")[2].split()[0]) / 1024


def leases(count: int) -> Iterator[Figure]:
    before = available()
    opened: list[Session] = []
    times: list[float] = []
    try:
        for _ in range(count):
            opened.append(session())
            value(opened[-1], LINE)
        time.sleep(1)
        taken = before - available()
        processes = family(os.getpid())
        try:
            memory = shared_out_memory(processes)
        except PermissionError:
            memory = math.nan
        for _ in range(max(1, 1000 // count)):
            times += [clock(lambda one=one: one.run([LINE])) for one in opened]  # type: ignore[misc]
    finally:
        for one in opened:
            one.close()
    name = f"{count} idle sessions, PSS of {len(processes)} processes"
    yield Figure(name, memory, None, "", "<= 4096 MB", memory <= 4096, "MB")
    yield Figure("  memory the machine has less (kernel's own included)", taken, None, "", "", None, "MB")
    p99 = statistics.quantiles(times, n=100)[98]
    yield Figure("  step p99", p99, None, "", "", None, spread=quartiles(times))


# ---------------------------------------------------------------------- docker


def executor() -> Any:
    """smolagents' DockerExecutor, not building its image."""
    from smolagents.monitoring import AgentLogger, LogLevel
    from smolagents.remote_executors import DockerExecutor

    return DockerExecutor([], AgentLogger(LogLevel.OFF), build_new_image=False)


HOW = r"""Its image is built from python:3.12-bullseye and PyPI; where both can be reached:
  printf '%s\n' 'FROM python:3.12-bullseye' 'RUN pip install jupyter_kernel_gateway ipykernel' \
  'CMD ["jupyter", "kernelgateway", "--KernelGatewayApp.ip=0.0.0.0", "--KernelGatewayApp.port=8888"]' |
  docker build -t jupyter-kernel - && python benchmarks/sandbox.py --only docker"""


def docker(rounds: int) -> Iterator[Figure | str]:
    try:
        session(spec="docker").close()
    except SandboxError as problem:
        yield f"docker: not run: {problem}"
        return
    ours: dict[str, list[float]] = {"cold": [], "warm": [], "step": []}
    theirs: dict[str, list[float]] = {"cold": [], "step": []}
    reason = ""
    for _ in range(rounds):
        taken: list[Session] = []
        ours["cold"].append(clock(lambda: answer(session(spec="docker"), taken)))  # noqa: B023
        ours["step"] += [clock(lambda: taken[0].run([LINE])) for _ in range(5)]  # noqa: B023
        taken[0].close()
        if not reason:
            started = time.perf_counter()
            try:
                other = executor()
            except Exception as problem:
                reason = f"{type(problem).__name__}: {str(problem).splitlines()[0][:100]}"
                continue
            other(LINE)
            theirs["cold"].append((time.perf_counter() - started) * 1000)
            theirs["step"] += [clock(lambda: other(LINE)) for _ in range(5)]  # noqa: B023
            other.cleanup()
    with SandboxPool("docker", size=2) as warm:
        for _ in range(rounds):
            time.sleep(2)
            taken = []
            ours["warm"].append(clock(lambda: answer(warm.open(), taken)))  # noqa: B023
            taken[0].close()
    names = {
        "cold": "docker, start and one line, cold",
        "warm": "  out of a warm pool",
        "step": "  one-line step",
    }
    for key, name in names.items():
        against = statistics.median(theirs[key]) if theirs.get(key) else None
        what = "DockerExecutor" if against else ""
        spread = quartiles(ours[key])
        yield Figure(name, statistics.median(ours[key]), against, what, "", None, spread=spread)
    if reason:
        yield f"DockerExecutor: not run: {reason}. {HOW}"


def answer(opened: Session, taken: list[Session]) -> None:
    taken.append(opened)
    value(opened, LINE)


# ---------------------------------------------------------------------- the table


PARTS: dict[str, tuple[Callable[[int], Iterator[Figure | str]], int, int]] = {
    "step": (step, 200, 30),
    "loop": (loop, 15, 5),
    "start": (start, 100, 10),
    "pool": (pool, 30, 6),
    "candidates": (candidates, 30, 6),
    "deadline": (deadline, 30, 9),
    "leases": (leases, 200, 20),
    "docker": (docker, 10, 3),
}  # name -> (what measures it, rounds, rounds with --quick)


def line(figure: Figure) -> str:
    against = "" if figure.against is None else f"{figure.against:.3g}"
    if figure.ratio is None:
        ratio = ""
    else:
        ratio = f"{figure.ratio:.2f}" if figure.ratio > 0.1 else f"1/{1 / figure.ratio:.0f}"
    met = {True: "yes", False: "NO", None: ""}[figure.met]
    ours = f"{figure.ours:.3g} {figure.unit}"
    return (
        f"{figure.name:<52} {ours:>10} {against:>8} {ratio:>6}  {figure.target:<10} {met:<4}"
        f"{figure.spread:<28} {figure.what}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of the sandbox.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure to report")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between")
    asked = parser.parse_args()
    rows: list[Figure] = []
    notes: list[str] = []
    if not asked.json:
        print(f"{'figure':<52} {'ours':>10} {'against':>8} {'ratio':>6}  {'target':<10} {'met':<4}quartiles")
    for name in asked.only.split(","):
        measure, rounds, few = PARTS[name]
        for found in measure(few if asked.quick else rounds):
            if isinstance(found, Figure):
                rows.append(found)
            else:
                notes.append(found)
            if not asked.json:
                print(line(found) if isinstance(found, Figure) else found, flush=True)
    if asked.json:
        figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
        print(json.dumps({"cores": CORES, "figures": figures, "notes": notes}, indent=1))


if __name__ == "__main__":
    main()
