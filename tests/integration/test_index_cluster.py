"""`index build --engine ray` on a real cluster of two nodes: the same index, whoever dies."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from encoders import tiny_encoder

pytest.importorskip("ray")

PASSAGES = 9_000  # five blocks
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    running.add_node(num_cpus=1)
    yield running
    running.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    rows = (
        {"id": f"p{i}", "title": f"City {i % 7}", "text": f"The river {i} is in a city."}
        for i in range(PASSAGES)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def build(corpus: Path, out: Path, encoder: Path, *more: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "agentdistill", "index", "build", str(corpus), "-o", str(out)]
    return subprocess.Popen(
        [*call, "--encoder", str(encoder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as Ray has it in an actor of one CPU
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, words = process.communicate(timeout=240)
    assert process.returncode == 0, words
    return words


def files(index: Path) -> dict[str, str]:
    return {
        str(path.relative_to(index)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(index.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def alone(corpus: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("alone") / "index"
    finish(build(corpus, out, encoder))
    return files(out)


def test_the_index_is_that_of_one_machine(
    cluster: Any, corpus: Path, encoder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    finish(build(corpus, tmp_path / "index", encoder, "--engine", "ray", "--ray-address", cluster.address))
    assert files(tmp_path / "index") == alone


@pytest.mark.slow
def test_a_lost_node_costs_only_its_blocks(
    cluster: Any, corpus: Path, encoder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    process = build(corpus, tmp_path / "index", encoder, "--engine", "ray", "--ray-address", cluster.address)
    kept = tmp_path / "index.building" / "kept"
    while process.poll() is None and not list(kept.glob("vectors-*/*.npy")):
        time.sleep(0.01)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    finish(process)
    assert files(tmp_path / "index") == alone
    cluster.add_node(num_cpus=1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--engine", "ray", "--ray-address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["--engine", "ray"], "which Ray cluster?"),
        (["--engine", "slurm"], "no engine is called 'slurm'"),
        (["--ray-address", "auto"], "--ray-address needs --engine ray"),
    ],
)
def test_what_is_wrong_is_one_line(
    corpus: Path, encoder: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    process = build(corpus, tmp_path / "index", encoder, *more)
    _, said = process.communicate(timeout=120)
    assert process.returncode in (1, 2) and words in said and "Traceback" not in said
    assert not (tmp_path / "index").exists()
