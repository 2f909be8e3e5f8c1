"""Who takes too much, who is left over, and how they end: the supervisor's means against what it runs.

Guaranteed: a kill takes the descendants along; `strays` are all processes below the supervisor that are no
interpreter and no remover of ours. Not guaranteed: anything between two looks. A namespace or a cgroup of
the jail, where there is one, holds more than this does.
"""

import os
import time

import folders
import processes

PAUSE = 0.2  # seconds between looks at what a running step takes
OURS = 2  # bubblewrap's init and the supervisor: what a pid namespace holds beside interpreters
FAMILY = 2  # times memory_mb an interpreter and its children may take together; forks share pages, so not 1
FIRST = 1  # the first interpreter's number


class Police:
    """`nodes` and `removers` are the supervisor's own, as they are at the moment."""

    def __init__(self, config, nodes, removers, proc, host):
        self.config = config
        self.nodes = nodes
        self.removers = removers
        self.processes = proc
        self.host = host
        self.next_look = self.soonest = 0.0

    def pause(self, busy):
        """Seconds until the next look is due; None if nothing needs one."""
        if self.host is not None:
            return self.host.SHORT_PAUSE if busy else self.host.PAUSE
        return PAUSE if busy else None

    def step_begins(self):
        self.next_look = time.monotonic() + PAUSE

    def over_the_limit(self, busy):
        """The interpreters to be killed for memory, processes or files; none if it isn't time to look."""
        now = time.monotonic()
        early = busy and self.host is not None and now > self.soonest and self.host.shrinking()
        if now < self.next_look and not early:
            return []
        if not busy:
            if self.host is None:
                return []
            self.next_look = now + self.host.PAUSE
            return self.while_no_step_runs()
        children = self.processes.children()
        crowded = self.crowded(children)
        spare = {other.pid for other in self.nodes.values()}
        found = []
        for node in busy:
            if node.pid is not None:
                family = [node.pid, *self.processes.descendants(node.pid, spare, children)]
                taken = sum(map(self.processes.resident, family))
                if crowded or taken > FAMILY * self.config["memory_mb"] << 20:
                    found.append(node)
        done = time.monotonic()  # to look is to leave other things lying: a fifth of the time at most
        self.soonest = done + 4 * (done - now)
        self.next_look = max(now + PAUSE, self.soonest)
        return found

    def while_no_step_runs(self):
        """Threads of the last step may. Which state they are of is the client's to know: all but the first
        interpreter go, and the next step starts from there."""
        if self.host.shrinking() and self.host.crowded(self.processes.children()):
            return [node for node in self.nodes.values() if node.number != FIRST]
        return []

    def crowded(self, children):
        if self.host is not None:
            return self.host.crowded(children)
        if self.config["jail"] == "process":  # its folder is on a disk that others use
            return False
        room = os.statvfs(self.config["folder"])
        return room.f_files - room.f_ffree > folders.MAX_FILES

    def kill(self, pid):
        """An interpreter, and what descends from it but is no interpreter."""
        if self.host is not None:  # without a look at the host's processes: they may be many, and we are few
            self.host.kill(pid)
            return
        spare = {other.pid for other in self.nodes.values()}
        processes.kill([pid, *self.processes.descendants(pid, spare)])

    def wake_all(self):
        """What was stopped goes on: it may be the parent that must end before we are told of a death."""
        if self.host is None:
            for pid in self.processes.descendants(os.getpid()):
                processes.wake(pid)
            return
        for node in self.nodes.values():
            if node.pid is not None:
                self.host.wake(node.pid)

    def strays(self):
        if self.config["jail"] == "bubblewrap" and self.processes.count() == len(self.nodes) + OURS:
            return []  # without looking at each
        known = {node.pid for node in self.nodes.values()} | self.removers
        if self.host is not None:  # the next step may be waiting: not all of the host's processes
            return [pid for pid in self.processes.below(os.getpid()) if pid not in known]
        return self.processes.descendants(os.getpid(), known)
