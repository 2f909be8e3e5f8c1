"""A real retrieval service for tests: `with start_retriever(build_index(folder)) as service: ...`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import free_port

from agentdistill import services

TOKEN = "a-token-for-tests"
VARIABLE = "AGENTDISTILL_RETRIEVER_TOKEN"
ROWS = (
    ("nile", "Nile", "The Nile is a river in Africa. It flows through Egypt."),
    ("rhine", "Rhine", "The Rhine is a river in Europe."),
    ("rome", "Rome", "Rome is the capital of Italy; the river in it is the Tiber."),
    ("bach", 'Johann "Sebastian" Bach', "Bach wrote music, é and \u2028 included."),
)


def build_index(folder: Path, encoder: Path | None = None, rows: Any = ROWS) -> Path:
    from retrievers.build import build

    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps(dict(zip(("id", "title", "text"), r, strict=True))) + "\n" for r in rows)
    )
    build(str(corpus), folder / "index", encoder, lambda *_: None)
    return folder / "index"


@dataclass
class Service:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers. The token is shown unless another Authorization is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Authorization": f"Bearer {TOKEN}", **headers}
        try:
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def post(self, path: str, asked: Any, **headers: str) -> tuple[int, Any]:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        status, answer, _ = self.ask("POST", path, body, **headers)
        return status, json.loads(answer)

    def metric(self, name: str) -> float:
        """One sample of /metrics, by its name and labels."""
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(f"agentdistill_retriever_{name} "):
                return float(line.split()[1])
        raise KeyError(name)


def command(index: Path, *arguments: str) -> list[str]:
    return [*services.retrievers_command(), "serve", str(index), *arguments]


@contextlib.contextmanager
def start_retriever(
    index: Path, *arguments: str, port: int | None = None, token: str = TOKEN
) -> Iterator[Service]:
    port = port or free_port()
    environment = {**os.environ, VARIABLE: token, "OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile(prefix="retriever-", suffix=".log") as log:
        process = subprocess.Popen(
            command(index, "--port", str(port), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
        service = Service(port, process, Path(log.name))
        try:
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    assert service.ask("GET", "/health")[0] == 200
                    break
                said = service.log.read_text()
                assert process.poll() is None, f"the service ended: {said}"
                assert time.monotonic() < until, f"the service doesn't answer: {said}"
                time.sleep(0.05)
            yield service
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
