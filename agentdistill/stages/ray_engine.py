"""Attempts made on the nodes of a Ray cluster: one actor a node, or a GPU, with a `Local` engine inside.

The driver hands out attempts and alone stores what comes back, so that keys, resume, budgets and the live
view are those of one machine. An actor opens model and settings by itself, by the same function and
configuration as one machine would; files that they name must lie under the same path on every node.

Guaranteed: an attempt is given to the node with the fewest in flight for what it can take; a node's loss
costs the attempts that it was making, which raise NodeLostError and are tried again elsewhere; nodes that
join are used within RESCAN seconds; a node that would make other attempts than the first (another file behind
the same model, another version of this program) is left out, and that is said. What an actor sends back is
text, read as JSON. Not guaranteed: that work goes on when Ray's head node is lost, or that what a lost
attempt had spent is counted.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from agentdistill import __version__, errors
from agentdistill.clients.cluster import NodeFacts, alive, connected, ray
from agentdistill.errors import AgentDistillError, ClusterError, ModelBusyError, NodeLostError
from agentdistill.models.base import BaseModel
from agentdistill.stages.engine import Local, Settings
from agentdistill.stages.pool import Job
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import Meter
from agentdistill.types import FirstThought, Json, Task, Trajectory, to_json

Opener = Callable[[], tuple[BaseModel, Settings]]
"""Opens model and settings where it is called; pickled to every node."""

MOST_IN_FLIGHT = 1024
"""Attempts in flight over all nodes: a thread of the driver waits for each."""
RESCAN = 5.0
"""How often, in seconds, the driver looks for nodes that have joined."""
START_SECONDS = 900.0
"""How long a node may take until its model is open: a download and a large model."""
CLOSE_SECONDS = 10.0
RESTARTS = 3
"""Actors that may die on one node before it is left out."""


class _Actor:
    """What runs on a node. Everything it returns is JSON text."""

    def open(self, opener: Opener, concurrency: int) -> str:
        """Open model, settings and jails; what shapes the attempts made here."""
        try:
            self._model, settings = opener()
            self._local = Local(self._model, settings, concurrency=concurrency).__enter__()
        except AgentDistillError as error:
            return json.dumps({"error": _told(error)})
        local = self._local
        facts = {"model_id": local.model_id, "shape": to_json(local.shape), "told": local.told}
        return json.dumps({"version": __version__, **facts})

    def attempt(self, task: str, sample: int, key: str, thought: str | None) -> str:
        meter = Meter()
        reply: dict[str, Any] = {}
        known = FirstThought.from_json(json.loads(thought)) if thought else None
        try:
            job = Job(Task.from_json(json.loads(task)), sample, key)
            reply["trajectory"] = to_json(self._local.attempt(job, meter, known))
        except AgentDistillError as error:
            reply["error"] = _told(error)
        usage = meter.usage()
        reply |= {"tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out, "uncounted": meter.uncounted}
        return json.dumps({**reply, "limit": self._local.in_flight_limit()})

    def close(self) -> None:
        self._local.__exit__(None, None, None)
        self._model.close()


@dataclass(eq=False)
class _Worker:
    """An actor as the driver sees it. `limit` is what it can take now."""

    node: NodeFacts
    actor: Any
    limit: int
    in_flight: int = 0


class Cluster:
    """An Engine over all nodes of a Ray cluster. Use as a context manager.

    `concurrency` is what each actor takes at a time. With `gpus` an actor takes one GPU and a node has as
    many as it has GPUs (one without any): for models in process. `drawn` as of `Local`. Entering waits for
    the first node; it raises ClusterError, or what opening model and settings there has met.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        address: str | None = None,
        concurrency: int = 4,
        gpus: bool = False,
        drawn: Mapping[str, FirstThought] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._opener = opener
        self._address = address
        self._concurrency = concurrency
        self._gpus = gpus
        self._progress = progress or Silent()
        self._changed = threading.Condition()
        self._ready: list[_Worker] = []
        self._joining: list[_Worker] = []
        self._lost: Counter[str] = Counter()
        self._out: dict[str, AgentDistillError] = {}
        self._to_say: deque[str] = deque()
        self._facts: dict[str, Any] = {}
        self._scanned = 0.0
        self._thoughts = {task: to_json(thought) for task, thought in (drawn or {}).items()}
        self._drawing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._opened = ExitStack()

    @property
    def model_id(self) -> str:
        return str(self._facts["model_id"])

    @property
    def shape(self) -> Mapping[str, Json]:
        shape: dict[str, Json] = self._facts["shape"]
        return shape

    @property
    def told(self) -> Mapping[str, Json]:
        return {**self._facts["told"], "engine": "ray", "concurrency": self._concurrency}

    @property
    def most_in_flight(self) -> int:
        return MOST_IN_FLIGHT

    def __enter__(self) -> Cluster:
        with ExitStack() as opened:
            opened.enter_context(connected(self._address))
            opened.callback(self._close)
            self._scan()
            with self._changed:
                while not self._ready:
                    if not self._joining:
                        raise self._nobody()
                    self._changed.wait()
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def attempt(self, job: Job, meter: Meter) -> Trajectory:
        """As `Engine.attempt`. Raises NodeLostError, and ClusterError when no node is left."""
        if self.shape.get("first_thought", "off") == "off":
            return self._made(job, meter, None)
        with self._changed:
            drawing = self._drawing[job.task.id]
        with drawing:  # a second sample waits for the first thought that the first one draws
            thought = self._thoughts.get(job.task.id)
            if thought is None:
                made = self._made(job, meter, None)
                self._thoughts[job.task.id] = to_json(replace(made.first_thought, prefill=""))
                return made
        return self._made(job, meter, thought)

    def in_flight_limit(self) -> int:
        while self._to_say:  # progress is told from one thread: the one that asks this
            self._progress.message(self._to_say.popleft())
        if time.monotonic() - self._scanned > RESCAN:
            self._scan()
        with self._changed:
            return max(1, sum(worker.limit for worker in self._ready))

    def _made(self, job: Job, meter: Meter, thought: Json | None) -> Trajectory:
        module = ray()
        worker = self._taken()
        try:
            reference = worker.actor.attempt.remote(
                json.dumps(to_json(job.task)), job.sample, job.key, json.dumps(thought) if thought else None
            )
            reply = json.loads(module.get(reference))
        except module.exceptions.RayTaskError:
            raise  # an error of ours: its traceback is in it
        except module.exceptions.RayError as error:
            self._drop(worker)
            raise NodeLostError(
                f"node {worker.node.host} was lost: {_line(error)}", "`ray status` says what is left"
            ) from None
        finally:
            with self._changed:
                worker.in_flight -= 1
                self._changed.notify_all()
        worker.limit = min(self._concurrency, reply["limit"] or self._concurrency)
        meter.charge(reply["tokens_in"], reply["tokens_out"], uncounted=reply["uncounted"])
        if "error" in reply:
            raise _raised(reply["error"])
        return replace(Trajectory.from_json(reply["trajectory"]), usage=meter.usage())

    def _taken(self) -> _Worker:
        """The worker with most room, one attempt more in flight. Waits while nodes are only joining."""
        with self._changed:
            while not self._ready:
                if not self._joining:
                    raise self._nobody()
                self._changed.wait()
            worker = min(self._ready, key=lambda worker: worker.in_flight / worker.limit)
            worker.in_flight += 1
            return worker

    def _drop(self, worker: _Worker) -> None:
        with self._changed:
            if worker in self._ready:
                self._ready.remove(worker)
                self._lost[worker.node.id] += 1
                self._scanned = 0.0  # a node that has lost its actor, and no more, gets another at once
            self._changed.notify_all()
        ray().kill(worker.actor)

    def _scan(self) -> None:
        """Begin an actor where there is none and should be one."""
        self._scanned = time.monotonic()
        for node in alive():
            if node.id in self._out or self._lost[node.id] > RESTARTS:
                continue
            with self._changed:
                here = sum(worker.node.id == node.id for worker in (*self._ready, *self._joining))
            own_gpu = self._gpus and node.gpus > 0
            for _ in range((node.gpus if own_gpu else 1) - here):
                worker = _Worker(node, self._actor(node, own_gpu), self._concurrency)
                with self._changed:
                    self._joining.append(worker)
                threading.Thread(target=self._join, args=(worker,), daemon=True).start()

    def _actor(self, node: NodeFacts, own_gpu: bool) -> Any:
        module = ray()
        strategy = module.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
        return (
            module.remote(_Actor)
            .options(
                num_cpus=1,
                num_gpus=1 if own_gpu else 0,
                max_concurrency=self._concurrency + 1,  # and close()
                scheduling_strategy=strategy,
            )
            .remote()
        )

    def _join(self, worker: _Worker) -> None:
        """Wait until an actor is ready; a thread of its own, since models load for minutes."""
        module = ray()
        failure: AgentDistillError | None = None
        try:
            opening = worker.actor.open.remote(self._opener, self._concurrency)
            facts = json.loads(module.get(opening, timeout=START_SECONDS))
            failure = _raised(facts["error"]) if "error" in facts else None
        except module.exceptions.GetTimeoutError:
            failure = ClusterError(
                f"not ready after {START_SECONDS:.0f} s", "are its CPUs or GPUs all taken?"
            )
        except Exception as error:  # a thread's: told below, or raised by who waits
            failure = ClusterError(_line(error), "is agentdistill installed there, in the same version?")
        with self._changed:
            if failure is None:
                self._facts = self._facts or facts
                failure = _difference(self._facts, facts)
            self._joining.remove(worker)
            if failure is None:
                self._ready.append(worker)
            else:
                self._out[worker.node.id] = failure
            self._changed.notify_all()
        if failure is not None:
            module.kill(worker.actor)
            self._to_say.append(f"node {worker.node.host} is left out: {failure}")

    def _nobody(self) -> AgentDistillError:
        """Why there is no node to work on."""
        if self._out:
            return list(self._out.values())[-1]
        again = "the same command goes on once there is one"
        return ClusterError("the cluster has no node left that can make attempts", again)

    def _close(self) -> None:
        module = ray()
        with self._changed:
            workers, self._ready = self._ready, []
        closing = [worker.actor.close.remote() for worker in workers]
        module.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS) if closing else None
        for worker in (*workers, *self._joining):
            module.kill(worker.actor)


