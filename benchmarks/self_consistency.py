"""Self-consistent steps beside what they compete with: `generate` of transformers, and one sample at a time.

    python benchmarks/self_consistency.py [--quick] [--json] [--only PART,...]

Every ratio is of two things measured in turns in this very run, one thread (OMP_NUM_THREADS=1), medians with
the lowest and the highest ratio beside them. Seconds are CPU seconds of this process, which other work on the
machine changes least. The model is SmolLM2-135M in float32, the prompt has 1,500 tokens, every sample 64 new
ones (no stop string; what ends earlier would only flatter us). Not guaranteed: that another machine gives the
same seconds: compare ratios.

What is measured against what:
- generate: a draw of eight with nothing kept, against `generate(num_return_sequences=8)`.
- cold: a draw of eight against a draw of one, with nothing kept.
- kept: a draw of eight against eight draws of one, with the prompt kept.
- step_cold, step_kept: the same for whole steps, in wall seconds: eight samples, their codes in forks of a
  session in a jail, the vote, the winner's fork kept; against one sample and its code run in the session.
  What is sampled is real, but a student of this size writes no code here: every text is replaced by a short
  program, each with another result, so that the vote is open until the last but one.
- trajectory: tokens forward-passed but not sampled in a trajectory of five steps, against its length without
  what was sampled: 1 is what cannot be avoided. Beside it smolagents' TransformersModel, which keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import smolagents
import torch
from smolagents.models import ChatMessage, MessageRole
from smolagents.utils import parse_code_blobs
from transformers import AutoModelForCausalLM

from agentdistill import catalog
from agentdistill.agent.build import CODE_BLOCK_TAGS
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.first_thought import STEP_CALL_MARK
from agentdistill.agent.self_consistency import SelfConsistent
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.models.base import BaseModel
from agentdistill.models.transformers_model import TransformersModel
from agentdistill.training.base import load_model
from agentdistill.training.sft import load_student_tokenizer
from agentdistill.types import Completion, Json, Message, Sampling, Sandbox

PROMPT, NEW, N = 1500, 64, 8
SAMPLING = Sampling(temperature=0.4, top_p=0.8, max_tokens=NEW)  # METHOD 1.2's
WORDS = "Ada has pens and gets more of them from Bob, who counts what is left in the box. "


@dataclass(frozen=True)
class Figure:
    """`ours` and `against` in `unit`; `most` is the ratio not to be exceeded."""

    name: str
    unit: str
    ours: float
    against: float
    most: float | None = None
    spread: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.against

    @property
    def met(self) -> bool | None:
        return None if self.most is None else self.ratio <= self.most


@cache
def student() -> Path:
    """The student as a folder that any transformers model class loads."""
    folder = Path(tempfile.mkdtemp(prefix="self-consistency-"))
    base = catalog.fetch("smollm2-135m")
    load_model(base, torch.float32).save_pretrained(folder)
    load_student_tokenizer(base).save_pretrained(folder)
    return folder


def engine(kept_bytes: int = 1 << 30) -> TransformersModel:
    made = TransformersModel(str(student()), device="cpu", kept_bytes=kept_bytes)
    made._ends = set()  # every sample gets its 64 tokens
    return made


def ask(model: TransformersModel, words: str = WORDS) -> list[Message]:
    """A conversation of 1,500 tokens."""
    count = PROMPT // 8
    while True:
        messages = [Message(role="user", content=words * count)]
        ids = model.tokenizer(model.template.render(messages), add_special_tokens=False)["input_ids"]
        if len(ids) <= PROMPT:
            short = PROMPT - len(ids)
            return [Message(role="user", content=words * count + " so" * short)]
        count -= 1


def in_turns(
    rounds: int, *works: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Seconds of each work in each round: CPU seconds of this process, unless a jail has a part in it."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, seconds, strict=True):
            started = clock()
            work()
            taken.append(clock() - started)
    return seconds


def figure(name: str, ours: list[float], against: list[float], most: float) -> Figure:
    ratios = sorted(a / b for a, b in zip(ours, against, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return Figure(name, "s", statistics.median(ours), statistics.median(against), most, spread)


def generate(rounds: int) -> Iterator[Figure]:
    ours = engine(kept_bytes=0)
    messages = ask(ours)
    stock = AutoModelForCausalLM.from_pretrained(student(), dtype=torch.float32)
    stock.generation_config.eos_token_id = None
    ids = ours.tokenizer(ours.template.render(messages), add_special_tokens=False, return_tensors="pt")
    how = {"do_sample": True, "temperature": SAMPLING.temperature, "top_p": SAMPLING.top_p, "top_k": 0}

    def eight_rows() -> None:
        rows = stock.generate(**ids, max_new_tokens=NEW, num_return_sequences=N, **how)
        assert rows.shape == (N, PROMPT + NEW)

    taken = in_turns(rounds, lambda: ours.sample(messages, N, sampling=SAMPLING), eight_rows)
    yield figure("draw of 8, against generate of transformers", *taken, most=0.35)


def cold(rounds: int) -> Iterator[Figure]:
    ours = engine(kept_bytes=0)
    messages = ask(ours)
    taken = in_turns(
        rounds,
        lambda: ours.sample(messages, N, sampling=SAMPLING),
        lambda: ours.sample(messages, 1, sampling=SAMPLING),
    )
    yield figure("draw of 8, nothing kept, against a draw of 1", *taken, most=2.0)


def kept(rounds: int) -> Iterator[Figure]:
    ours = engine()
    messages = ask(ours)
    ours.sample(messages, 1, sampling=SAMPLING)

    def one_by_one() -> None:
        for index in range(N):
            ours.sample(messages, 1, sampling=replace(SAMPLING, seed=index))

    taken = in_turns(rounds, lambda: ours.sample(messages, N, sampling=SAMPLING), one_by_one)
    yield figure("draw of 8, prompt kept, against 8 draws of 1", *taken, most=0.45)


class Acting(BaseModel):
    """Draws from a model, and says a program instead of what that has sampled."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model.model_id)
        self.model = model

    def fingerprint(self) -> dict[str, Json]:
        return self.model.fingerprint()

    def sample(self, *args: Any, **asked: Any) -> list[Completion]:
        return [acted(0, one) for one in self.model.sample(*args, **(asked | {"stop": ()}))]

    def draw(self, *args: Any, **asked: Any) -> Iterator[tuple[int, Completion]]:
        for index, one in self.model.draw(*args, **(asked | {"stop": ()})):
            yield index, acted(index, one)


