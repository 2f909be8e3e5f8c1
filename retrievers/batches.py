"""Searches for many clients at once: queries are embedded together, searched side by side.

Embedding is what costs (milliseconds a query, and much less a query in a batch), so whatever waits while one
batch is being embedded goes into the next one, in turns: a request with thousands of queries takes a share of
each batch, and nobody waits for more than a batch or two. Nothing is delayed to fill a batch. Searching a
batch is done in pieces, in a few threads, and re-ranking, which takes seconds, in a thread of its own.
Guaranteed: a request's results are those of Index.search for its queries (an embedding may differ in its last
bits with what it was batched with); what the cache holds is bounded. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from retrievers.index import Hit, Index

TOGETHER = 64
"""Queries embedded in one batch at most."""
SHARE = 16
"""Of one request, while others wait."""
CHARACTERS = 16_000
"""In one batch, so that it takes well under a second; one longer query is a batch too."""
READ = 1_500
"""Characters of a query that an encoder looks at, about: the rest costs nothing."""
PIECE = 64
"""Queries searched in one go by one thread."""
RERANKED_PIECE = 2
CACHED_CHARACTERS = 1_000
"""Longer queries are not kept: nobody asks them twice."""


@dataclass(eq=False)
class _Wanted:
    """The queries of one request that still have no vector."""

    texts: deque[str]
    found: dict[str, np.ndarray]
    done: asyncio.Future[None]
    missing: int


class Embeddings:
    """Vectors of queries, with a cache of those last asked for."""

    def __init__(self, encode: Callable[[list[str]], np.ndarray], cached: int) -> None:
        self._encode = encode
        self._size = cached
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._waiting: deque[_Wanted] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._turns: asyncio.Task[None] | None = None
        self.hits = self.misses = self.batches = 0

    async def of(self, queries: Sequence[str]) -> np.ndarray:
        """float32 (n, dimension), in the order of the queries."""
        found: dict[str, np.ndarray] = {}
        missing: deque[str] = deque()
        for query in dict.fromkeys(queries):
            vector = self._cache.get(query)
            if vector is None:
                missing.append(query)
            else:
                self._cache.move_to_end(query)
                found[query] = vector
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append(_Wanted(missing, found, done, len(missing)))
            if self._turns is None:
                self._turns = asyncio.create_task(self._take_turns())
            await done
        return np.stack([found[query] for query in queries])

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _take_turns(self) -> None:
        try:
            while self._waiting:
                await self._turn()
        finally:
            self._turns = None

    async def _turn(self) -> None:
        taken = self._take()
        texts = list(dict.fromkeys(text for _, text in taken))
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, self._encode, texts)
        except Exception as error:  # the requests' own: each handler gets it
            for wanted, _ in taken:
                if not wanted.done.done():
                    wanted.done.set_exception(error)
                if wanted in self._waiting:
                    self._waiting.remove(wanted)
            return
        self.batches += 1
        # Copies: a row of the batch would keep all of it alive in the cache.
        by_text = {text: vector.copy() for text, vector in zip(texts, vectors, strict=True)}
        for text, vector in by_text.items():
            if self._size and len(text) <= CACHED_CHARACTERS:
                self._cache[text] = vector
                if len(self._cache) > self._size:
                    self._cache.popitem(last=False)
        for wanted, text in taken:
            wanted.found[text] = by_text[text]
            wanted.missing -= 1
            if not wanted.missing and not wanted.done.done():
                wanted.done.set_result(None)

    def _take(self) -> list[tuple[_Wanted, str]]:
        taken: list[tuple[_Wanted, str]] = []
        room = CHARACTERS
        while self._waiting and len(taken) < TOGETHER and room > 0:
            wanted = self._waiting.popleft()
            for _ in range(SHARE):
                text = wanted.texts.popleft()
                taken.append((wanted, text))
                room -= min(len(text), READ)
                if not wanted.texts or len(taken) == TOGETHER or room <= 0:
                    break
            if wanted.texts:
                self._waiting.append(wanted)
        return taken


class Searcher:
    """Searches of one index for the requests of one event loop."""

    def __init__(self, index: Index, cached: int, threads: int | None = None) -> None:
        self.index = index
        self.embeddings = Embeddings(index.encode, cached)
        threads = threads or max(2, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._rerank_thread = ThreadPoolExecutor(1, thread_name_prefix="rerank")

    async def search(self, queries: Sequence[str], k: int, mode: str, rerank: bool) -> list[list[Hit]]:
        """See Index.search. Its limits are to be looked at before."""
        vectors = await self.embeddings.of(queries) if mode != "sparse" and queries else None
        loop = asyncio.get_running_loop()
        size, pool = (RERANKED_PIECE, self._rerank_thread) if rerank else (PIECE, self._threads)
        found: list[list[Hit]] = []
        for start in range(0, len(queries), size):  # one piece of a request at a time: others get theirs
            piece = list(queries[start : start + size])
            near = None if vectors is None else vectors[start : start + size]
            found += await loop.run_in_executor(pool, self.index.search, piece, k, mode, near, rerank)
        return found

    def close(self) -> None:
        """Forget what waits; what is being computed in threads still ends."""
        self.embeddings.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._rerank_thread.shutdown(wait=False, cancel_futures=True)
