"""Self-consistent action generation: every step is the vote of n sampled ones (METHOD 1.2).

`SelfConsistent` wraps the model of one attempt. For a step call it draws n samples, takes each down
CodeAgent's own path to code, runs the code in forks of the session, and gives back the first sample of the
largest group of equal results (agent/vote.py). The winner's fork is left with the executor, which keeps it
when CodeAgent runs that very code: nothing runs twice, and nothing that a loser did is seen later. If no
sample has a result, the first that parsed is the step, with its error as the observation; if none parsed, the
first.

Guaranteed: planning and max-steps calls pass through; identical code runs once and votes as often as it was
drawn; once the group that leads cannot be overtaken, what has not ended is cancelled, samples and runs, which
never changes the group that wins; an error of the model, the sandbox or a tool is raised, never voted on.
Not guaranteed: the same words from two calls with one seed. Which member of the winning group speaks for it
depends on which samples have ended by then.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from smolagents.local_python_executor import fix_final_answer_code
from smolagents.utils import parse_code_blobs

from agentdistill.agent import vote
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.first_thought import STEP_CALL_MARK
from agentdistill.models.base import BaseModel
from agentdistill.types import (
    CANCELLED,
    Candidate,
    Completion,
    Execution,
    FinishReason,
    Json,
    Message,
    Sampling,
    ToolCall,
    to_json,
)

TEMPERATURE = 0.4
TOP_P = 0.8
"""What candidates are drawn with unless one says otherwise: the reference's values (Kang et al. 2025)."""
MAX_TEXT = 4_000
MAX_RESULT = 300
"""Characters of a stored candidate: of its text and of its code, and of each part of its result."""
MAX_CALLS = 10
POLL_SECONDS = 0.02
"""How soon results are looked at, and tools called, while samples are being drawn."""


@dataclass(frozen=True, slots=True)
class Voted(Completion):
    """The completion that has won, with the tokens of all that were drawn, and what was voted on.

    `candidates` are all n, cut to what is worth keeping in a trajectory.
    """

    candidates: tuple[Candidate, ...] = ()


class SelfConsistent(BaseModel):
    """New for each attempt. Whether the sandbox's tools may be called for candidates is checked before."""

    def __init__(
        self, model: BaseModel, executor: SandboxExecutor, n: int, code_block_tags: tuple[str, str]
    ) -> None:
        super().__init__(model.model_id, model.sampling)
        self.model = model
        self.executor = executor
        self.n = n
        self.code_block_tags = code_block_tags

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
        """What the model samples; for a step call, `n` times the winner of a vote."""
        if STEP_CALL_MARK not in stop:
            return self.model.sample(messages, n, prefix=prefix, stop=stop, sampling=sampling)
        return [self._vote(messages, prefix, stop, sampling) for _ in range(n)]

    def _vote(
        self, messages: Sequence[Message], prefix: str, stop: Sequence[str], sampling: Sampling | None
    ) -> Voted:
        ballot = _Ballot(self.n, self.code_block_tags)
        with ThreadPoolExecutor(1, thread_name_prefix="candidates") as beside:
            running = beside.submit(self._run, ballot)
            try:
                drawn = self.model.draw(
                    messages, self.n, prefix=prefix, stop=stop, sampling=sampling, cancelled=ballot.over
                )
                for index, completion in drawn:
                    ballot.add(index, completion)
            except BaseException:
                ballot.over.set()
                raise
            finally:
                ballot.close()
            ballot.count(running.result())
        winner = ballot.winner()
        if (run := ballot.runs.get(winner)) is not None:
            self.executor.elect(run)
        return ballot.voted(winner)

    def _run(self, ballot: _Ballot) -> list[Execution]:
        try:
            return self.executor.try_out(ballot.codes(), ballot.enough)
        finally:
            ballot.over.set()


