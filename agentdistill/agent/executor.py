"""A smolagents PythonExecutor over a Sandbox.

Guaranteed: code runs only behind the sandbox's wall; tools run on our side and are called back over the
session's channel; a failed step shows that step's prints and no older ones; a lost sandbox is remembered in
`failure`, because CodeAgent turns whatever an executor raises into an observation; code whose candidate was
elected beforehand is not run again, its fork becomes the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smolagents.local_python_executor import CodeOutput, PythonExecutor

from agentdistill.types import Enough, Execution, Sandbox


class CodeFailed(Exception):
    """The code raised, was killed or died: data for the model, carried as CodeAgent expects it."""


class SandboxExecutor(PythonExecutor):
    """One session of one attempt. `executions` keeps what every step's code did, in order."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.executions: list[Execution] = []
        self.failure: Exception | None = None
        # CodeAgent looks here for the prints of a step that failed.
        self.state: dict[str, Any] = {}
        self._tried: list[tuple[str, Execution]] = []
        self._elected: int | None = None

    def send_tools(self, tools: Mapping[str, Any]) -> None:
        """Tools were given to the sandbox when it opened; nothing is sent."""

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        for name, data in variables.items():
            self._guarded(lambda name=name, data=data: self.sandbox.put(name, data))

    def try_out(self, codes: Iterator[str | None], enough: Enough) -> list[Execution]:
        """Run candidates for the next step, each in a fork of the session. See types.Sandbox."""
        self._elected = None
        taken: list[str] = []

        def noted() -> Iterator[str | None]:
            for code in codes:
                if code is not None:
                    taken.append(code)
                yield code

        results = self.sandbox.run(noted(), enough)
        self._tried = list(zip(taken, results, strict=True))
        return results

    def elect(self, candidate: int) -> None:
        """Say which code of the last `try_out` the next step will be."""
        self._elected = candidate

    def __call__(self, code_action: str) -> CodeOutput:
        execution = self._guarded(lambda: self._execution(code_action))
        self.executions.append(execution)
        self.state.pop("_print_outputs", None)
        if execution.error is not None:
            if execution.logs:
                self.state["_print_outputs"] = execution.logs
            raise CodeFailed(execution.error)
        # For a final answer that is no text CodeAgent imports torch, seconds and 200 MB, to look for sound.
        output = str(execution.value) if execution.is_final else execution.value
        return CodeOutput(output=output, logs=execution.logs, is_final_answer=execution.is_final)

    def _execution(self, code: str) -> Execution:
        """What the elected candidate did, if this is its code; any other code runs, and drops all forks."""
        elected, self._elected = self._elected, None
        if elected is not None:
            tried, execution = self._tried[elected]
            if tried == code:
                self.sandbox.keep(elected)
                return execution
        [execution] = self.sandbox.run([code])
        return execution

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            self.failure = self.failure or error
            raise
