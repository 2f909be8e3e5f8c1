"""The process backend: no isolation at all, asked for by name only.

The same supervisor and interpreters as in a jail, with deadlines, address-space limits, forks and twins,
but with our user's rights, files and network. For code you wrote yourself, and for machines where the wall
is already around everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentdistill.clients.link import Stream
from agentdistill.clients.start import JailStream
from agentdistill.types import Limits


def open_stream(limits: Limits, preload: Sequence[str]) -> Stream:
    return JailStream("process", limits, preload)