def _told(error: AgentDistillError) -> dict[str, Json]:
    """An error as JSON; one of a module's own is told as the class of `errors` that it belongs to."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    told: dict[str, Json] = {"type": kind, "message": error.message, "remedy": error.remedy}
    return told | ({"retry_after": error.retry_after} if isinstance(error, ModelBusyError) else {})


def _raised(told: Mapping[str, Any]) -> AgentDistillError:
    """The error that an actor has told of."""
    kind = getattr(errors, told["type"], None)
    if not isinstance(kind, type) or not issubclass(kind, AgentDistillError):
        return ClusterError(f"a node met {told['type']}: {told['message']}", told["remedy"])
    if kind is ModelBusyError:
        return ModelBusyError(told["message"], told["remedy"], told["retry_after"])
    return kind(told["message"], told["remedy"])


def _difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> ClusterError | None:
    """An error where attempts of one node would not be those of the first one."""
    if first["version"] != other["version"]:
        return ClusterError(f"it has agentdistill {other['version']}, the others {first['version']}")
    for name in sorted({*first["shape"], *other["shape"]}):
        ours, theirs = first["shape"].get(name), other["shape"].get(name)
        if ours != theirs:
            return ClusterError(f"its attempts would differ: {name} is {theirs!r}, elsewhere {ours!r}")
    return None


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
