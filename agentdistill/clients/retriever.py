"""A Retriever over HTTP: a service at a URL, or one of an INDEX folder that starts by itself.

Guaranteed: a connection that breaks is tried again for RETRY_SECONDS, and nothing else is; what the service
answers is checked; a service that has come to serve another index in the meantime is an error, not another
result. The token is that of AGENTDISTILL_RETRIEVER_TOKEN, else of the service that `agentdistill services up`
has started here. Not guaranteed: secrecy on `http://`; between machines use `https://`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from agentdistill import services
from agentdistill.clients.replies import is_loopback, read_object, text
from agentdistill.errors import RetrieverError, UsageError
from agentdistill.types import Json, Passage

TOKEN_VARIABLE = "AGENTDISTILL_RETRIEVER_TOKEN"  # noqa: S105
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0
RETRY_SECONDS = 15.0
QUERIES = 256
"""In one request."""
PASSAGES = 50_000
"""Queries times k that a service answers in one request."""
LINGER_SECONDS = 30.0  # so that the next command finds it running
CONNECTION_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Address:
    url: str
    token: str | None


def open_retriever(spec: str | Path, *, linger: float = LINGER_SECONDS) -> HttpRetriever:
    """A retriever by SPEC: an INDEX folder, or http://HOST:PORT. The service of a folder ends `linger`
    seconds after its last user.

    UsageError for a SPEC that is neither, RetrieverError if the service can't be started or doesn't answer.
    """
    text = str(spec)
    if text.startswith(("http://", "https://")):
        address = Address(text.rstrip("/"), _token(text))
        return HttpRetriever(lambda: address)
    if "://" in text:
        raise UsageError(f"{text!r} is no address of a retriever", "an INDEX folder, or http://HOST:PORT")
    from agentdistill.clients.shared_retriever import SharedService

    shared = SharedService(Path(text), linger)
    try:
        return HttpRetriever(shared.address, shared.close)
    except BaseException:
        shared.close()
        raise


class HttpRetriever:
    """A Retriever (agentdistill.types). Safe for threads. A lost connection asks `address` again."""

    def __init__(self, address: Callable[[], Address], release: Callable[[], None] = lambda: None) -> None:
        self._find = address
        self._release = release
        self._address = address()
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # A proxy of the environment is for the world outside.
        self._client = httpx.Client(timeout=timeout, trust_env=not _here(self._address.url))
        try:
            self.info = self._health()
            if self._send("GET", "/metrics").status_code == 401:  # said now and not after an hour
                raise self._wrong_token()
        except BaseException:
            self._client.close()
            raise

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query up to k passages, best first. UsageError if the service refuses the query or k."""
        size = max(1, min(QUERIES, PASSAGES // max(1, k)))
        found: list[list[Passage]] = []
        for start in range(0, len(queries), size):
            found += self._search(list(queries[start : start + size]), k)
        return found

    @property
    def encoder(self) -> str | None:
        """The first 16 hex digits of the SHA-256 of its sentence encoder's weights; None without one."""
        known = self.info.get("encoder")
        if not isinstance(known, dict) or "dense" not in self.info["modes"]:
            return None
        return str(known.get("sha256"))[:16]

    def embed(self, texts: Sequence[str], encoder: str) -> NDArray[np.float32]:
        """float32[n, dimension] of up to 256 texts, by the encoder of that name and no other."""
        response = self._send("POST", "/embed", {"texts": list(texts)})
        said = read_object(response.content)
        if response.status_code != 200:
            raise self._unusable(f"{text(said, 'error')} (HTTP status {response.status_code})")
        if str(said.get("encoder"))[:16] != encoder:
            raise self._unusable("it has another sentence encoder than before")
        try:
            vectors = np.array(said["vectors"], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            raise self._unusable("an answer of another shape") from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise self._unusable("an answer of another shape")
        return vectors

    def fingerprint(self) -> dict[str, Json]:
        return {
            "index": self.info["fingerprint"],
            "mode": self.info["modes"][-1],
            "ranking": self.info.get("ranking"),  # a service of an older release does not tell
        }

    def close(self) -> None:
        """Hang up. A shared service ends when its last user has done so."""
        self._client.close()
        self._release()

    def __enter__(self) -> HttpRetriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search(self, queries: list[str], k: int) -> list[list[Passage]]:
        response = self._send("POST", "/search", {"queries": queries, "k": k})
        if response.status_code == 401:
            raise self._wrong_token()
        said = read_object(response.content)
        if response.status_code in (400, 413, 422):
            raise UsageError(f"the retriever refuses: {text(said, 'error')}", text(said, "remedy"))
        if response.status_code != 200:
            raise self._unusable(f"{text(said, 'error')} (HTTP status {response.status_code})")
        if said.get("index") != self.info["fingerprint"]:  # it was started again with another
            raise self._unusable("it serves another index than before")
        try:
            found = [[_passage(row) for row in rows] for rows in said["results"]]
        except (KeyError, TypeError, ValueError):
            raise self._unusable("an answer of another shape") from None
        if len(found) != len(queries):
            raise self._unusable(f"{len(found)} results for {len(queries)} queries")
        return found

    def _send(self, method: str, path: str, body: Json = None) -> httpx.Response:
        def again(_: object) -> None:
            self._address = self._find()

        tries = Retrying(
            retry=retry_if_exception_type(CONNECTION_ERRORS),
            stop=stop_after_delay(RETRY_SECONDS),
            wait=wait_random_exponential(0.2, max=2.0),
            before_sleep=again,
            reraise=True,
        )
        try:
            return tries(self._send_once, method, path, body)
        except CONNECTION_ERRORS as error:
            raise RetrieverError(
                f"no retriever answers at {self._address.url}: {_why(error)}", self._remedy()
            ) from None
        except httpx.TimeoutException:
            raise self._unusable(f"no answer in {ANSWER_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            raise self._unusable(str(error) or type(error).__name__) from None
        except (
            httpx.InvalidURL,
            UnicodeEncodeError,
        ) as error:  # a bad host, half a surrogate
            raise UsageError(f"this can't be sent: {error}") from None

    def _send_once(self, method: str, path: str, body: Json) -> httpx.Response:
        token = self._address.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._client.request(method, self._address.url + path, json=body, headers=headers)

    def _health(self) -> dict[str, Any]:
        response = self._send("GET", "/health")
        said = read_object(response.content)
        if response.status_code != 200 or not isinstance(said.get("fingerprint"), str):
            raise self._unusable("it is no retriever of agentdistill")
        modes = said.get("modes")
        if not isinstance(modes, list) or not modes:
            raise self._unusable("it has no way to search")
        return said

    def _unusable(self, what: str) -> RetrieverError:
        return RetrieverError(f"the retriever at {self._address.url}: {what}", self._remedy())

    def _wrong_token(self) -> RetrieverError:
        given = "the token is wrong" if self._address.token else "it wants a token"
        message = f"the retriever at {self._address.url} refuses: {given}"
        return RetrieverError(message, f"set {TOKEN_VARIABLE} to its token")

    def _remedy(self) -> str:
        if not _here(self._address.url):
            return "ask who runs it, or another address"
        return "agentdistill services up --index INDEX, or give the INDEX folder itself"


def _token(url: str) -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    if token or not _here(url):
        return token
    state = services.read_state("retriever")
    return state.token if state is not None and state.port == _port(url) else None


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        raise UsageError(f"{url!r} is no address of a retriever", "http://HOST:PORT") from None


def _here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        raise UsageError(f"{url!r} is no address of a retriever", "http://HOST:PORT") from None
    return is_loopback(host)


def _passage(row: Any) -> Passage:
    passage = Passage(row["id"], row["title"], row["text"], float(row["score"]))
    if not all(isinstance(text, str) for text in (passage.id, passage.title, passage.text)):
        raise TypeError("a passage's fields are texts")
    return passage


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
