"""A cgroup for each session, where this process may make one: the limit on the memory of all of it together.

Both hierarchies occur, v2 (one tree) and v1 (a mount for each controller). The group is made below the one
this process is in. As an ordinary user that works where a manager has delegated a subtree.

Guaranteed: no group is left when `remove` returns, if its processes are gone. Not guaranteed: that there is
a group at all; without one the other limits hold, and the session says so in its hello (`cgroup`).
"""

import contextlib
import functools
import os
import time

SHARE = 2  # times memory_mb for a session: its candidates share pages with it, and files in a tmpfs count
OVERHEAD = 256 << 20  # for supervisor, first interpreter, twins' page tables and socket buffers
NAME = "agentdistill"


class Group:
    def __init__(self, folder, version):
        self.folder = folder
        self.version = version

    def enter(self):
        """Move this process in; it must have one thread. v1 can move a thread, which spares the wait of some
        10 ms that the kernel makes everybody take before it moves a process."""
        write(os.path.join(self.folder, "tasks" if self.version == "v1" else "cgroup.procs"), "0")

    def remove(self):
        for _ in range(20):
            try:
                os.rmdir(self.folder)
                return
            except FileNotFoundError:
                return
            except OSError:  # the last process is on its way out
                time.sleep(0.005)


def make(config):
    """A Group with the session's limit, or None where that isn't allowed. Names it in `config["cgroup"]`."""
    version, parent = memory_tree()
    config["cgroup"] = version
    if version is None:
        return None
    folder = os.path.join(parent, f"{NAME}-{os.getpid()}-{os.urandom(6).hex()}")
    limit = str(SHARE * config["memory_mb"] * (1 << 20) + OVERHEAD)
    try:
        os.mkdir(folder, 0o755)
    except OSError:
        config["cgroup"] = None
        return None
    group = Group(folder, version)
    try:
        for name in ("memory.max", "memory.swap.max") if version == "v2" else ("memory.limit_in_bytes",):
            value = "0" if name == "memory.swap.max" else limit
            with contextlib.suppress(FileNotFoundError) if "swap" in name else contextlib.nullcontext():
                write(os.path.join(folder, name), value)
        if version == "v1":  # only where the kernel counts swap
            with contextlib.suppress(OSError):
                write(os.path.join(folder, "memory.memsw.limit_in_bytes"), limit)
    except OSError:
        group.remove()
        config["cgroup"] = None
        return None
    return group


@functools.cache
def memory_tree():
    """(version, folder of the group this process is in), or (None, None) if no group can be made below it."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            rows = [line.rstrip("\n").split(":", 2) for line in lines]
        with open("/proc/self/mountinfo", encoding="utf-8") as lines:
            mounts = [line.split() for line in lines]
    except OSError:
        return None, None
    for version, kind, path in candidates(rows):
        for fields in mounts:
            tail = fields[fields.index("-") + 1 :]
            if tail[0] != kind or (version == "v1" and "memory" not in tail[2].split(",")):
                continue
            root, point = fields[3], fields[4]
            inside = "/" if root == path else path.removeprefix(root if root != "/" else "")
            folder = os.path.normpath(point + "/" + inside)
            if usable(folder, version):
                return version, folder
    return None, None


def candidates(rows):
    for _, controllers, path in rows:
        if "memory" in controllers.split(","):
            yield "v1", "cgroup", path
        elif controllers == "":
            yield "v2", "cgroup2", path


def usable(folder, version):
    """v2 wants the controller switched on for children, which works only where no process is beside them."""
    if not os.access(folder, os.W_OK):
        return False
    if version == "v1":
        return True
    with contextlib.suppress(OSError):
        control = os.path.join(folder, "cgroup.subtree_control")
        if "memory" not in read(control).split():
            write(control, "+memory")
        return "memory" in read(control).split()
    return False


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
