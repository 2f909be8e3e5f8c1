"""HTTP to one OpenAI-compatible endpoint: one policy for retries, time limits and calls in flight.

Guaranteed: a request ends within `seconds`, from connecting to the last byte of the reply's body; what may go
away by itself (429, 5xx, a broken connection, a reply that is cut, garbage or empty) is tried again with
exponential backoff and jitter, and no sooner than the endpoint asks (Retry-After); a refusal (other 4xx)
never is; whatever comes back, one typed error of one line comes out. Not guaranteed: the time limit while a
name is looked up, or while an endpoint dribbles the *headers* of a reply byte by byte (http.client
bounds only their size).

Not the `openai` client: at 64 calls in flight it took 4.2 ms of CPU a call, httpx 1.8, urllib3 0.7.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    wait_random_exponential,
)
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, TimeoutError
from urllib3.util import make_headers, parse_url

from agentdistill.errors import ContextOverflowError, ModelBusyError, ModelError, UnknownModelError
from agentdistill.models.limiter import InFlightLimiter
from agentdistill.models.streamed import StreamedReply
from agentdistill.types import Json

CONNECT_SECONDS = 10.0
FIRST_WAIT = 0.5
"""Seconds: upper bound of the wait before the second try; doubles with every further one (full jitter)."""
LONGEST_WAIT = 30.0
"""Seconds that backoff grows to."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds that an endpoint may ask a call to wait; beyond, the call fails at once with what was asked."""
REPLY_BYTES = 64 * 2**20
"""Of one reply; none is near this long."""
ERROR_CHARS = 300  # a proxy's error page must not fill the log
_CHUNK = 2**18

_BUSY = (429, 503, 529)  # 529: overloaded, at Anthropic and behind some gateways
_TEMPORARY = (408, 500, 502, 504, 520, 522, 524)  # 52x: Cloudflare has no answer from the server behind it

# What vLLM, llama-server, SGLang, TGI and the large vendors say when a conversation is too long. Checked only
# where a reply is an error.
_OVERFLOW = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context_size|available context size"
    r"|model's context length|maximum model length|context window|prompt is too long|input token count"
    r"|inputs.{0,3} tokens \+ .{0,3}max_new_tokens|too large for model with \d+ maximum context",
    re.IGNORECASE,
)

T = TypeVar("T")


class RefusedError(ModelError):
    """The endpoint does not take a request of this form, by `status` (4xx)."""

    def __init__(self, message: str, remedy: str, status: int) -> None:
        super().__init__(message, remedy)
        self.status = status


class _TemporaryError(ModelError):
    """No usable reply this time."""


class _LateError(_TemporaryError):
    """No reply, or not all of it, in the time of a call."""


