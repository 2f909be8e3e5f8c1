"""The nouns of the project: frozen records that pass between stages, and the protocols behind them.

Guaranteed: no I/O, no heavy import, every record turns into plain JSON with `to_json` and back with
the `from_json` of its class. Not guaranteed: that a record's content is true or harmless. Text in a
Step comes from a model or from its code and is hostile until shown otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

Json = Any
"""A value made of dict, list, str, int, float, bool and None."""


class Message(TypedDict):
    """One chat turn as TRL and the Hugging Face `messages` column know it."""

    role: Literal["system", "user", "assistant"]
    content: str


class TaskKind(StrEnum):
    """How an answer is given and judged."""

    MATH = "math"  # a number or a mathematical expression
    QA = "qa"  # a short phrase
    CHOICE = "choice"  # the letter of an option
    CODE = "code"  # a program judged by tests


@dataclass(frozen=True, slots=True)
class Task:
    """One problem. `meta["data"]`, if present, maps names to plain JSON that is put into the sandbox;
    `meta["earlier"]` is text on what went before in a conversation, for the prompt."""

    id: str
    question: str
    answer: str
    kind: TaskKind = TaskKind.MATH
    source: str = ""
    split: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Task:
        return cls(**{**row, "kind": TaskKind(row["kind"])})


class ErrorKind(StrEnum):
    """Why a step has an error. None of these is infrastructure, all but the last are the model's doing."""

    PARSE = "parse"  # no code block could be read from the text
    EXCEPTION = "exception"  # the code raised
    TIMEOUT = "timeout"  # the code outlived its deadline and was killed
    MEMORY = "memory"  # the code hit its memory limit
    DIED = "died"  # the code ended its own interpreter (os._exit, a segfault, a signal)
    TOOL = "tool"  # a tool call was malformed or refused
    CANCELLED = (
        "cancelled"  # a candidate that was stopped, or never run, as the vote was decided: never a step
    )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool from sandboxed code. `error` is the text the code saw, if the call failed.

    `result` is what the tool has answered, or what it wants remembered of that: `{"passages": [id, ...]}`
    for a search, `{"entries": [id, ...]}` for a recall, whose text is in the step's observation if the code
    has printed it.
    """

    name: str
    arguments: Json
    result: Json = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a SandboxTool may return: the code gets `value`, the ToolCall keeps `record` in its place."""

    value: Any
    record: Json


@dataclass(frozen=True, slots=True)
class Opaque:
    """A sandbox value that is not plain data: its type's name and its (cut) repr, never the object."""

    type: str
    repr: str

    def __str__(self) -> str:
        return self.repr


@dataclass(frozen=True, slots=True)
class Execution:
    """What one piece of code did in a sandbox.

    `value` is the final answer if `is_final`, else the last expression's value (None if there is
    none): plain Python data or Opaque. `error` is a traceback that points at the user's lines only.
    """

    logs: str = ""
    value: Any = None
    is_final: bool = False
    error: str | None = None
    error_kind: ErrorKind | None = None
    timed_out: bool = False
    seconds: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()


CANCELLED = Execution(error="cancelled: it was not needed any more", error_kind=ErrorKind.CANCELLED)
"""What a candidate gets that was stopped, or was never run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step of sandboxed code may use. Waiting for a tool does not count as running."""

    seconds: float = 20.0
    memory_mb: int = 1024
    output_chars: int = 20_000
    folder_mb: int = 64
    processes: int = 64
    cores: int = 2


@dataclass(frozen=True, slots=True)
class SandboxTool:
    """A function of ours that sandboxed code may call by name.

    `call` takes JSON-like keyword arguments and returns JSON-like data; it runs on our side and may
    be called from several threads. A tool that is not `repeatable` (it changes the world) is
    refused before a run of several candidates starts. When it hasn't answered in `seconds`, the code
    is told so and goes on; the call itself can't be stopped and is not waited for.
    """

    name: str
    call: Callable[..., Any]
    parameters: tuple[str, ...] = ()
    repeatable: bool = True
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled action of a self-consistent step, what it did, and the votes its result got.

    `code` and `execution` are None where no code could be read from the text. A candidate that was cancelled,
    while it was sampled or run or before, has an execution with ErrorKind.CANCELLED. Long texts are cut, with
    a mark.
    """

    text: str
    code: str | None
    execution: Execution | None
    votes: int = 0
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One thought-code-observation cycle. Never an optimiser step. `seconds` is wall time.

    `dropped` lists the earlier steps (counted from 0) whose observations the model did not see in this step,
    because the conversation did not fit into its context.
    """

    thought: str
    code: str | None
    observation: str
    error: str | None = None
    error_kind: ErrorKind | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    dropped: tuple[int, ...] = ()


