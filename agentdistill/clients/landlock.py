"""The landlock backend: no namespace, no engine, no privilege. See sandbox/README.md, "landlock".

For notebooks, rented machines and CI containers, where bubblewrap and Docker are shut: the kernel's Landlock
for files, a seccomp filter for the rest, resource limits and polled ones. Weaker than bubblewrap: what the
README lists as open is more.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

from agentdistill.clients.link import Stream
from agentdistill.clients.start import JailStream
from agentdistill.errors import SandboxError
from agentdistill.types import Limits

_CREATE_RULESET = 444  # the call's number, on every architecture
_SINCE = {2: "moving files between folders", 4: "network rules", 5: "device rules", 6: "signal rules"}


def open_stream(limits: Limits, preload: Sequence[str]) -> Stream:
    if abi() == 0:
        raise SandboxError("this kernel has no Landlock", remedy())
    return JailStream("landlock", limits, preload)


def abi() -> int:
    """The version of Landlock this kernel offers; 0 if none."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version: int = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(0, version)


def found() -> str:
    """What there is of Landlock, for `doctor`."""
    version = abi()
    missing = [what for since, what in _SINCE.items() if since > version]
    if not missing or not version:
        return f"Landlock ABI {version}"
    text = f"Landlock ABI {version}, without {', '.join(missing)}: the seccomp filter denies that instead"
    if version < 6 and os.geteuid() != 0:
        text += ", and os.kill with it"
    return text


def remedy() -> str:
    """What to do when it does not work here."""
    if not sys.platform.startswith("linux"):
        return "Landlock is Linux's; in a Linux container or virtual machine it works"
    if abi() == 0:
        return (
            "Linux 5.13 or later with landlock in the boot parameter lsm=... is needed, and in a container "
            "a seccomp profile that lets landlock_create_ruleset pass"
        )
    return "as root it needs CAP_CHOWN, CAP_KILL, CAP_SETGID and CAP_SETUID; or run as an ordinary user"
