"""The parts of one turn, heard while they work: model, retriever and knowledge base around those given.

Guaranteed: a turn that is stopped ends within 0.2 s, whatever its model does: the call runs in a thread that
is left alone if it hangs, and whose later words nobody hears. Not guaranteed: that the engine has ended its
call by then; one in process does so with its next token, a call to an endpoint with the next piece it sends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from agentdistill.models.base import BaseModel
from agentdistill.stages.chat.events import Drew, EntriesRecalled, Listener, PassagesFound, TextGrew
from agentdistill.types import (
    Completion,
    Json,
    KnowledgeBase,
    Message,
    Passage,
    Recollection,
    Retriever,
    Sampling,
    Task,
)

POLL_SECONDS = 0.1
"""How soon a wait sees that the turn was stopped."""


class TurnStopped(Exception):
    """The person has stopped the turn."""


class Stop:
    """Whether one turn was stopped."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    def check(self) -> None:
        if self._asked.is_set():
            raise TurnStopped


class HeardModel(BaseModel):
    """The model of one turn: its live text goes to the listener, its calls end when the turn is stopped."""

    def __init__(self, model: BaseModel, stop: Stop, listener: Listener) -> None:
        super().__init__(model.model_id, model.sampling)
        self.model = model
        self._stop = stop
        self._tell = listener

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
        drawn = dict(self.draw(messages, n, prefix=prefix, stop=stop, sampling=sampling))
        return [drawn[index] for index in range(n)]

    def draw(
        self, messages: Sequence[Message], n: int = 1, **kwargs: Any
    ) -> Iterator[tuple[int, Completion]]:
        begun = time.monotonic()
        first_text: list[float] = []

        def hear(index: int, text: str) -> None:
            self._stop.check()
            if not first_text:
                first_text.append(time.monotonic())
            self._tell(TextGrew(index, text))

        def work(put: Any) -> None:
            for item in self.model.draw(messages, n, **kwargs):
                put(item)

        self.model.listener = hear
        tokens: int | None = 0
        for item in self._beside(work):
            told = item[1].tokens_out
            tokens = None if tokens is None or told is None else tokens + told
            yield item
        self._tell(Drew(tokens, time.monotonic() - (first_text[0] if first_text else begun)))

    def sample_logprobs(self, *args: Any, **kwargs: Any) -> Completion:
        [found] = self._beside(lambda put: put(self.model.sample_logprobs(*args, **kwargs)))
        return found  # type: ignore[no-any-return]

    def _beside(self, work: Any) -> Iterator[Any]:
        """What `work` puts, which runs in a thread of its own. Raises what it raises, and TurnStopped."""
        given: queue.SimpleQueue[tuple[Any, BaseException | None] | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                work(lambda item: given.put((item, None)))
            except BaseException as error:
                given.put((None, error))
            given.put(None)

        self._stop.check()
        threading.Thread(target=run, name="chat-model", daemon=True).start()
        while True:
            try:
                found = given.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self._stop.check()
                continue
            if found is None:
                return
            item, error = found
            if error is not None:
                raise error
            yield item


class HeardRetriever:
    """A Retriever whose passages the listener is shown."""

    def __init__(self, retriever: Retriever, listener: Listener) -> None:
        self._retriever = retriever
        self._tell = listener

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        found = self._retriever.search(queries, k)
        for query, passages in zip(queries, found, strict=True):
            self._tell(PassagesFound(query, tuple(passages)))
        return found

    def fingerprint(self) -> dict[str, Json]:
        return self._retriever.fingerprint()


class HeardKnowledge:
    """A KnowledgeBase whose entries the listener is shown."""

    def __init__(self, base: KnowledgeBase, listener: Listener) -> None:
        self._base = base
        self._tell = listener

    def recall(self, query: str, task: Task, tools: Sequence[str] = ()) -> Recollection:
        found = self._base.recall(query, task, tools)
        self._tell(EntriesRecalled(query, found))
        return found

    def fingerprint(self) -> dict[str, Json]:
        return self._base.fingerprint()
