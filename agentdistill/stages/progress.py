"""How a stage tells what it is doing. The command line draws bars; the default is silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by one stage at a time, from one thread. `note` is a few words shown beside the bar."""

    def begin(self, stage: str, total: float) -> None: ...

    def update(self, done: float, note: str = "") -> None: ...

    def end(self) -> None: ...

    def message(self, text: str) -> None:
        """One line the person should see: a warning, a failure, a finding."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, stage: str, total: float) -> None: ...

    def update(self, done: float, note: str = "") -> None: ...

    def end(self) -> None: ...

    def message(self, text: str) -> None: ...
