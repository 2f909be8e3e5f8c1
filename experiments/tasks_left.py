"""The tasks that no RUN has an attempt at yet, so that what is there already is not made again.

    python experiments/tasks_left.py TASKS OUT.jsonl RUN...

TASKS is a task file or name, also of one family (`FILE@family=NAME`). In TASKS' order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from agentdistill.runs import read_trajectories
from agentdistill.tasks.load import load_tasks, write_tasks


def main(source: str, out: Path, runs: Sequence[Path]) -> None:
    made = {attempt.task.id for run in runs for attempt in read_trajectories(run)}
    tasks = load_tasks(source).tasks
    left = [task for task in tasks if task.id not in made]
    write_tasks(out, left)
    sys.stderr.write(f"{out}: {len(left)} of {len(tasks)} tasks\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
