"""Queries of many requests are embedded in turns: together, fairly, once, and with a bounded memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from retrievers.batches import CACHED_CHARACTERS, CHARACTERS, READ, SHARE, TOGETHER, Embeddings


class Encoder:
    """Text "7" becomes [7, 7]. The first batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        assert self.go.wait(10)
        return np.array([[float(text.split()[0])] * 2 for text in texts], dtype=np.float32)


def run(case: Callable[[Embeddings, Encoder], Coroutine[Any, Any, None]], cached: int = 100) -> None:
    encoder = Encoder()
    embeddings = Embeddings(encoder, cached)
    try:
        asyncio.run(asyncio.wait_for(case(embeddings, encoder), 20))
    finally:
        encoder.go.set()
        embeddings.close()


def numbers(first: int, count: int) -> list[str]:
    return [str(number) for number in range(first, first + count)]


async def begun(encoder: Encoder, batches: int = 1) -> None:
    while len(encoder.batches) < batches:
        await asyncio.sleep(0.001)


def test_vectors_come_in_the_order_of_the_queries() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        encoder.go.set()
        found = await embeddings.of(["3", "1", "3", "2"])
        assert found.tolist() == [[3, 3], [1, 1], [3, 3], [2, 2]] and found.dtype == np.float32
        assert encoder.batches == [["3", "1", "2"]]

    run(case)


def test_what_comes_during_a_batch_goes_into_the_next_together() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        first = asyncio.create_task(embeddings.of(["0"]))
        await begun(encoder)
        others = [asyncio.create_task(embeddings.of([str(n)])) for n in range(1, 9)]
        await asyncio.sleep(0)
        encoder.go.set()
        await asyncio.gather(first, *others)
        assert encoder.batches == [["0"], numbers(1, 8)]

    run(case)


def test_a_small_request_waits_for_no_more_than_the_batch_in_work() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        large = asyncio.create_task(embeddings.of(numbers(100, 10 * TOGETHER)))
        await begun(encoder)
        small = asyncio.create_task(embeddings.of(["7"]))
        await asyncio.sleep(0)
        encoder.go.set()
        await small
        assert "7" in encoder.batches[1] and not large.done()
        assert [len(batch) for batch in encoder.batches[:2]] == [TOGETHER, TOGETHER]
        found = await large
        assert found[:, 0].tolist() == [float(n) for n in range(100, 100 + 10 * TOGETHER)]

    run(case, cached=0)


def test_two_large_requests_share_every_batch() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        first = asyncio.create_task(embeddings.of(["0"]))
        await begun(encoder)
        larges = [asyncio.create_task(embeddings.of(numbers(1000 * n, 2 * TOGETHER))) for n in (1, 2)]
        await asyncio.sleep(0)
        encoder.go.set()
        await asyncio.gather(first, *larges)
        for batch in encoder.batches[1:]:
            assert abs(sum(text >= "2" for text in batch) - TOGETHER / 2) <= SHARE

    run(case)


def test_long_queries_fill_a_batch_sooner() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        encoder.go.set()
        await embeddings.of([f"{n} {'x' * 10_000}" for n in range(40)])
        assert max(map(len, encoder.batches)) <= CHARACTERS // READ + 1
        assert sum(map(len, encoder.batches)) == 40

    run(case)


def test_the_cache_answers_and_is_bounded() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        encoder.go.set()
        await embeddings.of(["1", "2", "3"])
        await embeddings.of(["1"])
        await embeddings.of(["4"])  # takes the place of "2", which nobody has asked for again
        assert len(encoder.batches) == 2
        assert (await embeddings.of(["1", "3", "4"]))[:, 0].tolist() == [1, 3, 4]
        assert len(encoder.batches) == 2 and (embeddings.hits, embeddings.misses) == (4, 4)
        await embeddings.of(["2"])
        assert encoder.batches[-1] == ["2"]
        long = "5 " + "x" * CACHED_CHARACTERS
        await embeddings.of([long])
        await embeddings.of([long])
        assert encoder.batches[-2:] == [[long], [long]]

    run(case, cached=3)


def test_a_failure_reaches_those_of_its_batch_and_nobody_else() -> None:
    async def case(embeddings: Embeddings, encoder: Encoder) -> None:
        encoder.go.set()
        bad = ["no number", *numbers(0, 3 * TOGETHER)]
        with pytest.raises(ValueError, match="could not convert"):
            await embeddings.of(bad)
        assert (await embeddings.of(["8"])).tolist() == [[8, 8]]
        assert len(encoder.batches) == 2, "what is left of a failed request is embedded for nobody"

    run(case)
