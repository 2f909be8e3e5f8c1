"""Packed RUNs: the shipped attempts come out whole, another RUN is never overwritten."""

from pathlib import Path

import pytest

from agentdistill.errors import RunDirectoryError
from agentdistill.runs import read_run_json, read_trajectories
from agentdistill.stages.recorded import unpack_run


def test_the_shipped_attempts_come_out_and_again(tmp_path: Path) -> None:
    out = unpack_run(tmp_path / "deep" / "run")
    assert unpack_run(out) == out
    assert len(list(read_trajectories(out))) == 134
    assert read_run_json(out)["stage"] == "generate"


def test_a_run_of_ones_own_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").write_text("{}\n")
    with pytest.raises(RunDirectoryError, match="holds other attempts"):
        unpack_run(tmp_path)
    assert (tmp_path / "trajectories.jsonl").read_text() == "{}\n"
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("packed", [b"", b"no archive"])
def test_what_is_no_packed_run_is_one_clear_error(tmp_path: Path, packed: bytes) -> None:
    source = tmp_path / "packed"
    with pytest.raises(RunDirectoryError, match="cannot be unpacked"):
        unpack_run(tmp_path / "out", source)
    source.mkdir()
    (source / "run.json").write_text("{}")
    (source / "trajectories.jsonl.xz").write_bytes(packed)
    with pytest.raises(RunDirectoryError, match="cannot be unpacked"):
        unpack_run(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
