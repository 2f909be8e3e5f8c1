"""The retrieval service: one index, over HTTP.

    POST /search     {"query": TEXT | "queries": [TEXT, ...], "k": 5, "mode": "hybrid", "rerank": false}
                     -> {"mode": ..., "index": FINGERPRINT,
                         "results": [[{"id", "title", "text", "score"}, ...], ...]}
    POST /retrieve   Search-R1's: {"queries": [TEXT, ...], "topk": 3, "return_scores": false}
                     -> {"result": [[{"id", "contents"}, ...], ...]}, or with return_scores
                        {"result": [[{"document": {"id", "contents"}, "score": ...}, ...], ...]}
    POST /embed      {"texts": [TEXT, ...]} -> {"encoder": SHA-256, "vectors": [[...], ...]}, each of length 1
    GET  /health     what is served; no token
    GET  /metrics    Prometheus text; with the token
    GET  /openapi.json

Searching needs `Authorization: Bearer TOKEN`. Every refusal is {"error", "remedy"}. Guaranteed: limits (see
openapi.py) hold before anything is computed; no request, whatever it holds, ends in a 500 or in an end of
the service; the work that waits is bounded (503 beyond it). The index is served as it was when the service
started: /health says `changed` when passages have been added or removed since. Not guaranteed: secrecy of the
connection; where others can listen, put a TLS proxy before it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from retrievers import openapi
from retrievers.batches import Searcher
from retrievers.index import MAX_K, MAX_QUERY, Hit, Index
from retrievers.openapi import DEFAULT_K, DEFAULT_TOPK, MAX_BODY, MAX_PASSAGES, MAX_QUERIES, MAX_TEXTS

TOKEN_VARIABLE = "AGENTDISTILL_RETRIEVER_TOKEN"  # noqa: S105
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_WAITING = 4 * MAX_QUERIES
"""Queries in work or waiting, of all requests."""
BODY_SECONDS = 20.0
RETRY_SECONDS = 1
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PREFIX = "agentdistill_retriever"


class Refused(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, error: str, remedy: str) -> None:
        super().__init__(error)
        self.status = status
        self.remedy = remedy


class Service:
    """The requests' side; `token` None serves everybody who asks for this machine by a loopback name."""

    def __init__(self, index: Index, searcher: Searcher, token: str | None) -> None:
        self.index = index
        self.searcher = searcher
        self.token = token
        self.reranks = index.info["reranker"] is not None
        self.embeds = "dense" in index.modes
        self.description = openapi.description(index.modes, self.reranks)
        self.waiting = 0
        self.queries = 0
        self.answers: Counter[tuple[str, int]] = Counter()
        self.times = dict.fromkeys(BUCKETS, 0)
        self.seconds = 0.0

    def app(self) -> Starlette:
        routes = [
            Route("/search", self._timed(self.search), methods=["POST"]),
            Route("/retrieve", self._timed(self.retrieve), methods=["POST"]),
            Route("/embed", self._timed(self.embed), methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.show_description),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _unknown})

    # ------------------------------------------------------------------ searching

    async def search(self, request: Request) -> bytes:
        self._admit(request)
        asked = await _body(request)
        _known(asked, "query", "queries", "k", "mode", "rerank")
        if ("query" in asked) == ("queries" in asked):
            raise Refused(422, "one of query and queries is needed", "send one of them")
        queries = _texts([asked["query"]] if "query" in asked else asked["queries"])
        k = _whole(asked.get("k", DEFAULT_K), "k", 1)
        mode = asked.get("mode")
        if mode is None:
            mode = self.index.modes[-1]
        if not isinstance(mode, str) or mode not in self.index.modes:
            raise Refused(422, f"no mode {mode!r:.60} here", f"one of {', '.join(self.index.modes)}")
        rerank = _flag(asked, "rerank")
        if rerank and not self.reranks:
            raise Refused(422, "there is no re-ranker here", "start the service with --reranker FOLDER")
        found = await self._found(queries, k, mode, rerank)
        results = [[hit._asdict() for hit in hits] for hits in found]
        return _encoded({"mode": mode, "index": self.index.info["fingerprint"], "results": results})

    async def retrieve(self, request: Request) -> bytes:
        self._admit(request)
        asked = await _body(request)
        if "queries" not in asked:
            raise Refused(422, "queries is missing", "send a list of texts")
        queries = _texts(asked["queries"])
        topk = asked.get("topk")
        k = DEFAULT_TOPK if topk is None else _whole(topk, "topk", 0) or DEFAULT_TOPK
        scores = _flag(asked, "return_scores")
        found = await self._found(queries, k, self.index.modes[-1], False)
        result: list[list[dict[str, Any]]] = [[_document(hit) for hit in hits] for hits in found]
        if scores:
            result = [
                [{"document": document, "score": hit.score} for document, hit in zip(row, hits, strict=True)]
                for row, hits in zip(result, found, strict=True)
            ]
        return _encoded({"result": result})

    async def embed(self, request: Request) -> bytes:
        """The encoder that is in memory anyway, for who would load another: `kb search --hybrid`."""
        self._admit(request)
        asked = await _body(request)
        _known(asked, "texts")
        texts = _texts(asked.get("texts"), "texts", MAX_TEXTS)
        if not self.embeds:
            raise Refused(422, "there is no encoder here", "serve an index that has vectors")
        with self._in_work(len(texts)):
            vectors = await self.searcher.embeddings.of(texts)
        encoder = self.index.info["encoder"]["sha256"]
        return _encoded({"encoder": encoder, "vectors": vectors.tolist()})

    async def _found(self, queries: list[str], k: int, mode: str, rerank: bool) -> list[list[Hit]]:
        if len(queries) * k > MAX_PASSAGES:
            raise Refused(
                422, f"{len(queries)} queries times {k} passages", f"at most {MAX_PASSAGES} in one request"
            )
        with self._in_work(len(queries)):
            found = await self.searcher.search(queries, k, mode, rerank)
        self.queries += len(queries)
        return found

    @contextmanager
    def _in_work(self, texts: int) -> Iterator[None]:
        if self.waiting + texts > MAX_WAITING:
            raise Refused(503, f"{self.waiting} queries are waiting", "try again in a moment")
        self.waiting += texts
        try:
            yield
        finally:
            self.waiting -= texts

    def _admit(self, request: Request) -> None:
        if "origin" in request.headers:  # a web page may post to any 127.0.0.1, and a browser adds this
            raise Refused(403, "the service serves no browsers", "ask without Origin")
        if self.token is None:
            # A page whose host name has been made to mean 127.0.0.1 says so here.
            if _hostname(request.headers.get("host", "")) not in LOOPBACK:
                raise Refused(403, "a host name that isn't this machine's", "ask for 127.0.0.1")
        elif not _shows(request, self.token):
            raise Refused(401, "the token is missing or wrong", f"set {TOKEN_VARIABLE}")

    def _timed(self, handler: Callable[[Request], Awaitable[bytes]]) -> Callable[..., Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = Response(await handler(request), media_type="application/json")
            except Refused as refused:
                response = _refusal(refused)
            except ClientDisconnect:
                response = _refusal(Refused(400, "the body ended early", "send all of it"))
            except Exception:  # a bug or a lost disk: the request's end, not the service's
                sys.stderr.write(traceback.format_exc())
                response = _refusal(Refused(500, "the search has failed", "look at the service's log"))
            taken = time.perf_counter() - started
            response.headers["Server-Timing"] = f"handler;dur={taken * 1000:.3f}"
            self.answers[request.url.path, response.status_code] += 1
            self.seconds += taken
            for bound in BUCKETS:
                self.times[bound] += taken <= bound
            return response

        return answer

    # ------------------------------------------------------------------ about the service

    async def health(self, _request: Request) -> Response:
        # In a thread: it reads the manifest, perhaps from a slow disk.
        changed = await asyncio.to_thread(self.index.changed)
        # Not what it was made of: that is a path, and whoever asks has shown no token.
        info = {name: value for name, value in self.index.info.items() if name != "made_with"}
        return JSONResponse({"status": "ok", "changed": changed, **info})

    async def show_description(self, _request: Request) -> Response:
        return JSONResponse(self.description)

    async def metrics(self, request: Request) -> Response:
        if self.token is not None and not _shows(request, self.token):
            return _refusal(Refused(401, "the token is missing or wrong", f"set {TOKEN_VARIABLE}"))
        return PlainTextResponse(self._metrics(), media_type="text/plain; version=0.0.4")

    def _metrics(self) -> str:
        lines: list[str] = []

        def metric(name: str, kind: str, meaning: str, samples: list[tuple[str, object]]) -> None:
            lines.append(f"# HELP {PREFIX}_{name} {meaning}")
            lines.append(f"# TYPE {PREFIX}_{name} {kind}")
            lines.extend(f"{PREFIX}_{name}{labels} {value}" for labels, value in samples)

        answers = [
            (f'{{path="{path}",status="{status}"}}', count)
            for (path, status), count in sorted(self.answers.items())
        ]
        embeddings = self.searcher.embeddings
        metric("answers_total", "counter", "Answers to searches.", [*answers])
        metric("queries_total", "counter", "Queries answered.", [("", self.queries)])
        metric("waiting", "gauge", "Queries in work or waiting.", [("", self.waiting)])
        metric("passages", "gauge", "Passages in the index.", [("", self.index.info["passages"])])
        metric("cache_hits_total", "counter", "Queries with a vector in the cache.", [("", embeddings.hits)])
        metric("cache_misses_total", "counter", "Queries without.", [("", embeddings.misses)])
        metric("batches_total", "counter", "Batches of queries embedded.", [("", embeddings.batches)])
        total = sum(self.answers.values())
        times: list[tuple[str, object]] = [(f'_bucket{{le="{b:g}"}}', n) for b, n in self.times.items()]
        times += [('_bucket{le="+Inf"}', total), ("_sum", f"{self.seconds:.6f}"), ("_count", total)]
        metric("seconds", "histogram", "Seconds from a request to its answer.", times)
        return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------- reading requests


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                data += piece
                if len(data) > MAX_BODY:
                    raise Refused(413, f"a body of more than {MAX_BODY} bytes", "send fewer queries at once")
    except TimeoutError:
        raise Refused(408, f"the body did not come in {BODY_SECONDS:g} s", "send all of it") from None
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split())[:200]
        raise Refused(400, f"the body is no JSON: {what}", "send a JSON object, in UTF-8") from None
    if not isinstance(asked, dict):
        raise Refused(422, f"the body is a JSON {type(asked).__name__}", "send a JSON object")
    return asked


