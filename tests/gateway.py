"""A real gateway process for tests: `with start_gateway() as gateway: open_sandbox(gateway.url)`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATEWAY = Path(__file__).parents[1] / "sandbox" / "gateway.py"
VARIABLE = "AGENTDISTILL_SANDBOX_TOKEN"
TOKEN = "a-token-for-tests"


@dataclass
class Gateway:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        status, text = self.get("/health")
        assert status == 200
        answer: dict[str, Any] = json.loads(text)
        return answer

    def metric(self, name: str) -> float:
        """One sample of /metrics, by its name and labels."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"agentdistill_sandbox_{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def wait_for_sessions(self, number: int, seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while self.health()["sessions"] != number:
            assert time.monotonic() < until, f"not {number} sessions but {self.health()['sessions']}"
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def start_gateway(*arguments: str, port: int | None = None, token: str = TOKEN) -> Iterator[Gateway]:
    """A gateway with these options. The client's variable holds its token meanwhile."""
    port = port or free_port()
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = token
    with tempfile.NamedTemporaryFile(prefix="gateway-", suffix=".log") as log:
        command = [sys.executable, "-I", str(GATEWAY), "--port", str(port), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        gateway = Gateway(port, process, Path(log.name))
        try:
            until = time.monotonic() + 40
            while True:
                with contextlib.suppress(OSError):
                    gateway.health()
                    break
                said = gateway.log.read_text()
                assert process.poll() is None, f"the gateway ended: {said}"
                assert time.monotonic() < until, f"the gateway doesn't answer: {said}"
                time.sleep(0.05)
            yield gateway
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if before is None:
                os.environ.pop(VARIABLE, None)
            else:
                os.environ[VARIABLE] = before
