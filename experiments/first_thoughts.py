"""The first thoughts in chains of thought made by `eval --mode cot`, as a file for `--first-thought FILE`.

    python experiments/first_thoughts.py OUT.jsonl RUN...

What `--first-thought content` would have cut from the same chains: so the chain that trains the
chain-of-thought student is drawn once, and an engine that answers many calls at once keeps one system prompt
in its cache at a time. Tasks whose chain gives no first thought are left out: their attempts begin without.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agentdistill.agent.first_thought import cut
from agentdistill.runs import read_trajectories


def main(out: Path, runs: Sequence[Path]) -> None:
    statuses: Counter[str] = Counter()
    with out.open("w", encoding="utf-8") as file:
        for run in runs:
            for chain in read_trajectories(run):
                status, text = cut(chain.messages[-1]["content"], chain.task, "content")
                statuses[status.value] += 1
                if text:
                    row = {"id": chain.task.id, "first_thought": text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    sys.stderr.write(f"{out}: {dict(statuses)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
