"""Tokens and money: what attempts cost, what a RUN has cost, and whether its budget lets another start.

Guaranteed: every completion that came back is counted, those of failed tries too; a price that is not known
is None and never guessed. Nothing is started once what the RUN has spent, what the attempts in flight are
expected to cost and one more would go beyond the budget. An attempt is expected to cost what the finished
ones of the RUN have cost on average; until one has finished, one runs at a time. Not guaranteed: the budget
to the last cent (the attempts in flight may cost more than expected), nor calls that nobody was told the end
of: those that timed out, those in flight at a `kill -9`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.errors import UsageError
from agentdistill.models.base import BaseModel
from agentdistill.types import Completion, Json, Message, Sampling, Usage


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, as providers list them."""

    input: float
    output: float

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.input + tokens_out * self.output) / 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """What a RUN may cost in all, earlier calls included. `tokens` are those read and written."""

    usd: float | None = None
    tokens: int | None = None


class Meter:
    """Counts what one attempt costs while it runs. Safe to use from several threads."""

    def __init__(self, price: Price | None = None) -> None:
        self._price = price
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._tokens_in = self._tokens_out = 0
        self.uncounted = False
        """True once an endpoint has not told what a call has cost."""

    def count(self, completions: Iterable[Completion]) -> None:
        with self._lock:
            for completion in completions:
                if completion.tokens_in is None or completion.tokens_out is None:
                    self.uncounted = True
                self._tokens_in += completion.tokens_in or 0
                self._tokens_out += completion.tokens_out or 0

    def charge(self, tokens_in: int, tokens_out: int, *, uncounted: bool) -> None:
        """What another process has counted for this attempt."""
        with self._lock:
            self._tokens_in += tokens_in
            self._tokens_out += tokens_out
            self.uncounted |= uncounted

    def usage(self) -> Usage:
        """Tokens, wall seconds and USD until now."""
        with self._lock:
            known = self._price is not None and not self.uncounted
            return Usage(
                tokens_in=self._tokens_in,
                tokens_out=self._tokens_out,
                seconds=round(time.monotonic() - self._started, 3),
                usd=self._price.usd(self._tokens_in, self._tokens_out) if known and self._price else None,
            )


class MeteredModel(BaseModel):
    """A model whose completions a Meter counts: the innermost of one attempt, so it sees every call."""

    def __init__(self, model: BaseModel, meter: Meter) -> None:
        super().__init__(model.model_id, model.sampling)
        self.model = model
        self.meter = meter

    def fingerprint(self) -> dict[str, Json]:
        return self.model.fingerprint()

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        drawn = self.model.sample(messages, n, prefix=prefix, stop=stop, sampling=sampling)
        self.meter.count(drawn)
        return drawn

    def draw(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Completion]]:
        for index, completion in self.model.draw(*args, **kwargs):
            self.meter.count([completion])
            yield index, completion

    def sample_logprobs(self, *args: Any, **kwargs: Any) -> Completion:
        drawn = self.model.sample_logprobs(*args, **kwargs)
        self.meter.count([drawn])
        return drawn


class Account:
    """What a RUN has cost and may cost. `finished` and `failed` are what earlier calls have stored.

    Used by one thread. Raises UsageError for a budget in USD without a price.
    """

    def __init__(
        self,
        price: Price | None = None,
        budget: Budget | None = None,
        finished: Iterable[Usage] = (),
        failed: Iterable[Usage] = (),
        model_id: str = "NAME",
    ) -> None:
        self.budget = budget or Budget()
        if self.budget.usd is not None and price is None:
            raise UsageError(
                f"a budget in USD needs the price of {model_id}",
                f'[prices."{model_id}"] with input and output, USD per million tokens, in the --config file',
            )
        self._price = price
        self._running: set[Meter] = set()
        self._finished = [self._priced(usage) for usage in finished]
        self.run = total([*self._finished, *(self._priced(usage) for usage in failed)])
        """The RUN until now, attempts in flight left out."""
        self.call = Usage(usd=0.0 if price else None)
        """This call until now, attempts in flight left out. `seconds` is the sum over attempts."""
        self._mean = total(self._finished)
        self._count = len(self._finished)

    def open(self) -> Meter:
        """A meter for an attempt that starts now."""
        meter = Meter(self._price)
        self._running.add(meter)
        return meter

    def settle(self, meter: Meter, usage: Usage, *, finished: bool) -> None:
        """An attempt has ended and has cost this. Raises UsageError where a budget can't be kept."""
        self._running.discard(meter)
        self.run = total([self.run, usage])
        self.call = total([self.call, usage])
        if finished:
            self._mean = total([self._mean, usage])
            self._count += 1
        if meter.uncounted and self.budget != Budget():
            raise UsageError("the endpoint does not say how many tokens it used, so no budget can be kept")

    def now(self) -> Usage:
        """This call, attempts in flight included."""
        return total([self.call, *(meter.usage() for meter in self._running)])

    def affords_another(self) -> bool:
        """True if the budget lets one more attempt start."""
        running = [meter.usage() for meter in self._running]
        return all(
            limit is None or self._fits(limit, of(self.run), [of(usage) for usage in running], of(self._mean))
            for limit, of in ((self.budget.usd, _usd), (self.budget.tokens, _tokens))
        )

    def _fits(self, limit: float, spent: float, running: list[float], sum_of_finished: float) -> bool:
        if not self._count:
            return not running and spent < limit
        expected = sum_of_finished / self._count
        return spent + sum(max(expected, so_far) for so_far in running) + expected <= limit

    def _priced(self, usage: Usage) -> Usage:
        """An attempt made before its price was given, at today's. No tokens counted: not known."""
        if usage.usd is not None or self._price is None or not usage.tokens_in:
            return usage
        usd = self._price.usd(usage.tokens_in, usage.tokens_out)
        return Usage(usage.tokens_in, usage.tokens_out, usage.seconds, usd)


def total(usages: Iterable[Usage]) -> Usage:
    """The sum; USD are None if those of any part are."""
    listed = list(usages)
    prices = [usage.usd for usage in listed if usage.usd is not None]
    return Usage(
        tokens_in=sum(usage.tokens_in for usage in listed),
        tokens_out=sum(usage.tokens_out for usage in listed),
        seconds=round(sum(usage.seconds for usage in listed), 3),
        usd=sum(prices) if len(prices) == len(listed) else None,
    )


def _usd(usage: Usage) -> float:
    return usage.usd or 0.0


def _tokens(usage: Usage) -> float:
    return usage.tokens_in + usage.tokens_out
