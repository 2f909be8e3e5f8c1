"""Embeds a corpus on all nodes of a Ray cluster (`build --ray-address`); everything else is done here.

The unit is a block of passages, as on one machine, and blocks are kept and put together here, in their order:
the index is the one that a single machine writes, bit for bit where the nodes' CPUs and numbers of threads
are the same (an embedding may differ in its last bits where they are not). A node needs sentence-transformers
and the encoder under the same path; this package goes there by itself. Guaranteed: a lost node costs the
blocks in work there, which others embed again; with the last one the build ends, and the same command goes
on. Not guaranteed: that a node which joins later is used, or that Ray's own traffic is secret.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from retrievers.dense import Encoder
from retrievers.manifest import BadIndex

AHEAD = 2
"""Blocks given to a node at a time: the next one is there when one is done."""


REACH_SECONDS = 10.0
"""To see whether anything answers: Ray itself would try for many minutes."""


class ClusterError(BadIndex):
    """The cluster can't be reached, or has no node left."""


class _Node:
    """On a node."""

    def __init__(self, folder: str) -> None:
        self._encoder = Encoder(Path(folder))

    def sha256(self) -> str:
        return self._encoder.sha256

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._encoder.encode(texts)


class ClusterEncoder(Encoder):
    """The encoder of `folder`, on every node of the cluster that one is connected to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ray = _ray()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        self._nodes = []
        for node in ray.nodes():
            cores = int(node["Resources"].get("CPU", 0))
            if node["Alive"] and cores:
                where = affinity(node["NodeID"], soft=False)
                actor = ray.remote(_Node).options(num_cpus=cores, scheduling_strategy=where)
                self._nodes.append((node["NodeManagerHostname"], actor.remote(str(folder.resolve()))))
        for host, actor in list(self._nodes):
            try:
                found = ray.get(actor.sha256.remote())
            except ray.exceptions.RayError as error:
                raise ClusterError(f"node {host} has no encoder at {folder}: {_line(error)}") from None
            if found != self.sha256:
                raise ClusterError(f"node {host} has another encoder at {folder} than this machine")
        if not self._nodes:
            raise ClusterError("the cluster has no node with a CPU to offer")

    def encode_blocks(self, blocks: Iterator[list[str]]) -> Iterator[np.ndarray]:
        ray = _ray()
        nodes = [actor for _, actor in self._nodes]
        load = dict.fromkeys(nodes, 0)
        waiting: deque[tuple[list[str], Any, Any]] = deque()

        def given(texts: list[str]) -> tuple[list[str], Any, Any]:
            if not nodes:
                raise ClusterError("the cluster has no node left; the same command goes on where this ends")
            node = min(nodes, key=lambda one: load[one])
            load[node] += 1
            return texts, node, node.encode.remote(texts)

        more = True
        while more or waiting:
            while more and len(waiting) < AHEAD * max(1, len(nodes)):
                texts = next(blocks, None)
                more = texts is not None
                if texts is not None:
                    waiting.append(given(texts))
            if not waiting:
                return
            texts, node, reference = waiting.popleft()
            load[node] -= 1
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError:
                raise  # an error of ours: its traceback is in it
            except ray.exceptions.RayError:
                if node in nodes:
                    nodes.remove(node)
                waiting.appendleft(given(texts))


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A driver of the cluster at `address`: HOST:PORT, or `auto` for this machine's. Raises ClusterError."""
    ray = _ray()
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": [str(Path(__file__).parent)]},
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ClusterError(f"Ray is not installed here ({error}): pip install ray") from error
    return ray


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