class StopReason(StrEnum):
    """Why an attempt ended."""

    FINAL_ANSWER = "final_answer"
    MAX_STEPS = "max_steps"
    CONTEXT = "context"  # the conversation did not fit any more, whatever was dropped


class ThoughtStatus(StrEnum):
    """What became of the first thought of an attempt (METHOD 1.1)."""

    USED = "used"
    OFF = "off"
    EMPTY = "empty"  # the chain of thought held nothing but openers
    LEAKED = "leaked"  # under four words were left before the answer was stated
    WRONG = "wrong"  # left out because its chain of thought was wrong (`correct-only`)


@dataclass(frozen=True, slots=True)
class FirstThought:
    """The first thought of an attempt: its text, the CoT it was cut from, and how it was delivered.

    `prefill` names the rung of METHOD 1.1's ladder: "tokens" (in process), "continue", "trailing", "prefix",
    "completions", "emulated" or "ignored" (asked for in words, in vain); empty when no prefix was used.
    """

    status: ThoughtStatus = ThoughtStatus.OFF
    text: str = ""
    rule: str = "off"
    cot: str = ""
    cot_correct: bool | None = None
    prefill: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> FirstThought:
        """Raises TypeError or ValueError on a row of another shape."""
        return cls(**{**row, "status": ThoughtStatus(row.get("status", ThoughtStatus.OFF))})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, wall seconds and money of one attempt, its first-thought call included.

    `usd` is None where the price is not known.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class KnowledgeUse:
    """What a knowledge base gave to an attempt (METHOD 2).

    `delivery` is how ("off", "inject", "recall", "gated"), `mode` how it was searched ("hybrid", "lexical").
    `entries` are the ids of those that fitted. `injected` says that notes stood in the prompt, and so in
    front of every step; entries that a `recall` call gave are in its ToolCall, and so in its Step. `gap` is
    what the gate has measured, between 0 and 1.
    """

    delivery: str = "off"
    mode: str = ""
    entries: tuple[str, ...] = ()
    injected: bool = False
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One attempt at one Task: exactly one line of trajectories.jsonl.

    `messages` is the conversation as the model saw it (system, user, assistant, user, ...), ending
    with the last assistant turn; `answer` is None when no final answer was given.
    """

    id: str
    task: Task
    messages: tuple[Message, ...]
    steps: tuple[Step, ...]
    answer: str | None
    stop_reason: StopReason
    model: str
    sample: int = 0
    seed: int = 0
    prompt_hash: str = ""
    first_thought: FirstThought = FirstThought()
    usage: Usage = Usage()
    knowledge: KnowledgeUse = KnowledgeUse()

    @classmethod
    def from_json(cls, row: Mapping[str, Json]) -> Trajectory:
        """Raises KeyError, TypeError or ValueError on a row of another shape."""
        row = dict(row)
        row["task"] = Task.from_json(row["task"])
        row["messages"] = tuple(row["messages"])
        row["steps"] = tuple(_step(step) for step in row["steps"])
        row["stop_reason"] = StopReason(row["stop_reason"])
        row["first_thought"] = FirstThought.from_json(row.get("first_thought") or {})
        row["usage"] = Usage(**(row.get("usage") or {}))
        knowledge = dict(row.get("knowledge") or {})
        row["knowledge"] = KnowledgeUse(**{**knowledge, "entries": tuple(knowledge.get("entries", ()))})
        return cls(**row)


def _step(row: Mapping[str, Json]) -> Step:
    kind = row.get("error_kind")
    return Step(
        **{
            **row,
            "error_kind": ErrorKind(kind) if kind else None,
            "tool_calls": tuple(ToolCall(**call) for call in row.get("tool_calls", ())),
            "candidates": tuple(_candidate(candidate) for candidate in row.get("candidates", ())),
            "dropped": tuple(row.get("dropped", ())),
        }
    )


def _candidate(row: Mapping[str, Json]) -> Candidate:
    execution = row.get("execution")
    if execution is not None:
        kind = execution.get("error_kind")
        execution = Execution(
            **{
                **execution,
                "error_kind": ErrorKind(kind) if kind else None,
                "tool_calls": tuple(ToolCall(**call) for call in execution.get("tool_calls", ())),
            }
        )
    return Candidate(**{**row, "execution": execution})


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one attempt: `method` names the rule that gave it, `detail` says why."""

    attempt: str
    correct: bool
    method: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a retrieval corpus; `score` is the retriever's, higher is better."""

    id: str
    title: str
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `max_tokens` counts new tokens of one completion."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int = 0


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation. `text` excludes the prefix it was given and the stop string.

    `token_ids` are the sampled ids where the engine tells them, `logprobs` the top-k per token.
    `prefill` names the rung that delivered the prefix ("" if there was none). Tokens are None where the
    endpoint counts none and they can't be counted here; of several samples over one prompt the first has the
    prompt's tokens, the others 0.
    """

    text: str
    finish_reason: FinishReason = FinishReason.STOP
    tokens_in: int | None = None
    tokens_out: int | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[Mapping[str, float], ...] | None = None
    prefill: str = ""


@runtime_checkable
class ActionModel(Protocol):
    """Anything that draws actions. Safe to call from several threads. Raises ModelError."""

    model_id: str

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]: ...

    def fingerprint(self) -> dict[str, Json]:
        """What identifies the weights and the engine, for run.json."""
        ...


Enough = Callable[[Mapping[int, Execution]], bool]
"""Says of the results so far, by the number of the code, whether they will do."""


@runtime_checkable
class Sandbox(Protocol):
    """A stateful Python session behind a wall.

    `run([code])` runs in the session itself. `run([c1, ..., cn])` runs each in its own fork and
    leaves the session as it was until `keep(i)` makes fork i the session; without `keep` all forks
    are dropped at the next call. `undo(k)` goes back k steps. A killed step leaves the session as it
    was before that step. Raises SandboxError when the wall itself is lost, never for what code did.

    `run(iterator)` runs each code in its own fork as the iterator gives it; an iterator that has to wait for
    the next gives None from time to time, for results to be looked at. `enough` is asked whenever something
    may have changed, with the results so far by the code's number: once it is true no more code is taken, and
    what has not ended is CANCELLED.
    """

    def run(
        self, codes: Sequence[str] | Iterator[str | None], enough: Enough | None = None
    ) -> list[Execution]: ...

    def keep(self, index: int) -> None: ...

    def undo(self, steps: int) -> None: ...

    def put(self, name: str, data: Json) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Retriever(Protocol):
    """Search over a corpus: for each query up to k passages, best first. Safe to call from several threads.

    Raises UsageError for a query that is refused, RetrieverError when there is no answer to be had.
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]: ...

    def fingerprint(self) -> dict[str, Json]:
        """What identifies the corpus and the way it is searched, for run.json."""
        ...


@dataclass(frozen=True, slots=True)
class Recollection:
    """What a knowledge base has to say: the ids of the entries and their text, "" if none fits."""

    entries: tuple[str, ...] = ()
    text: str = ""
    mode: str = ""


@runtime_checkable
class KnowledgeBase(Protocol):
    """Entries that fit a task (METHOD 2). Safe to call from several threads.

    An entry that was made from the question of `task` is never among them. Raises KnowledgeBaseError.
    """

    def recall(self, query: str, task: Task, tools: Sequence[str] = ()) -> Recollection: ...

    def fingerprint(self) -> dict[str, Json]:
        """What identifies the entries and the way they are chosen, for run.json."""
        ...


def to_json(record: Any) -> Json:
    """A frozen record as plain JSON types (tuples become lists, values of code become text)."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, StrEnum):
        return record.value
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if record is None or isinstance(record, (str, bool)):
        return record
    if isinstance(record, int):
        # Python refuses to print or parse ints beyond 4300 digits; readers of the file would too.
        return record if record.bit_length() < 4096 else hex(record)
    if isinstance(record, float):
        return record if record == record and abs(record) != float("inf") else str(record)
    return str(record)
