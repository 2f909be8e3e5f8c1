"""The two averages of the experiment's table as a picture, from what `table.py` prints.

    python experiments/table.py experiments/table-4 > table.md
    python experiments/table_picture.py docs/pictures/results.svg < table.md

Bars are the shares of right answers, lines their 95 % intervals. Rows that were not tested on all tasks (the
controls) are left out. Needs matplotlib (`pip install -e '.[dev]'`); the file is the same for the same table.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt

SHARE = re.compile(r"\d+ of (?P<n>\d+): (?P<share>[\d.]+)% \((?P<low>[\d.]+) to (?P<high>[\d.]+)\)")
COLOURS = {"teacher": "#c9a227", "chain": "#8a94a6", "": "#2f6fb0"}
"""By the first of these words that a row's name has; the last is for all others."""


class Share(NamedTuple):
    """In percent, with the interval's ends; `n` tasks."""

    n: int
    share: float
    low: float
    high: float


def averages(lines: Iterable[str]) -> dict[str, tuple[Share, Share]]:
    """Real benchmarks and generated families by the name of the row; of the first table in `lines`."""
    found = {}
    for line in lines:
        if line.startswith("| paired"):
            break
        shares = [
            Share(int(m["n"]), *(float(m[k]) for k in ("share", "low", "high"))) for m in SHARE.finditer(line)
        ]
        if len(shares) == 2:
            found[line.split("|")[1].strip()] = (shares[0], shares[1])
    if not found:
        sys.exit("no rows of a table on standard input: give it what table.py prints")
    return found


def draw(rows: dict[str, tuple[Share, Share]], out: Path) -> None:
    most = [max(row[part].n for row in rows.values()) for part in (0, 1)]
    rows = {name: row for name, row in rows.items() if [share.n for share in row] == most}
    mpl.rcParams.update({"svg.hashsalt": "results", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(9, 0.36 * len(rows) + 0.9), layout="constrained")
    titles = (f"real benchmarks, {most[0]} tasks", f"generated families, {most[1]} tasks")
    for axis, title, part in zip(axes, titles, (0, 1), strict=True):
        for name, row in rows.items():
            found = row[part]
            colour = next(c for word, c in COLOURS.items() if word in name)
            axis.barh(name, found.share, color=colour, height=0.68)
            axis.plot([found.low, found.high], [name, name], color="#222222", linewidth=1.2)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlim(0, 100)
        axis.set_xlabel("right, %, with 95 % interval", fontsize=9)
        axis.tick_params(labelsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(out, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    draw(averages(sys.stdin), Path(sys.argv[1]))
