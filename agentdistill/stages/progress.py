"""How a stage tells what it is doing. The command line draws bars; the default is silent."""

from __future__ import annotations

from collections.abc import Callable
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


def fetching(name: str, progress: Progress) -> Callable[[int, int], None]:
    """Tells `progress` of a download: the callback that `catalog.fetch` takes, with bytes done and in all."""
    begun = False

    def report(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"fetch {name} (MB)", total // 1_000_000)
            begun = True
        progress.update(done // 1_000_000)
        if done >= total:
            progress.end()

    return report
