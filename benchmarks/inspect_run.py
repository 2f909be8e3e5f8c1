"""How long `agentdistill inspect` takes to open a big RUN, and how much memory.

    python benchmarks/inspect_run.py [--attempts 100000]

A RUN of made-up attempts is written, about 6 KB a line and graded. Each figure is of a process of its own,
from its start: the index alone, made from nothing, taken as it was kept, and after 1,000 more attempts; then
the screen of 120 by 40 cells, to the first rows and to all of them, in Textual without a terminal
(which would add its drawing), and three keys. The file is in the page cache: a disk adds the time to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def attempt(number: int, draw: random.Random) -> dict[str, object]:
    """A made-up attempt: two to six steps, observations of very different lengths."""
    steps = []
    question = f"Question {number}: " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(15, 40)))
    messages = [{"role": "system", "content": " ".join(WORDS[:120])}, {"role": "user", "content": question}]
    for _ in range(draw.randint(1, 4)):
        thought = " ".join(draw.choice(WORDS) for _ in range(25))
        code = "\n".join(f"{draw.choice(WORDS)} = {draw.random()} * {draw.randint(1, 99)}" for _ in range(6))
        seen = " ".join(draw.choice(WORDS) for _ in range(draw.choice((3, 20, 120))))
        steps.append(
            {"thought": thought, "code": code, "observation": seen, "error": None, "error_kind": None}
            | {"tool_calls": [], "candidates": [], "tokens_in": 700, "tokens_out": 60, "seconds": 1.5}
            | {"dropped": []}
        )
        messages += [
            {"role": "assistant", "content": f"Thought: {thought}\n<code>\n{code}\n</code>"},
            {"role": "user", "content": f"Observation:\n{seen}"},
        ]
    return {
        "id": f"task-{number}#0@0123456789ab",
        "task": {"id": f"task-{number}", "question": question, "answer": "42", "kind": "math"}
        | {"source": "made", "split": "", "meta": {}},
        "messages": messages[:-1],
        "steps": steps,
        "answer": str(draw.randint(1, 99)),
        "stop_reason": "final_answer",
        "model": "made-up",
        "sample": 0,
        "seed": 0,
        "prompt_hash": "",
        "first_thought": {"status": "off", "text": "", "rule": "off"},
        "usage": {"tokens_in": 700 * len(steps), "tokens_out": 60 * len(steps), "seconds": 2.5, "usd": None},
    }


WORDS = [
    f"{a}{b}" for a in ("step", "value", "river", "größe", "count", "number", "total") for b in range(60)
]


def make(folder: Path, attempts: int) -> None:
    draw = random.Random(0)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"format": 1, "stage": "generate", "shape": {}}')
    append(folder, range(attempts), draw)


def append(folder: Path, numbers: range, draw: random.Random) -> None:
    with (folder / "trajectories.jsonl").open("a") as file, (folder / "scores.jsonl").open("a") as scores:
        for number in numbers:
            row = attempt(number, draw)
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            score = {"attempt": row["id"], "correct": draw.random() < 0.6, "method": "number", "detail": ""}
            scores.write(json.dumps(score) + "\n")


INDEX = """
from pathlib import Path
from agentdistill.tui.inspect_index import RunIndex
index = RunIndex(Path(sys.argv[1]))
index.fill()
done["all rows"] = time.perf_counter() - started
done["attempts"] = index.count()
index.trajectory(index.count())
"""

SCREEN = """
import asyncio
from pathlib import Path
from agentdistill.tui.inspect import InspectApp
from agentdistill.tui.inspect_index import RunIndex

async def look():
    app = InspectApp(RunIndex(Path(sys.argv[1])))
    async with app.run_test(size=(120, 40)) as pilot:
        while not app.table.total:
            await asyncio.sleep(0.005)
        await pilot.pause()
        done["first rows on the screen"] = time.perf_counter() - started
        await app.filled.wait()
        done["all rows"] = time.perf_counter() - started
        for name, key in {"last row": "end", "sort": "s", "filter": "f"}.items():
            before = time.perf_counter()
            await pilot.press(key)
            await pilot.pause()
            done[f"{name}, ms"] = 1000 * (time.perf_counter() - before)
        done["attempts"] = app.table.total

asyncio.run(look())
"""


def measured(program: str, run: Path, cache: Path) -> dict[str, float]:
    """Figures of the program in a process of its own; `started` is when the process was."""
    head = f"import sys, time, json, resource\nstarted = {time.perf_counter()!r}\ndone = {{}}\n"
    tail = "\ndone['peak MB'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024"
    tail += "\ndone['CPU s'] = time.process_time()\nprint(json.dumps(done))"
    environment = {**os.environ, "AGENTDISTILL_CACHE": str(cache)}
    line = [sys.executable, "-c", head + program + tail, str(run)]
    said = subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--run", type=Path, help="a RUN that was made by this program before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = asked.run or Path(folder) / "run"
        if not run.exists():
            make(run, asked.attempts)
        size = (run / "trajectories.jsonl").stat().st_size
        print(f"{size / 1e6:,.0f} MB of trajectories")
        for what, program in (("index", INDEX), ("screen", SCREEN)):
            cache = Path(folder) / f"cache-{what}"
            for how in ("no index", "kept index"):
                found = measured(program, run, cache)
                print(f"{what}, {how}: " + ", ".join(f"{name} {value:,.2f}" for name, value in found.items()))
        append(run, range(asked.attempts, asked.attempts + 1000), random.Random(1))
        found = measured(INDEX, run, Path(folder) / "cache-index")
        print("index, 1,000 more: " + ", ".join(f"{name} {value:,.2f}" for name, value in found.items()))
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
