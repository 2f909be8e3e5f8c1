"""Where attempts are made. `Local` makes them in threads of this process; `stages/ray_engine.py` has a Local
on every node of a cluster.

Guaranteed by every engine: the same job gives the same attempt, whatever engine, thread or node makes it, as
far as the model answers the same. Nothing is stored here (that is for `generate`), so a RUN may be begun by
one engine and finished by another.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol

from agentdistill.clients.sandbox import SandboxPool, resolve
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.baseline import ChainOfThought, answer_by_thinking
from agentdistill.stages.pool import Job
from agentdistill.stages.spending import Meter
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import FirstThought, Json, Trajectory

MAX_WARM = 4  # jails waiting; a model takes longer for a step than a jail for its start

Settings = AttemptSettings | ChainOfThought
"""An agent's attempts, or plain chains of thought."""


class Engine(Protocol):
    """Makes attempts, from several threads.

    `shape` is all that shapes them, the model included; `told` is what run.json is told beside it, and
    `most_in_flight` how many attempts it takes at a time, if `in_flight_limit` doesn't say fewer.
    """

    @property
    def model_id(self) -> str: ...

    @property
    def shape(self) -> Mapping[str, Json]: ...

    @property
    def told(self) -> Mapping[str, Json]: ...

    @property
    def most_in_flight(self) -> int: ...

    def attempt(self, job: Job, meter: Meter) -> Trajectory:
        """Make one. Raises InfrastructureError when it has failed; what it has cost is on the meter."""
        ...

    def in_flight_limit(self) -> int | None:
        """How many attempts are of use at the moment, None if that is not known."""
        ...


class Local:
    """Attempts by `model` in this process. Use as a context manager: it keeps jails warm.

    `drawn` are first thoughts by task id that need not be drawn again. Entering raises SandboxError when no
    jail can be made; UsageError for a wrong SPEC or first-thought rule.
    """

    def __init__(
        self,
        model: BaseModel,
        settings: Settings,
        *,
        concurrency: int = 4,
        drawn: Mapping[str, FirstThought] | None = None,
    ) -> None:
        self.model_id = model.model_id
        self.most_in_flight = concurrency
        self.shape: dict[str, Json] = {"model": model.fingerprint(), **settings.shape()}
        self.told: dict[str, Json] = {}
        self._model = model
        self._settings = settings
        self._drawn = drawn or {}
        self._opened = ExitStack()

    def __enter__(self) -> Local:
        settings = self._settings
        if isinstance(settings, ChainOfThought):
            return self
        sandbox = resolve(settings.sandbox)  # no jail, no run: said before the first task
        self.told["sandbox"] = sandbox
        with ExitStack() as opened:
            grader = opened.enter_context(Grader())
            self._thoughts = FirstThoughts(settings, grader, self._drawn)
            size = min(self.most_in_flight, MAX_WARM)
            self._jails = opened.enter_context(SandboxPool(sandbox, limits=settings.limits, size=size))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def attempt(self, job: Job, meter: Meter, thought: FirstThought | None = None) -> Trajectory:
        """As `Engine.attempt`; a first thought that is given is not drawn."""
        settings, model = self._settings, self._model
        if isinstance(settings, ChainOfThought):
            return answer_by_thinking(job.task, job.sample, job.key, model, settings, meter)
        if thought is not None:
            self._thoughts.learn(job.task, thought)
        return run_attempt(
            job.task, job.sample, job.key, model, settings, self._thoughts, self._jails.open, meter
        )

    def in_flight_limit(self) -> int | None:
        return self._model.in_flight_limit
