"""Start-up: `agentdistill --help` beside `python -c pass`, whole processes, in one run.

Prints medians in milliseconds with the spread, and the ratio. Not guaranteed: that another machine gives the
same milliseconds; compare ratios.
"""

import shutil
import statistics
import subprocess
import sys
import time

RUNS = 15


def milliseconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    program = shutil.which("agentdistill", path=str(sys.prefix) + "/bin") or "agentdistill"
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "agentdistill --help": [program, "--help"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):  # in turns, so that a slow moment hits both
        for name, command in commands.items():
            times[name].append(milliseconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name:<20} median {medians[name]:6.0f} ms ({min(values):.0f} to {max(values):.0f}, n = {RUNS})"
        )
    first, second = medians.values()
    print(f"ratio {second / first:.1f}")


if __name__ == "__main__":
    main()
