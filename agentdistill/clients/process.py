"""The process backend: no isolation at all, asked for by name only.

The same supervisor and interpreters as in a jail, with deadlines, address-space limits, forks and twins,
but with our user's rights, files and network. For code you wrote yourself, and for machines where the wall
is already around everything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence

from agentdistill.clients.session import Session
from agentdistill.clients.start import start
from agentdistill.types import Limits, SandboxTool


def open_process(tools: Sequence[SandboxTool], limits: Limits) -> Session:
    folder = tempfile.mkdtemp(prefix="agentdistill-")
    return start(
        "process",
        tools,
        limits,
        ["--folder", folder],
        cleanup=lambda: shutil.rmtree(folder, ignore_errors=True),
    )