def acted(index: int, drawn: Completion) -> Completion:
    return replace(drawn, text=f"Thought: I compute it.\n<code>\nx = {index}\nprint(x * x)\n</code>")


def act(model: BaseModel, sandbox: Sandbox, messages: list[Message], n: int, seed: int = 0) -> None:
    """One step, as CodeAgent takes it: the model's turn, then its code."""
    executor = SandboxExecutor(sandbox)
    acting: BaseModel = Acting(model)
    if n > 1:
        acting = SelfConsistent(acting, executor, n, CODE_BLOCK_TAGS)
    stop = (STEP_CALL_MARK, CODE_BLOCK_TAGS[1])
    [turn] = acting.sample(messages, stop=stop, sampling=replace(SAMPLING, seed=seed))
    executor(parse_code_blobs(turn.text, CODE_BLOCK_TAGS))


def step_cold(rounds: int) -> Iterator[Figure]:
    ours = engine(kept_bytes=0)
    messages = ask(ours)
    with closing(open_sandbox("auto")) as jail:
        taken = in_turns(
            rounds,
            lambda: act(ours, jail, messages, N),
            lambda: act(ours, jail, messages, 1),
            clock=time.perf_counter,
        )
    yield figure("step of 8, nothing kept, against a step of 1", *taken, most=2.0)


def step_kept(rounds: int) -> Iterator[Figure]:
    ours = engine()
    messages = ask(ours)
    ours.sample(messages, 1, sampling=SAMPLING)
    with closing(open_sandbox("auto")) as jail:

        def one_by_one() -> None:
            for index in range(N):
                act(ours, jail, messages, 1, index)

        taken = in_turns(rounds, lambda: act(ours, jail, messages, N), one_by_one, clock=time.perf_counter)
    yield figure("step of 8, prompt kept, against 8 steps of 1", *taken, most=0.45)


class Passed:
    """Counts the tokens of forward passes of more than one token a row: those that were not just sampled."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        if ids.shape[1] > 1:
            self.tokens += ids.numel()


def parts(messages: list[Message]) -> list[ChatMessage]:
    """As smolagents' own models are given them."""
    return [
        ChatMessage(MessageRole(message["role"]), [{"type": "text", "text": message["content"]}])
        for message in messages
    ]


def trajectory(rounds: int) -> Iterator[Figure]:
    """`rounds` steps."""
    ours = engine()
    stock = smolagents.TransformersModel(
        str(student()), max_new_tokens=NEW, device_map="cpu", torch_dtype="float32"
    )
    stock.model.generation_config.eos_token_id = None
    for name, model, sample, most in (
        (
            "eight candidates a step",
            ours._model,
            lambda asked: ours.sample(asked, N, sampling=SAMPLING),
            1.05,
        ),
        ("smolagents' TransformersModel", stock.model, lambda asked: [stock.generate(parts(asked))], None),
    ):
        passed = Passed(model)
        messages = ask(ours)
        for step in range(rounds):
            drawn = sample(messages)
            text = getattr(drawn[step % len(drawn)], "text", None) or drawn[0].content
            asked = messages
            messages = [
                *messages,
                Message(role="assistant", content=text),
                Message(role="user", content=f"Observation:\n{WORDS * 4}{step}"),
            ]
        ids = ours.tokenizer(ours.template.render(asked), add_special_tokens=False)["input_ids"]
        written = NEW * (rounds - 1)
        yield Figure(f"tokens passed in {rounds} steps: {name}", "", passed.tokens, len(ids) - written, most)


# ---------------------------------------------------------------------- the table


PARTS: dict[str, tuple[Callable[[int], Iterator[Figure]], int, int]] = {
    "generate": (generate, 2, 1),
    "cold": (cold, 3, 1),
    "kept": (kept, 3, 1),
    "step_cold": (step_cold, 3, 1),
    "step_kept": (step_kept, 3, 1),
    "trajectory": (trajectory, 5, 2),
}  # name -> (what measures it, rounds, rounds with --quick)


def line(figure: Figure) -> str:
    met = {True: "yes", False: "NO", None: ""}[figure.met]
    most = "" if figure.most is None else f"<= {figure.most:g}"
    values = f"{figure.ours:>9.4g} {figure.against:>9.4g} {figure.ratio:>7.3f}"
    return f"{figure.name:<58} {values}  {most:<8} {met:<4}{figure.spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of self-consistent steps.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure to report")
    parser.add_argument("--json", action="store_true", help="machine-readable rows on stdout")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between")
    asked = parser.parse_args()
    rows: list[Figure] = []
    if not asked.json:
        print(f"{'figure':<58} {'ours':>9} {'against':>9} {'ratio':>7}  target        lowest to highest")
    for name in asked.only.split(","):
        measure, rounds, few = PARTS[name]
        for found in measure(few if asked.quick else rounds):
            rows.append(found)
            if not asked.json:
                print(line(found), flush=True)
    if asked.json:
        print(json.dumps([{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows], indent=1))


if __name__ == "__main__":
    main()
