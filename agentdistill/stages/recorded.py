"""RUNs that are kept packed: the teacher's attempts that ship with the package, and recorded experiments.

    PACKED/run.json   PACKED/trajectories.jsonl.xz

Guaranteed: a folder that holds other attempts is left as it is. Scores are not kept: `grade` makes them.
"""

from __future__ import annotations

import lzma
from importlib import resources
from pathlib import Path

from agentdistill.errors import RunDirectoryError
from agentdistill.runs import write_atomic


def unpack_run(out: Path, packed: Path | None = None) -> Path:
    """Write a packed RUN to `out`, which is returned; without `packed` the real teacher attempts that ship
    with the package, for training only. Raises RunDirectoryError."""
    source = resources.files("agentdistill").joinpath("recorded") if packed is None else packed
    try:
        record = source.joinpath("run.json").read_text(encoding="utf-8")
        lines = lzma.decompress(source.joinpath("trajectories.jsonl.xz").read_bytes()).decode("utf-8")
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{source} cannot be unpacked to {out}: {error}") from error
    stored = out / "trajectories.jsonl"
    if stored.exists() and stored.read_text(encoding="utf-8", errors="replace") != lines:
        raise RunDirectoryError(f"{out} holds other attempts than {source}", "give another folder")
    write_atomic(out / "run.json", record)
    write_atomic(stored, lines)
    return out
