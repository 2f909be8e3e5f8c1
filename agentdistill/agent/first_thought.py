"""First-thought prefix (Agent Distillation, arXiv 2505.17612; METHOD 1.1).

The teacher answers the question once as a plain chain of thought; the first thought cut from it opens the
first step of the agent. Guaranteed: only the first step call is prefilled, planning and forced-final calls
never; a first thought never states the chain's final answer or the gold, as a value or in words, and is never
edited inside a sentence. Not guaranteed: that the thought is right.

Rules: `paragraph` is the paper's (text up to the first blank line); `content` skips empty openers ("To
determine ..., we need to follow these steps:"), headings and bare formulas, and takes the sentences that say
something. Both stop at the rule's number of words in MAX_WORDS.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence

from agentdistill.grading.extract import final_answer
from agentdistill.grading.stated import forms, states
from agentdistill.models.base import BaseModel
from agentdistill.types import Completion, Json, Message, Sampling, Task, ThoughtStatus

MAX_WORDS = {"paragraph": 120, "content": 45}
"""A first thought's cap by rule. Ours: about 60 tokens, two to three sentences, for `content`; for the
paper's, which has none, what keeps a chain of thought without a blank line from becoming the whole answer."""
MIN_WORDS = 4
COT_TOKENS = 512
"""New tokens of a chain of thought at most. Ours: one that is cut off has no answer to be judged by."""
STEP_CALL_MARK = "Observation:"
"""CodeAgent's step calls, and no others, have this among their stop sequences."""

_OPENER = re.compile(
    r"^((in order )?to\b.*\b(steps?|follow|break)\b"
    r"|let'?s\b.*\b(step|solve|break|start|begin|think)\b|here (is|are)\b|sure\b|certainly\b|first,? let'?s\b"
    r"|we (can|need to|will|should) (solve|follow|break)\b|step \d+\s*$)",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^\s*(?:#{1,6}\s+|[-*•]\s+|\(?\d{1,2}[.)]\s+|step\s+\d+\s*[:.)-]\s*)+", re.IGNORECASE)


class FirstThoughtModel(BaseModel):
    """Wraps an ActionModel for one attempt: the first step call goes on from `Thought: <text>`."""

    def __init__(self, model: BaseModel, text: str) -> None:
        super().__init__(model.model_id, model.sampling)
        self.model = model
        self.prefix = f"Thought: {text}\n"
        self.prefill = ""
        self._used = False

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
        if self._used or STEP_CALL_MARK not in stop:
            return self.model.sample(messages, n, prefix=prefix, stop=stop, sampling=sampling)
        drawn = self.model.sample(messages, n, prefix=self.prefix, stop=stop, sampling=sampling)
        return [self._opened(completion) for completion in drawn]

    def draw(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        first = not self._used and STEP_CALL_MARK in stop
        for index, completion in self.model.draw(
            messages,
            n,
            prefix=self.prefix if first else prefix,
            stop=stop,
            sampling=sampling,
            cancelled=cancelled,
        ):
            yield index, self._opened(completion) if first else completion

    def _opened(self, completion: Completion) -> Completion:
        """The completion with the prefix it went on from, and a note that the first step is made."""
        self._used = True
        self.prefill = completion.prefill
        return completion if completion.prefill == "ignored" else _joined(self.prefix, completion)


def _joined(prefix: str, completion: Completion) -> Completion:
    return Completion(
        text=prefix + completion.text,
        finish_reason=completion.finish_reason,
        tokens_in=completion.tokens_in,
        tokens_out=completion.tokens_out,
        logprobs=completion.logprobs,
        prefill=completion.prefill,
    )


def cut(cot: str, task: Task, rule: str) -> tuple[ThoughtStatus, str]:
    """The first thought of a chain of thought by a rule, and what became of it."""
    answers = [*forms(task.answer, task)]
    final = final_answer(cot)
    # "The answer is the city with the highest altitude" repeats the question and gives nothing away.
    if final and not (len(final.split()) > 3 and states(task.question, final)):
        answers += forms(final, task)
    kept: list[str] = []
    words = 0
    leaked = False
    for sentence in _sentences(cot.strip().split("\n\n", 1)[0] if rule == "paragraph" else cot):
        if any(states(sentence, answer) for answer in answers):
            leaked = True
            break
        if rule == "content" and not _says_something(sentence):
            continue
        words += len(sentence.split())
        if words > MAX_WORDS[rule]:
            break
        kept.append(sentence)
    text = " ".join(kept)
    if len(text.split()) < MIN_WORDS:
        return (ThoughtStatus.LEAKED if leaked else ThoughtStatus.EMPTY), ""
    return ThoughtStatus.USED, text


def _says_something(sentence: str) -> bool:
    """False for openers, headings and bare formulas: a formula is for the code to compute, and a first
    thought that ends in one tempts the model to go on in prose."""
    if sentence.endswith(":") or _OPENER.match(sentence):
        return False
    return len(re.findall(r"[A-Za-z]{2,}", sentence)) >= MIN_WORDS


def _sentences(text: str) -> Iterator[str]:
    """Sentences and list items, without list marks. A full stop inside a number ends nothing."""
    for line in text.splitlines():
        line = _MARKER.sub("", line.replace("**", "")).strip()
        for sentence in re.split(r"(?<=[.!?])\s+(?=[^a-z])", line):
            if sentence.strip():
                yield sentence.strip()


def draw(model: BaseModel, prompt: str, question: str, seed: int) -> Completion:
    """The chain of thought the first thought is cut from (T = 0, as in the paper)."""
    messages = [Message(role="system", content=prompt), Message(role="user", content=question)]
    cot_sampling = Sampling(temperature=0.0, max_tokens=COT_TOKENS, seed=seed)
    return model.sample(messages, sampling=cot_sampling)[0]
