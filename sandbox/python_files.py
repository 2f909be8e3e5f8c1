"""Where this interpreter lives on the host: what a jail must show of it for Python to run inside.

The interpreter that runs this file is the one that runs in the jail, with its standard library, the shared
libraries of the system and the few packages of PACKAGES; the rest of site-packages isn't shown.
"""

import contextlib
import functools
import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = ("numpy", "numpy.libs", "sympy", "mpmath")
PROGRAMS = (
    "wire.py", "confine.py", "folders.py", "processes.py", "police.py",
    "channel.py", "worker.py", "first.py", "relay.py", "supervisor.py",
)  # fmt: skip
FLAGS = ("-s", "-S", "-P", "-B")  # -I would ignore PYTHONHASHSEED; the environment is ours anyway


def program():
    return os.path.realpath(sys.executable)


def supervisor(config, python=None, folder=HERE):
    """The command line of a supervisor."""
    return [python or program(), *FLAGS, os.path.join(folder, "supervisor.py"), json.dumps(config)]


@functools.cache
def shared_libraries():
    """(system library folders, single files) that this very interpreter has mapped."""
    folders, files = set(), set()
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            path = line.rstrip("\n").partition("/")[2]
            name = os.path.basename(path)
            if ".so" not in name or "/lib-dynload/" in path:
                continue
            path = os.path.realpath("/" + path)
            where = os.path.dirname(path)
            if where.startswith(("/usr/lib", "/lib")) and "python" not in where:
                folders.add(where)
            else:
                files.add(path)
    return sorted(folders), sorted(files)


@functools.cache
def program_loader():
    """The ELF interpreter as the executable names it; it must be found at just that path."""
    with open(program(), "rb") as file:
        head = file.read(1 << 16)
    if head[:5] != b"\x7fELF\x02":
        return None
    start, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    for index in range(count):
        entry = head[start + index * size : start + (index + 1) * size]
        if int.from_bytes(entry[:4], "little") == 3:  # PT_INTERP
            offset, length = (int.from_bytes(entry[a : a + 8], "little") for a in (8, 32))
            return head[offset : offset + length].rstrip(b"\0").decode()
    return None


@functools.cache
def package_folders():
    """name -> path of the packages that are installed; they aren't imported here."""
    found = {}
    for name in PACKAGES:
        if "." in name:
            path = os.path.join(os.path.dirname(found.get(name.split(".")[0], "")), name)
            if os.path.isdir(path):
                found[name] = path
            continue
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations:
                found[name] = os.path.realpath(next(iter(spec.submodule_search_locations)))
    return found


def package_parents():
    """The folders that packages are imported from where nothing hides the rest of them."""
    return sorted({os.path.dirname(path) for path in package_folders().values()})
