"""One retrieval service an INDEX and user: started by whoever comes first, shared, ended after the last.

Whoever uses it holds a shared lock on a file beside the service's state; the service ends when nobody has
held one for a while (retrievers/serve.py). Guaranteed: the kernel lets go of the lock of a user that is
killed, so no service stays behind; of two who come at once one starts it and the other joins; an index that
has been changed gets a service of its own, as the old one serves what it has opened. Not guaranteed: sharing
between machines with one home folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from agentdistill import catalog, services
from agentdistill.clients.retriever import Address
from agentdistill.errors import DownloadError, InfrastructureError, RetrieverError
from agentdistill.services import State

LOCK_SECONDS = 210.0  # who has it may be starting the service


class SharedService:
    """A user's part in the service of an index. `close` gives it up; the kernel does if we are killed."""

    def __init__(self, index: Path, linger: float) -> None:
        self._index = index.resolve()
        self._linger = linger
        manifest = _manifest(self._index)
        told = json.dumps([str(self._index), manifest], sort_keys=True).encode()
        self._name = f"retriever-{hashlib.sha256(told).hexdigest()[:16]}"
        folder = services.state_folder()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._users: IO[str] = (folder / f"{self._name}.users").open("a")
        except OSError as error:
            raise RetrieverError(
                f"cannot write {folder}: {error.strerror}", "set AGENTDISTILL_STATE to another folder"
            ) from error
        try:
            with self._locked():
                _flock(self._users, fcntl.LOCK_SH)  # waits for a service that is just ending
        except BaseException:
            self.close()
            raise

    def address(self) -> Address:
        """Where the service is; it is started if it isn't running."""
        try:
            with self._locked():
                state = services.read_state(self._name)
                if state is None or not services.is_running(state):
                    state = self._start()
                return Address(state.url, state.token)
        except RetrieverError:
            raise
        except InfrastructureError as error:
            raise RetrieverError(
                error.message, error.remedy or f"see {services.log_file(self._name)}"
            ) from None

    def close(self) -> None:
        self._users.close()

    def _start(self) -> State:
        options = ["serve", str(self._index), "--socket", "3", "--linger", str(self._linger)]
        options += ["--users", str(services.state_folder() / f"{self._name}.users")]
        if encoder := encoder_folder(self._index):
            options += ["--encoder", str(encoder)]
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
            state = State(self._name, "local", sock.getsockname()[1], secrets.token_urlsafe(24))
            command = [*services.retrievers_command(), *options]
            return services.start(state, command, sock.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (services.state_folder() / f"{self._name}.lock").open("w") as lock:
            _flock(lock, fcntl.LOCK_EX)
            yield


def _flock(file: IO[str], kind: int) -> None:
    """Not the waiting call: that would wait for ever for a process that hangs."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise RetrieverError(f"{file.name} stays locked", "end the process that holds it") from None
            time.sleep(0.05)


def _manifest(index: Path) -> dict[str, Any]:
    """The index's own description, as far as it is needed here; the service looks at all of it."""
    make = "make one with `agentdistill index build`"
    try:
        manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = index.with_name(index.name + ".building").exists()
        what = "is not finished" if unfinished else "is no index"
        raise RetrieverError(
            f"{index} {what}", "give the same `index build` again" if unfinished else make
        ) from None
    except (OSError, ValueError) as error:
        raise RetrieverError(f"{index} cannot be read: {error}", make) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("encoder", ""), dict | None):
        raise RetrieverError(f"{index} is no index of agentdistill", make)
    return manifest


def encoder_folder(index: Path) -> Path | None:
    """The catalog's sentence encoder that an index was built with, fetched if need be; None for one without
    vectors. RetrieverError if it isn't the catalog's."""
    encoder = _manifest(index)["encoder"]
    if encoder is None:
        return None
    for known in catalog.ENCODERS:
        if known.sha256 == encoder.get("sha256"):
            try:
                return catalog.fetch(known.name)
            except DownloadError as error:
                raise RetrieverError(error.message, error.remedy) from error
    raise RetrieverError(
        f"{index} was built with {encoder.get('name')!r:.60}, which is not in the catalog",
        "start `python -m retrievers serve INDEX --encoder FOLDER`, give its URL",
    )