class Endpoint:
    """BASE_URL as one user with one key sees it. Safe for threads. `name` is the model's, for messages."""

    def __init__(
        self, name: str, base_url: str, key: str, *, seconds: float, retries: int, ceiling: int
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.seconds = seconds
        self.limiter = InFlightLimiter(ceiling)
        self._where = f"{name} at {base_url}"
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._connections = _connections(base_url, ceiling)
        self._closed = threading.Event()
        self._retrying = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(1 + retries),
            wait=_wait,
            sleep=sleep_using_event(self._closed),  # closing wakes who waits for a next try
            reraise=True,
        )

    def post(
        self,
        path: str,
        body: Mapping[str, Json],
        read: Callable[[Any], T],
        live: Callable[[], StreamedReply] | None = None,
    ) -> T:
        """What `read` makes of the JSON reply, after as many tries as it takes and is allowed.

        `read` says that a reply is unusable by AttributeError, LookupError, TypeError or ValueError. For a
        `body` that asks for a stream `live` makes what puts it together, anew for each try. Raises
        RefusedError, ContextOverflowError, ModelBusyError or ModelError.
        """
        data = json.dumps(body).encode()
        reply: T = self._retrying(self._try, path, data, read, live)
        return reply

    def get(self, url: str) -> Any:
        """The JSON at an absolute URL, asked for once. Raises ModelError."""
        status, _, body = self._send("GET", url, None)
        if status != 200:
            raise self._refused(status, body)
        return self._json(body)

    def close(self) -> None:
        """Calls that wait for another try fail now, calls in flight at their end."""
        self._closed.set()
        self._connections.clear()

    def _try(
        self, path: str, data: bytes, read: Callable[[Any], T], live: Callable[[], StreamedReply] | None
    ) -> T:
        streamed = live() if live is not None else None
        with self.limiter.call() as call:
            if self._closed.is_set():
                raise ModelError(f"{self._where} is closed")
            begun = time.monotonic()
            try:
                status, headers, body = self._send("POST", self.base_url + path, data, streamed)
            except _LateError:
                call.refused = True  # as many calls again would be late again: nothing would ever be answered
                raise
            call.refused = status in _BUSY
            call.answered_in_time = status == 200 and time.monotonic() - begun < self.seconds / 2
            if status in _BUSY:
                raise self._busy(status, headers, body)
        if status in _TEMPORARY:
            raise self._overflow_or(_TemporaryError, f"{status} {_said(body)}", body)
        if status != 200:
            raise self._refused(status, body, headers)
        # A server that cannot stream answers in one piece.
        events = streamed is not None and "text/event-stream" in headers.get("Content-Type", "")
        reply = None if events else self._json(body)
        try:
            return read(streamed.reply() if streamed is not None and events else reply)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._overflow_or(
                _TemporaryError,
                f"no completion but {_said(body) or 'nothing'} ({error})",
                body if isinstance(reply, dict) and "error" in reply else b"",
                "is this the address of an OpenAI-compatible API, with its /v1?",
            ) from error

    def _send(
        self, method: str, url: str, data: bytes | None, streamed: StreamedReply | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        deadline = time.monotonic() + self.seconds
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, self.seconds), total=self.seconds)
        try:
            response = self._connections.urlopen(
                method,
                url,
                body=data,
                headers=self._headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            return response.status, response.headers, _read_body(response, deadline, streamed)
        except (NewConnectionError, MaxRetryError) as error:
            raise self._temporary(f"Connection error: {_line(error)}", "is the server up?") from error
        except TimeoutError as error:
            raise _LateError(
                f"{self._where} did not answer: not in {self.seconds:g} s",
                "fewer tokens a step, or fewer calls at once",
            ) from error
        except ValueError as error:  # LocationValueError is an HTTPError too; so says http.client of a key
            raise ModelError(f"{self._where}: this cannot be sent: {_line(error)}") from error
        except HTTPError as error:
            raise self._temporary(_line(error)) from error

    def _json(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._temporary(
                f"no JSON but {_said(body) or 'nothing'}",
                "is this the address of an OpenAI-compatible API, with its /v1?",
            ) from error

    def _temporary(self, what: str, remedy: str = "") -> _TemporaryError:
        return _TemporaryError(f"{self._where} did not answer: {what}", remedy)

    def _overflow_or(self, kind: type[ModelError], what: str, body: bytes, remedy: str = "") -> ModelError:
        if _OVERFLOW.search(body[:10_000].decode("utf-8", "replace")):
            return ContextOverflowError(
                f"{self._where}: the conversation does not fit into its context: {_said(body)}",
                "fewer tokens a step, or a server with a larger context",
            )
        return kind(f"{self._where} did not answer: {what}", remedy)

    def _busy(self, status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
        if b"insufficient_quota" in body:
            return ModelError(
                f"{self._where} did not answer: {_said(body)}", "the account's credit is used up"
            )
        seconds = retry_after(headers.get("Retry-After"))
        if seconds is not None and seconds <= LONGEST_RETRY_AFTER:
            self.limiter.pause(seconds)
        return ModelBusyError(
            f"{self._where} did not answer: {status} {_said(body)}",
            "fewer calls at once, or later" if seconds is None else f"it asks to come back in {seconds:g} s",
            seconds,
        )

    def _refused(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ModelError:
        said = f"{status} {_said(body)}"
        if 300 <= status < 400:
            place = str((headers or {}).get("Location", "another place"))[:ERROR_CHARS]
            return RefusedError(f"{self._where} has moved to {place}", "give that address", status)
        refused = self._overflow_or(ModelError, said, body)
        if isinstance(refused, ContextOverflowError):
            return refused
        return RefusedError(refused.message, _REMEDIES.get(status, ""), status)


_REMEDIES = {
    401: "set OPENAI_API_KEY to a key it takes",
    402: "the account's credit is used up",
    403: "set OPENAI_API_KEY to a key that may use this model",
    404: "is the model's name right, and the address, with its /v1?",
}


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or an HTTP date), None if it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, ModelBusyError):
        return error.retry_after is None or error.retry_after <= LONGEST_RETRY_AFTER
    return isinstance(error, _TemporaryError)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: backoff with full jitter, after what the endpoint has asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ModelBusyError) else None
    return (asked or 0.0) + wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)(state)


def _read_body(
    response: urllib3.BaseHTTPResponse, deadline: float, streamed: StreamedReply | None = None
) -> bytes:
    """The whole body; `streamed` is given it piece by piece, where all is well. Raises urllib3's TimeoutError
    at the deadline, whether bytes still come or not."""
    parts: list[bytes] = []
    length = 0
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection = getattr(response.connection, "sock", None)
            if connection is not None:
                connection.settimeout(left)
            part = response.read1(_CHUNK, decode_content=False)
            if not part:
                response.release_conn()
                return b"".join(parts)
            parts.append(part)
            length += len(part)
            if streamed is not None and response.status == 200:
                streamed.feed(part)
            if length > REPLY_BYTES:
                raise HTTPError(f"the reply is longer than {REPLY_BYTES >> 20} MiB")
    except BaseException:
        response.close()
        raise


def _said(body: bytes) -> str:
    """What a reply says that is no completion, as one short line: its error message, or its beginning."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    said = reply.get("error", reply) if isinstance(reply, dict) else reply
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said
    return _line(said if said is not None else body[: 10 * ERROR_CHARS].decode("utf-8", "replace"))


def _line(text: object) -> str:
    return " ".join(str(text).split())[:ERROR_CHARS]


def _connections(base_url: str, ceiling: int) -> urllib3.PoolManager:
    """Kept-alive connections, through the environment's proxy where it names one for this address.

    Raises UnknownModelError if it is no URL, ModelError if the proxy is of no use."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
    except ValueError as error:
        raise UnknownModelError(f"{base_url!r} is no URL: {error}", "http://HOST:PORT/v1") from error
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return urllib3.PoolManager(maxsize=ceiling)
    try:
        auth = parse_url(proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
        return urllib3.ProxyManager(proxy, maxsize=ceiling, proxy_headers=headers)
    except (HTTPError, AssertionError) as error:  # ProxySchemeUnknown is an AssertionError too
        raise ModelError(
            f"the environment's proxy for {base_url} cannot be used: {_line(error)}",
            "NO_PROXY, or an http proxy",
        ) from error
