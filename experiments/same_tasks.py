"""A RUN cut down to the tasks of others, so that two arms are trained on the same tasks.

    python experiments/same_tasks.py RUN OUT OTHER...

OUT holds the attempts of RUN, as they are, whose task some OTHER has an attempt at.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agentdistill.runs import read_trajectories


def main(run: Path, out: Path, others: Sequence[Path]) -> None:
    wanted = {made.task.id for other in others for made in read_trajectories(other)}
    out.mkdir(parents=True)
    shutil.copy(run / "run.json", out)
    lines = (run / "trajectories.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["task"]["id"] in wanted]
    (out / "trajectories.jsonl").write_text("".join(kept), encoding="utf-8")
    sys.stderr.write(f"{out}: {len(kept)} of {len(lines)} attempts\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
