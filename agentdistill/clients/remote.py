"""The remote backend: a session of a gateway (sandbox/gateway.py), over WebSocket.

The session's stream travels in binary messages as it is; the gateway's own words are texts. Guaranteed: a
gateway that is full is waited for, up to WAIT_SECONDS; whatever else keeps a session from starting is a
SandboxError that says what to do, and one that ends later is the end of the stream, with the gateway's
reason as its last words. Not guaranteed: that the other end is who it says it is, on `ws://`; between
machines use `wss://`.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import SplitResult, urlsplit

from websockets.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from agentdistill import services
from agentdistill.clients.link import Stream
from agentdistill.clients.replies import is_loopback, read_object, text
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import Limits

PROTOCOL = 1
TOKEN_VARIABLE = "AGENTDISTILL_SANDBOX_TOKEN"  # noqa: S105
WAIT_SECONDS = 60.0  # for a place in a gateway that is full
OPEN_SECONDS = 10.0
START_SECONDS = 35.0  # the gateway gives a jail 30
CLOSE_SECONDS = 1.0
PENDING = 64  # messages that are looked through for a farewell; a jail may send without end
PIECE = 256 << 10  # bytes in a message; the gateway takes up to 1 MiB
RETRY = (0.1, 2.0)  # least and most seconds between two tries
_AWAY, _RESTART = 1001, 1012


def open_stream(limits: Limits, preload: Sequence[str], url: str, wait: float = WAIT_SECONDS) -> Stream:
    """A session of the gateway at `url`; SandboxError with a remedy if there is none to be had."""
    parts = _parts(url)
    until = time.monotonic() + wait
    while True:
        try:
            connection = _connect(parts)
            break
        except InvalidStatus as refused:
            _refused(refused, url, until, wait)
        except InvalidMessage:  # not even a broken answer, as when it is being stopped
            raise SandboxError(f"what answers at {url} hung up at once", remedy(url)) from None
        except OSError as error:
            raise SandboxError(f"no gateway answers at {url}: {_why(error)}", remedy(url)) from None
        except WebSocketException as error:
            raise SandboxError(f"what answers at {url} is no gateway: {error}", remedy(url)) from None
    try:
        return _Session(connection, limits, preload, url)
    except BaseException:
        connection.close()
        raise


def check(url: str) -> str:
    """What is at `url`, in a line for people. SandboxError if no session can be had there."""
    parts = _parts(url)
    status, health = _get(parts, "/health", url)
    if status != 200 or health.get("protocol") != PROTOCOL:
        raise SandboxError(f"what answers at {url} is no gateway of this version", remedy(url))
    status, _ = _get(parts, "/metrics", url)
    if status == 401:
        raise _wrong_token(url)
    return f"{health.get('jail')}, {health.get('sessions')} of {health.get('max_sessions')} sessions taken"


def remedy(url: str) -> str:
    here = is_loopback(_parts(url).hostname or "")
    return "agentdistill services up --local" if here else "ask who runs it, or another address"


class _Session:
    """A Stream (agentdistill.clients.link) in a connection of its own."""

    def __init__(
        self, connection: ClientConnection, limits: Limits, preload: Sequence[str], url: str
    ) -> None:
        self._connection = connection
        self._words = ""  # the gateway's last
        self._lost = ""  # how the connection ended, if there are none
        opening = {"protocol": PROTOCOL, "limits": asdict(limits), "preload": list(preload)}
        try:
            connection.send(json.dumps(opening))
            answer = connection.recv(timeout=START_SECONDS)
        except TimeoutError:
            message = f"the gateway at {url} gave no jail in {START_SECONDS:g} s"
            raise SandboxError(message, "look at its log and its load") from None
        except ConnectionClosed as closed:
            raise SandboxError(f"the gateway at {url} hung up: {_reason(closed)}", remedy(url)) from None
        said = read_object(answer)
        if "error" in said:
            raise SandboxError(f"the gateway at {url}: {text(said, 'error')}", text(said, "remedy"))
        if said.get("protocol") != PROTOCOL:
            message = f"the gateway at {url} speaks another protocol version"
            raise SandboxError(message, "install the same version of agentdistill on both sides")

    def send(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), PIECE):
                self._connection.send(data[start : start + PIECE])
        except ConnectionClosed as closed:
            raise self._gone(closed) from None

    def receive(self, seconds: float) -> bytes | None:
        try:
            message = self._connection.recv(timeout=seconds)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise self._gone(closed) from None
        if isinstance(message, bytes):
            return message
        said = read_object(message)
        advice = text(said, "remedy")
        self._words = text(said, "error") + (f" ({advice})" if advice else "")
        return b""

    def close(self) -> str:
        """Hang up: the gateway ends the jail then. Its farewell may still be on its way to us."""
        for _ in range(PENDING):
            try:
                message = self._connection.recv(timeout=0)
            except (
                TimeoutError,
                ConnectionClosed,
                ConcurrencyError,
            ):  # the last: a step in another thread reads
                break
            if isinstance(message, str):
                self._words = self._words or text(read_object(message), "error")
        self._connection.close()
        return self._words or self._lost

    def _gone(self, closed: ConnectionClosed) -> OSError:
        self._lost = self._lost or _reason(closed)
        return BrokenPipeError(self._lost)


def _connect(parts: SplitResult) -> ClientConnection:
    token = _token(parts)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Entered by hand: the connection lives as long as its session. No ping time-out: an end that doesn't
    # read for a while makes the other wait, it isn't dead. The pings keep proxies on the way from hanging up.
    return connect(
        f"{parts.scheme}://{parts.netloc}/session",
        additional_headers=headers,
        compression=None,
        proxy=None if is_loopback(parts.hostname or "") else True,
        open_timeout=OPEN_SECONDS,
        close_timeout=CLOSE_SECONDS,
        ping_interval=20,
        ping_timeout=None,
        max_size=1 << 20,
    ).__enter__()


def _refused(refused: InvalidStatus, url: str, until: float, wait: float) -> None:
    """Wait before the next try if the gateway is full. SandboxError if that is not it, or it is too late."""
    response = refused.response
    if response.status_code == 401:
        raise _wrong_token(url) from None
    said = read_object(bytes(response.body or b""))
    why = text(said, "error") or f"HTTP status {response.status_code}"
    if response.status_code != 503:
        raise SandboxError(f"the gateway at {url} refuses: {why}", text(said, "remedy")) from None
    left = until - time.monotonic()
    if left <= 0:
        message = f"no place at the gateway {url} in {wait:g} s: {why}"
        raise SandboxError(message, "lower --concurrency, or raise the gateway's --max-sessions") from None
    try:
        advised = float(response.headers.get("Retry-After", ""))
    except ValueError:
        advised = RETRY[0]
    advised = min(max(advised, RETRY[0]), RETRY[1])
    time.sleep(min(left, advised * random.uniform(0.5, 1)))  # noqa: S311  spread, so that not all come at once


def _wrong_token(url: str) -> SandboxError:
    given = "the token is wrong" if os.environ.get(TOKEN_VARIABLE) else "it wants a token"
    return SandboxError(f"the gateway at {url} refuses: {given}", f"set {TOKEN_VARIABLE} to its token")


def _reason(closed: ConnectionClosed) -> str:
    code = closed.rcvd.code if closed.rcvd else closed.sent.code if closed.sent else None
    if code in (_AWAY, _RESTART):
        return "the gateway has been stopped"
    return "the connection to the gateway is lost"


def _get(parts: SplitResult, path: str, url: str) -> tuple[int, dict[str, Any]]:
    """A plain request. Directly: loopback has no proxy, and a gateway elsewhere is asked for a session."""
    kind = http.client.HTTPSConnection if parts.scheme == "wss" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=OPEN_SECONDS)
    try:
        token = _token(parts)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, read_object(response.read(1 << 16))
    except (OSError, http.client.HTTPException) as error:
        raise SandboxError(f"no gateway answers at {url}: {_why(error)}", remedy(url)) from None
    finally:
        connection.close()


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        plain = parts.path in ("", "/") and not parts.query and parts.username is None
        if parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0 and plain:
            return parts
    except ValueError:  # urlsplit's, or of a port that is no number
        pass
    raise UsageError(f"{url!r} is no address of a gateway", "ws://HOST:PORT or wss://HOST:PORT")


def _token(parts: SplitResult) -> str | None:
    """The variable's, or that of a gateway which `agentdistill services up` has started here."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token or not is_loopback(parts.hostname or ""):
        return token
    state = services.read_state("sandbox")
    return state.token if state is not None and state.port == parts.port else None


def _why(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return f"no answer in {OPEN_SECONDS:g} s"
    return str(error) or type(error).__name__
