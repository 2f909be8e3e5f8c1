"""The launcher: one process a client, which starts a jail for every request and cleans up after it.

    python -I launch.py          with a SOCK_SEQPACKET socket as stdin

A request is one packet: JSON and two descriptors, the session's stream (the supervisor's stdin and stdout)
and a pipe for the jail's stderr.

    {"op": "start", "id": 1, "jail": "bubblewrap", "limits": {...}, "preload": ["numpy"], ...}
    {"op": "kill", "id": 1}      without descriptors

There are no answers: a jail that can't be started says why on its stderr, whose end is the end of the jail.
When the socket ends, every jail ends, and then the launcher. It lives as long as its client because the
kernel's "die with the parent" means the thread that has forked: this program has one, and it waits here.

Guaranteed: when a jail's stderr has ended, its folder and its cgroup are gone or about to be; a jail that
doesn't end in END_SECONDS after the socket has, is killed. Not guaranteed: anything when this process is
killed with SIGKILL, except what the jails see to themselves: they end with their stream.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import cgroup  # noqa: E402
import python_files  # noqa: E402

MAX_REQUEST = 1 << 16
END_SECONDS = 3.0


class Jail:
    """One started jail: its first process, and what is left to be removed when that has ended."""

    def __init__(self, number, pid, config, group):
        self.number = number
        self.pid = pid
        self.config = config
        self.group = group


class Launcher:
    def __init__(self, control):
        self.control = control
        self.jails = {}  # by pid
        self.wake_in, self.wake_out = os.pipe()
        for fd in (self.wake_in, self.wake_out):
            os.set_blocking(fd, False)

    def serve(self):
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_out)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's affair
        while True:
            ready, _, _ = select.select([self.control, self.wake_in], [], [])
            if self.wake_in in ready:
                self.reap()
            if self.control in ready and not self.receive():
                break
        self.end()

    def receive(self):
        try:
            data, fds, _, _ = socket.recv_fds(self.control, MAX_REQUEST, 2)
        except OSError:
            return False
        if not data:
            return False
        request = json.loads(data)
        if request["op"] == "kill":
            for jail in self.jails.values():
                if jail.number == request["id"]:
                    os.kill(jail.pid, signal.SIGKILL)
        else:
            stream, stderr = fds
            try:
                self.start(request, stream, stderr)
            except Exception as problem:
                os.write(stderr, f"the jail cannot be started: {problem}\n".encode())
            finally:
                os.close(stream)
                os.close(stderr)
        return True

    def start(self, request, stream, stderr):
        build = builder(request["jail"])
        given = {name: request[name] for name in request if name not in ("op", "id", "limits")}
        config = {**request["limits"], **given}
        group = cgroup.make(config)
        try:
            command, environment = build(config)
        except BaseException:
            if group is not None:
                group.remove()
            raise
        pid = os.fork()
        if pid == 0:
            try:
                become(command, environment, stream, stderr, group)
            except BaseException as problem:
                os.write(stderr, f"{command[0]} cannot be started: {problem}\n".encode())
            os._exit(127)
        self.jails[pid] = Jail(request["id"], pid, config, group)

    def reap(self):
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_in, 4096)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self.jails:
                    clean(self.jails.pop(pid))

    def end(self):
        """The client is gone, or does not need us any more. Its ends of the streams are closed by now."""
        until = time.monotonic() + END_SECONDS
        while self.jails and time.monotonic() < until:
            select.select([self.wake_in], [], [], until - time.monotonic())
            self.reap()
        for pid in self.jails:
            os.kill(pid, signal.SIGKILL)
        while self.jails:
            select.select([self.wake_in], [], [], END_SECONDS)
            self.reap()


def become(command, environment, stream, stderr, group):
    """In the fork: join the cgroup, take the descriptors, be the jail."""
    if group is not None:
        group.enter()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for source, target in ((stream, 0), (stream, 1), (stderr, 2)):
        os.dup2(source, target)
    if callable(command):
        command = command()
    os.execve(command[0], command, environment)  # noqa: S606


def clean(jail):
    if jail.config["jail"] == "landlock":
        import landlock

        landlock.clean(jail.pid, jail.config)
    elif "made" in jail.config:
        shutil.rmtree(jail.config["made"], ignore_errors=True)
    if jail.group is not None:
        jail.group.remove()


def builder(jail):
    """The function that makes a jail's command line; what it imports is imported once."""
    if jail == "bubblewrap":
        import bubblewrap

        return bubblewrap.command
    if jail == "landlock":
        import landlock

        return landlock.command
    if jail == "process":
        return process_command
    raise ValueError(f"no jail is called {jail!r}")


def process_command(config):
    """No jail at all: the supervisor as it is, in a folder of its own."""
    made = tempfile.mkdtemp(prefix="agentdistill-")
    packages = python_files.package_parents()
    config.update(folder=made, made=made, proc="/proc", uid=None, packages=packages)
    return python_files.supervisor(config), {"PYTHONHASHSEED": "0", "PATH": os.defpath}


if __name__ == "__main__":
    Launcher(socket.socket(fileno=os.dup(0))).serve()
