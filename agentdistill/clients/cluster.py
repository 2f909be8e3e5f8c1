"""A Ray cluster that somebody operates: connect to it, see its nodes.

Guaranteed: nothing is started but where the address is "local"; a cluster that isn't there, or Ray that isn't
installed, is a ClusterError of one line. What runs on a cluster trusts all of it: Ray's own traffic is
pickled and, unless the operator turns it on, neither encrypted nor authenticated. A model's code never meets
it, since it runs in a jail of the node.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agentdistill.errors import ClusterError

REACH_SECONDS = 10.0
RUNS = "`ray status` on its head says whether it runs"
INSTALL = "pip install 'agentdistill[ray]'"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that is alive and has CPUs to offer. `id` is Ray's, `gpus` how many it offers."""

    id: str
    host: str
    gpus: int


def ray() -> Any:
    """The module, which is an extra. Raises ClusterError."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(f"Ray is not installed here: {error}", INSTALL) from error


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be a driver of the cluster at `address` (HOST:PORT, ray://HOST:PORT, auto, or local: one on this
    machine, ended with the block), by default that of RAY_ADDRESS. A connection that is there already is used
    and left open. Raises ClusterError.
    """
    module = ray()
    if module.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise ClusterError(
            "which Ray cluster?",
            "give --ray-address HOST:PORT or set RAY_ADDRESS; `ray start --head` begins one, "
            "--ray-address local takes this machine alone",
        )
    _reach(address)
    try:
        module.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"no Ray cluster answers at {address}: {line}", RUNS) from error
    try:
        yield
    finally:
        module.shutdown()


def _reach(address: str) -> None:
    """Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}", RUNS) from error


def alive() -> list[NodeFacts]:
    """The nodes that can take work now."""
    return [
        NodeFacts(node["NodeID"], node["NodeManagerHostname"], int(node["Resources"].get("GPU", 0)))
        for node in ray().nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