class _Ballot:
    """One step's vote: what was drawn, which code it ran, and what came of that.

    One thread draws and adds, another takes the codes and runs them. `runs` gives the number of a sample's
    run, for samples with code; samples with the same code share one. Once `over` is set, neither goes on.
    """

    def __init__(self, n: int, code_block_tags: tuple[str, str]) -> None:
        self._n = n
        self._tags = code_block_tags
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closed = False
        self._samples: dict[int, Completion] = {}
        self._codes: list[str] = []
        self._results: dict[int, Execution] = {}  # by run
        self._keys: dict[int, vote.Key | None] = {}  # by run
        self.runs: dict[int, int] = {}
        self.over = threading.Event()

    # ------------------------------------------------------------------ while it goes on

    def add(self, index: int, completion: Completion) -> None:
        """A sample has ended."""
        code = self._code(completion)
        with self._lock:
            self._samples[index] = completion
            if code is not None and code not in self._codes:
                self._codes.append(code)
                self._waiting.put(code)
            if code is not None:
                self.runs[index] = self._codes.index(code)

    def close(self) -> None:
        """No more samples come."""
        self._closed = True
        self._waiting.put(None)  # wakes who waits for one

    def codes(self) -> Iterator[str | None]:
        """The codes to run, as they come; None now and then meanwhile, for who has to look at results."""
        while not (self._closed and self._waiting.empty()):
            try:
                yield self._waiting.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None

    def enough(self, results: Mapping[int, Execution]) -> bool:
        """Whether the vote is over with the results of these runs."""
        with self._lock:
            for run, result in results.items():
                if run not in self._keys:
                    self._keys[run] = vote.key(result)
            return self.over.is_set() or vote.decided(self._standing(), self._n)

    def _code(self, completion: Completion) -> str | None:
        """CodeAgent's own way from text to code; None where it would find none."""
        if completion.finish_reason is FinishReason.CANCELLED:
            return None
        text = completion.text
        if text and not text.strip().endswith(self._tags[1]):
            text += self._tags[1]
        try:
            return str(fix_final_answer_code(parse_code_blobs(text, self._tags)))
        except Exception:  # whatever it is, CodeAgent calls it a parsing error
            return None

    # ------------------------------------------------------------------ afterwards

    def count(self, results: Sequence[Execution]) -> None:
        """The last results: one for each code that was taken, in order."""
        self._results = dict(enumerate(results))
        self.enough({run: found for run, found in self._results.items() if found is not CANCELLED})

    def _standing(self) -> dict[int, vote.Key | None]:
        """The keys of the samples that have ended: None for those without code or with an error."""
        standing: dict[int, vote.Key | None] = {}
        for index, sample in self._samples.items():
            run = self.runs.get(index)
            if run is None:
                if sample.finish_reason is not FinishReason.CANCELLED:
                    standing[index] = None
            elif run in self._keys:
                standing[index] = self._keys[run]
        return standing

    def winner(self) -> int:
        """The sample that is the step."""
        best = vote.winner(self._standing())
        if best is not None:
            return best
        return min(self.runs, default=min(self._samples))

    def voted(self, winner: int) -> Voted:
        standing = self._standing()
        votes = vote.votes(standing)
        samples = [self._samples[index] for index in sorted(self._samples)]
        candidates = [
            _candidate(
                self._samples[index].text,
                self._codes[self.runs[index]] if index in self.runs else None,
                self._result(index),
                votes.get(index, 0),
                index == winner,
            )
            for index in sorted(self._samples)
        ]
        chosen = self._samples[winner]
        return Voted(
            text=chosen.text,
            finish_reason=chosen.finish_reason,
            tokens_in=_sum([sample.tokens_in for sample in samples]),
            tokens_out=_sum([sample.tokens_out for sample in samples]),
            token_ids=chosen.token_ids,
            logprobs=chosen.logprobs,
            prefill=chosen.prefill,
            candidates=tuple(candidates),
        )

    def _result(self, index: int) -> Execution | None:
        if index in self.runs:
            return self._results.get(self.runs[index], CANCELLED)
        return CANCELLED if self._samples[index].finish_reason is FinishReason.CANCELLED else None


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


# ---------------------------------------------------------------------- what is stored


def _candidate(
    text: str, code: str | None, execution: Execution | None, votes: int, chosen: bool
) -> Candidate:
    return Candidate(
        text=_cut(text, MAX_TEXT),
        code=None if code is None else _cut(code, MAX_TEXT),
        execution=None if execution is None else _stored(execution),
        votes=votes,
        chosen=chosen,
    )


def _stored(execution: Execution) -> Execution:
    """What is worth keeping of a result: the winner's is in the step's observation anyhow."""
    error = execution.error
    return replace(
        execution,
        logs=_cut(execution.logs, MAX_RESULT),
        value=_short(execution.value),
        error=None if error is None else _cut_front(error, MAX_RESULT),
        seconds=round(execution.seconds, 4),
        tool_calls=tuple(
            ToolCall(call.name, _short(call.arguments), error=call.error and _cut(call.error, MAX_RESULT))
            for call in execution.tool_calls[:MAX_CALLS]
        ),
    )


def _short(value: Any) -> Any:
    """A value as it is, or the beginning of its JSON."""
    if value is None or isinstance(value, (bool, float)):
        return value
    plain = to_json(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return plain if len(text) <= MAX_RESULT else _cut(text, MAX_RESULT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most} characters cut]"


def _cut_front(text: str, most: int) -> str:
    """The end of an error says what it is."""
    return text if len(text) <= most else f"[{len(text) - most} characters cut ...] {text[-most:]}"
