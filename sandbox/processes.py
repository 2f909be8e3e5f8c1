"""What lives in a jail, read from a /proc that has no path there: who descends from whom, and memory.

Guaranteed: zombies aren't listed. Not guaranteed: a snapshot; processes come and go while it is read, which
is why killing is done in rounds until nothing is left.
"""

import contextlib
import os
import signal

PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    def __init__(self, folder):
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.lists = os.path.exists(f"{folder}/thread-self/children")
        self.oom = None
        with contextlib.suppress(OSError):  # opened now: later our own /proc is shut even for us
            self.oom = os.open(f"{os.getpid()}/oom_score_adj", os.O_WRONLY, dir_fd=self.folder)

    def preferred_victim(self, wanted):
        """Whether the kernel should kill this process, and what it forks, first when memory runs out."""
        if self.oom is not None:
            with contextlib.suppress(OSError):
                os.write(self.oom, b"1000" if wanted else b"0")

    def read(self, path):
        """The start of a file below /proc; nothing if the process is gone."""
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=self.folder)
        except OSError:
            return b""
        try:
            return os.read(fd, 1024)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def count(self):
        """How many processes this /proc shows, zombies among them."""
        return sum(name.isdigit() for name in os.listdir(self.folder))

    def children(self):
        """pid -> those of its children that live, for all there are: one look at everything."""
        children = {}
        for name in os.listdir(self.folder):
            if name.isdigit():
                fields = self.read(f"{name}/stat").rpartition(b")")[2].split()[:18]
                if alive(fields):
                    children.setdefault(int(fields[1]), []).append(int(name))
        return children

    def descendants(self, root, spare=(), children=None):
        """Pids of everything below a process, but not those to spare (what is below them still counts)."""
        children = self.children() if children is None else children
        found, todo = [], [root]
        while todo:
            for pid in children.get(todo.pop(), ()):
                if pid not in spare:
                    found.append(pid)
                todo.append(pid)
        return found

    def below(self, root):
        """As descendants, by the kernel's lists of children: as many reads as there are processes below, not
        as many as the host has. Where it keeps no lists, all are looked at.

        Not guaranteed: a child that ends while the list is read can hide the next one.
        """
        if not self.lists:
            return self.descendants(root)
        found, todo = [], [root]
        while todo:
            for pid in self.listed(todo.pop()):
                todo.append(pid)
                if alive(self.read(f"{pid}/stat").rpartition(b")")[2].split()[:18]):
                    found.append(pid)
        return found

    def listed(self, pid):
        """The children of all threads of a process; nothing if it is gone."""
        found = []
        with contextlib.suppress(OSError):
            folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.folder)
            try:
                for task in os.listdir(folder):
                    with open(os.open(f"{task}/children", os.O_RDONLY, dir_fd=folder), "rb") as children:
                        found += map(int, children.read().split())
            finally:
                os.close(folder)
        return found

    def resident(self, pid):
        """Bytes in memory, pages shared with a fork counted in both."""
        fields = self.read(f"{pid}/statm").split()
        return int(fields[1]) * PAGE if len(fields) > 1 else 0

    def groups(self, session):
        """The process groups of a session that have a living process."""
        found = set()
        for name in os.listdir(self.folder):
            if name.isdigit():
                fields = self.read(f"{name}/stat").rpartition(b")")[2].split()[:18]
                if alive(fields) and int(fields[3]) == session:
                    found.add(int(fields[2]))
        return found

    def open_files(self, pid):
        """The status of each file a process has open; nothing if it is gone."""
        try:
            folder = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.folder)
        except OSError:
            return
        try:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):  # closed by now
                    yield os.stat(name, dir_fd=folder)
        except OSError:
            return
        finally:
            os.close(folder)


def alive(fields):
    """Whether a line of /proc/PID/stat, from the state on, is of a process that still does something. One
    whose first thread has ended is shown as a zombie while its other threads run."""
    return bool(fields) and (fields[0] not in b"ZX" or int(fields[17]) > 1)


def exists(pid):
    """Zombies do."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wake(pid):
    """Let a stopped process go on."""
    if pid is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGCONT)


def kill(pids):
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
