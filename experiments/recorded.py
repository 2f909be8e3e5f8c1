"""The attempts that ship with the package, from packed RUNs of the experiment.

    python experiments/recorded.py agentdistill/recorded experiments/table-4/train-off.{arithmetic,lookup}

Of each RUN's first 100 tasks those of level 1 and 2, which is what the quickstart is tested on, in turns,
right or wrong: nothing is picked. The RUNs must agree in all that shapes an attempt but the port of the
server; run.json is the first one's.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

FIRST = 100
LEVELS = (1, 2)


def shape(run: Path) -> dict[str, object]:
    found = json.loads((run / "run.json").read_text(encoding="utf-8"))["shape"]
    found["model"].pop("base_url")
    return dict(found)


def lines(run: Path) -> list[str]:
    text = lzma.decompress((run / "trajectories.jsonl.xz").read_bytes()).decode()
    rows = [(json.loads(line)["task"], line) for line in text.splitlines(keepends=True)]
    rows.sort(key=lambda row: int(row[0]["id"].rsplit("-", 1)[1]))
    return [line for task, line in rows[:FIRST] if task["meta"]["level"] in LEVELS]


def main(out: Path, runs: Sequence[Path]) -> None:
    if any(shape(run) != shape(runs[0]) for run in runs):
        sys.exit("these RUNs were made in different settings")
    kept = [line for line in chain.from_iterable(zip_longest(*map(lines, runs))) if line]
    out.mkdir(exist_ok=True)
    shutil.copy(runs[0] / "run.json", out)
    packed = lzma.compress("".join(kept).encode(), preset=9 | lzma.PRESET_EXTREME)
    (out / "trajectories.jsonl.xz").write_bytes(packed)
    sys.stderr.write(f"{out}: {len(kept)} attempts, {len(packed):,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
