"""What a supervisor in the landlock jail sees to itself, because no namespace and no tmpfs does it.

Processes: every interpreter gets a process group of its own, and the filter lets nobody leave or make one, so
one signal to the group ends an interpreter with all that descends from it, however fast it forks. Disk: the
session's folders, and deleted files that are still open, are added up while a step runs, and at any time
when the disk has lost a good part of a session's share, whoever took it.

Not guaranteed: anything between two looks, and deleted files that are only mapped (the address-space limit
holds those).
"""

import contextlib
import os
import signal
import stat
import time

import folders
import landlock_rules

GROUP_SECONDS = 1.0  # until a fork has become our child


def hidden(problem):
    """A folder that is gone again is nothing to count."""
    if not isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        raise problem


class Host:
    PAUSE = 1.0  # seconds between looks at the disk when no step runs
    SHORT_PAUSE = 0.05  # and while one does

    def __init__(self, config, processes):
        self.root = config["folder"]
        self.processes = processes
        self.most = folders.COPIES * config["folder_mb"] << 20
        self.most_processes = config["processes"] + landlock_rules.OWN_PROCESSES
        self.free = self.room()

    def adopt(self, pid):
        """Put a new interpreter into a group of its own; False if it fails: a turned parent can do that.

        It is forked by a child of its parent, and ours only when that child has ended.
        """
        until = time.monotonic() + GROUP_SECONDS
        while time.monotonic() < until:
            try:
                os.setpgid(pid, pid)
                return True
            except ProcessLookupError:
                time.sleep(0.0005)
            except PermissionError:
                return False
        return False

    def kill(self, pid):
        """End an interpreter and everything in its group at once."""
        for end in (os.killpg, os.kill):  # the second for one that has not been put into its group
            with contextlib.suppress(OSError):  # nothing is left of it
                end(pid, signal.SIGKILL)

    def wake(self, pid):
        """Let everything in an interpreter's group that was stopped go on."""
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGCONT)

    def kill_groups_of(self, pids):
        for pid in pids:
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != os.getpgrp():
                    self.kill(os.getpgid(pid))

    def room(self):
        disk = os.statvfs(self.root)
        return disk.f_bfree * disk.f_frsize, disk.f_ffree

    def shrinking(self):
        """Whether the disk has lost an eighth of what the session may have since the last time it had: a
        single call, to be made often. Who has taken it is seen by a look at the folders."""
        now = self.room()
        self.free = [max(pair) for pair in zip(self.free, now, strict=True)]
        shares = (self.most // 8, folders.MAX_FILES // 8)
        if all(before - left < share for before, left, share in zip(self.free, now, shares, strict=True)):
            return False
        self.free = now
        return True

    def crowded(self, children):
        """Whether the session has more processes, bytes or files than it may; `children` of every process."""
        below = self.processes.descendants(os.getpid(), (), children)
        return len(below) > self.most_processes or self.full(below)

    def full(self, pids=()):
        """Whether the folders, and what these processes hold open of deleted files, are more than allowed."""
        seen, size = set(), 0
        try:
            for count, status in enumerate(self.files(pids)):
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    size += status.st_blocks * 512
                if size > self.most or count > folders.MAX_FILES:
                    return True
        except (OSError, RecursionError):
            return True  # folders nested too deep, or closed to us: what is in there can't be counted
        return False

    def files(self, pids):
        """The status of everything in the folders, and of open files that are in no folder any more.

        By descriptor, not by path: what runs in the jail may swap a folder for a link while we look.
        """
        for _, inner, names, fd in os.fwalk(self.root, onerror=hidden):
            for name in (*inner, *names):
                with contextlib.suppress(FileNotFoundError):  # gone by now
                    yield os.stat(name, dir_fd=fd, follow_symlinks=False)
        for pid in pids:
            for status in self.processes.open_files(pid):
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    yield status