def _known(asked: dict[str, Any], *names: str) -> None:
    for name in asked:
        if name not in names:
            raise Refused(422, f"there is no field {name!r:.60}", f"fields: {', '.join(names)}")


def _texts(value: Any, name: str = "queries", most: int = MAX_QUERIES) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise Refused(422, f"{name} are no list of texts with one or more in it", "send a list of texts")
    if len(value) > most:
        raise Refused(422, f"{len(value)} {name}", f"at most {most} in one request")
    longest = max(map(len, value))
    if longest > MAX_QUERY:
        raise Refused(422, f"a text of {longest} characters in {name}", f"at most {MAX_QUERY}")
    return value


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON has one kind of number
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_K:
        raise Refused(422, f"{name} is no whole number from {least} to {MAX_K}", "correct it")
    return value


def _flag(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise Refused(422, f"{name} is neither true nor false", "correct it")
    return value


def _shows(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


# ---------------------------------------------------------------------- writing answers


def _document(hit: Hit) -> dict[str, str]:
    """Search-R1's clients take the first line of `contents` for the title."""
    return {"id": hit.id, "contents": f'"{hit.title}"\n{hit.text}'}


def _encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()  # in ASCII: faster than UTF-8 both ways


def _refusal(refused: Refused) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)} if refused.status == 503 else {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse({"error": str(refused), "remedy": refused.remedy}, refused.status, headers)


async def _unknown(request: Request, error: Exception) -> Response:
    """A path or method there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) else None
    message = {"error": f"no {request.method} {request.url.path[:100]} here", "remedy": "see /openapi.json"}
    return JSONResponse(message, status, headers)
