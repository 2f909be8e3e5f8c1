"""What the session's supervisor does: one stream to the client, one socket to each interpreter.

It forks the first interpreter, lets interpreters fork on the client's order, copies their folders, relays
frames both ways under numbers that it assigns itself, kills by pid and reports deaths. What it relays it
doesn't read. It ends, and with it everything in the jail, when the stream ends.

Guaranteed: a frame of channel n comes from the process that interpreter n is (the kernel vouches for the
sender's pid on every piece read; what a child of it writes is dropped). A kill takes the descendants
along, a sweep everything that is no interpreter. Not guaranteed: that an interpreter obeys; one that has
been turned may never fork or answer. The client has a deadline for that and older twins to go back to.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time

import first
import folders
import police
import processes
import wire

OUT_HIGH = 8 << 20  # bytes waiting for the client; above it interpreters aren't read
SWEEP_ROUNDS = 200
ROOM_SECONDS = 0.5  # for those that were dropped to be gone
CREDENTIALS = struct.Struct("3i")


class Node:
    """One interpreter: its socket, its folder, its log, and its pid once the kernel has told it."""

    def __init__(self, number, sock, folder, log):
        self.number = number
        self.sock = sock
        self.folder = folder
        self.log = log
        self.pid = None
        self.events = 0  # what is waited for on its socket
        self.told = 0  # frames of the client that were for it
        self.awaited = False  # the client wants to know when it is ready
        self.forgotten = False  # the client does not want to know when it is dead
        self.status = None  # how it ended, once it has been reaped
        self.greedy = False  # killed for the memory that it and its children took together
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.early = bytearray()  # what it may not be told yet: nobody has put it into a group of its own


class Supervisor:
    def __init__(self, stream_in, stream_out, config, proc):
        self.stream_in, self.stream_out = stream_in, stream_out
        self.config = config
        self.processes = proc
        self.host = None
        if config["jail"] == "landlock":
            import landlock_host

            self.host = landlock_host.Host(config, proc)
        self.nodes = {}
        self.last = 0
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.root = config["folder"]
        self.folders = folders.Folders(self.root, config.get("leaving"))
        self.police = police.Police(config, self.nodes, self.folders.removers, proc, self.host)
        self.busy = set()  # interpreters that were told something since the last sweep
        self.wake_in, self.wake_out = os.pipe()
        self.sockets = {}  # descriptor -> its node
        self.lagging = False  # something waits for the client
        self.stuffed = False  # too much does
        self.poll = select.poll()
        for fd in (stream_in, stream_out, self.wake_in, self.wake_out):
            os.set_blocking(fd, False)
        for fd in (stream_in, self.wake_in):
            self.poll.register(fd, select.POLLIN)

    # ------------------------------------------------------------------ the loop

    def serve(self):
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_out)
        self.start_first()
        hello = {"op": "hello", "protocol": wire.PROTOCOL, "python": sys.version.split()[0]}
        self.tell({**hello, "first": 1, "jail": self.config["jail"], "cgroup": self.config.get("cgroup")})
        while True:
            pause = self.police.pause(self.busy)
            ready = {fd for fd, _ in self.poll.poll(pause and pause * 1000)}
            for node in self.police.over_the_limit(self.busy):
                node.greedy = True
                self.kill(node)
            if self.stream_out in ready:
                self.flush()
            if self.wake_in in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_in, 4096)
                self.reap()
            for node in [self.sockets[fd] for fd in ready if fd in self.sockets]:
                if node.outgoing:
                    self.push(node)
                if not self.stuffed:
                    self.read_node(node)
            if self.stream_in in ready and not self.read_stream():
                return

    def watch(self, node):
        """Tell the kernel what we wait for; nothing from an interpreter while the client lags behind."""
        events = (0 if self.stuffed else select.POLLIN) | (select.POLLOUT if node.outgoing else 0)
        if events != node.events:
            if events:
                self.poll.register(node.sock, events)
            else:  # a dead one would be reported even without events
                self.poll.unregister(node.sock)
            node.events = events

    def tell(self, message):
        self.send(0, json.dumps(message).encode())

    def send(self, channel, body):
        self.outgoing += wire.STREAM.pack(len(body), channel) + body
        self.flush()

    def flush(self):
        with contextlib.suppress(BlockingIOError):
            del self.outgoing[: os.write(self.stream_out, self.outgoing)]
        lagging = bool(self.outgoing)
        if lagging != self.lagging:
            self.lagging = lagging
            if lagging:
                self.poll.register(self.stream_out, select.POLLOUT)
            else:
                self.poll.unregister(self.stream_out)
        stuffed = len(self.outgoing) >= OUT_HIGH
        if stuffed != self.stuffed:
            self.stuffed = stuffed
            for node in self.nodes.values():
                self.watch(node)

    def push(self, node):
        try:
            del node.outgoing[: node.sock.send(node.outgoing)]
        except BlockingIOError:
            pass
        except OSError:  # it is dead; its death is reported by whoever reaps it
            node.outgoing.clear()
        self.watch(node)

    def read_stream(self):
        try:
            data = os.read(self.stream_in, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        self.incoming += data
        while len(self.incoming) >= wire.STREAM.size:
            size, channel = wire.STREAM.unpack_from(self.incoming)
            if size > wire.MAX_FROM_HOST:
                return False
            end = wire.STREAM.size + size
            if len(self.incoming) < end:
                break
            body = bytes(self.incoming[wire.STREAM.size : end])
            del self.incoming[:end]
            if channel:
                if self.host is not None:
                    self.await_forks(0.4)  # a twin without a group of its own would die with the step
                if channel in self.nodes:
                    node = self.nodes[channel]
                    early = self.host is not None and node.pid is None
                    buffer = node.early if early else node.outgoing
                    buffer += wire.NODE.pack(size, wire.MESSAGE) + body
                    node.told += 1
                    self.push(node)
                    if not self.busy:
                        self.police.step_begins()
                    self.busy.add(node)
            else:
                self.obey(json.loads(body))
        return True

    def obey(self, order):
        """`revive` forks an interpreter and tells when it is ready, `try` forks candidates, `park` drops,
        sweeps and forks a twin. `kill` reports the deaths; `drop` doesn't, the client has forgotten them."""
        if order["op"] in ("revive", "try"):
            self.fork(order)
        elif order["op"] == "park":
            self.drop(order["drop"])
            self.sweep()
            self.fork(order)
        elif order["op"] == "kill":
            self.police.wake_all()
            for number in order["ids"]:
                if number in self.nodes:
                    self.nodes[number].forgotten = False
                    self.kill(self.nodes[number])
        elif order["op"] == "drop":
            self.drop(order["ids"])
        elif order["op"] == "sweep":
            self.sweep()

    # ------------------------------------------------------------------ what interpreters say

    def read_node(self, node):
        """One read; False when there is nothing more to read."""
        try:
            data, ancillary, _, _ = node.sock.recvmsg(1 << 16, socket.CMSG_SPACE(CREDENTIALS.size))
        except BlockingIOError:
            return False
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.lost(node)
            return False
        sender = 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                sender = CREDENTIALS.unpack(content[: CREDENTIALS.size])[0]
        if node.pid is None:
            node.pid = sender
            if self.host is not None and not self.adopt(node):
                return False
        elif sender != node.pid:
            return True  # a child of the interpreter, writing to the socket it inherited
        node.incoming += data
        while len(node.incoming) >= wire.NODE.size:
            size, kind = wire.NODE.unpack_from(node.incoming)
            if size > wire.MAX_FROM_NODE:
                self.kill(node)
                return False
            end = wire.NODE.size + size
            if len(node.incoming) < end:
                break
            body = bytes(node.incoming[wire.NODE.size : end])
            del node.incoming[:end]
            if kind == wire.READY:
                if node.awaited:
                    self.tell({"op": "ready", "id": node.number})
            else:
                self.send(node.number, body)
        return True

    def adopt(self, node):
        """A group for an interpreter that is about to run code; before, it has run only ours."""
        if not self.host.adopt(node.pid):
            self.kill(node)
            return False
        node.outgoing += node.early
        node.early.clear()
        self.push(node)
        return True

    def lost(self, node):
        """Its end of the socket is closed: it is dying, or it has thrown its channel away."""
        if node.pid is None:
            self.bury(node, "it never started")
        else:
            self.kill(node)

    def reap(self):
        for node in [node for node in self.nodes.values() if node.pid is None]:
            self.read_node(node)  # it may have said that it is ready, and died since
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.folders.removers.discard(pid)
            for node in list(self.nodes.values()):
                if node.pid == pid:
                    node.status = status
                    while node.number in self.nodes and self.read_node(node):
                        pass  # what it said before it died
                    if node.number in self.nodes:
                        self.bury(node, status)

    def bury(self, node, status):
        del self.nodes[node.number]
        del self.sockets[node.sock.fileno()]
        self.busy.discard(node)
        if node.events:
            self.poll.unregister(node.sock)
        node.sock.close()
        if not node.forgotten:
            self.report(node, os.waitstatus_to_exitcode(status) if isinstance(status, int) else status)
        os.close(node.log)
        self.folders.release(node.folder)

    def report(self, node, status):
        size = os.fstat(node.log).st_size
        window = self.config["output_chars"] * 4
        text = os.pread(node.log, window, 0).decode("utf-8", "replace")
        cut = max(0, size - window)
        message = {"op": "died", "id": node.number, "status": status, "memory": node.greedy}
        self.tell({**message, "told": node.told, "logs": text, "cut": cut})

    # ------------------------------------------------------------------ killing

    def kill(self, node):
        """Kill an interpreter and what descends from it; `died` follows when it is reaped."""
        if node.pid is None:
            self.bury(node, "killed before it started")
            return
        # It has been reaped; if before its pid was known, then as a stranger.
        if node.status is not None or not processes.exists(node.pid):
            self.bury(node, "killed early" if node.status is None else node.status)
            return
        self.police.kill(node.pid)

    def drop(self, numbers):
        """Kill without a word to the client."""
        for number in numbers:
            if number in self.nodes:
                self.nodes[number].forgotten = True
                self.kill(self.nodes[number])

    def sweep(self):
        """Kill what the step left behind: everything below us that is no interpreter.

        A fork that was ordered may be on its way; it is waited for, so as not to be taken for a stray. What
        the step has stopped goes on: it could neither fork nor answer.
        """
        self.busy.clear()
        for node in self.nodes.values():
            processes.wake(node.pid)
        self.await_forks(2.0)
        for _ in range(SWEEP_ROUNDS):
            self.reap()
            strays = self.police.strays()
            if not strays:
                return
            processes.kill(strays)
        if self.host is not None:  # they fork faster than we look: end what they descend from, too
            self.host.kill_groups_of(strays)

    def await_forks(self, seconds):
        """Hear of the forks that are on their way; not for ever, who was turned may never fork."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            waiting = [node.sock for node in self.nodes.values() if node.pid is None]
            if not waiting:
                break
            heard = select.select(waiting, [], [], 0.05)[0]
            if not heard:  # what the step has stopped can be a fork whose pid we don't know yet
                self.police.wake_all()
            for node in [node for node in self.nodes.values() if node.sock in heard]:
                self.read_node(node)

    def end(self):
        """Leave nothing behind. In a pid namespace the kernel sees to it when we end, and nobody waits for us
        to tidy up; elsewhere this is all there is."""
        if self.config["jail"] in ("bubblewrap", "docker"):
            os._exit(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for node in self.nodes.values() if self.host is not None else ():
            if node.pid is not None:
                self.host.kill(node.pid)
        for _ in range(SWEEP_ROUNDS):
            below = self.processes.descendants(os.getpid())
            if not below:
                break
            processes.kill(below)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        self.folders.clear()

    # ------------------------------------------------------------------ forks and folders

    def start_first(self):
        """When memory runs out in a cgroup, the kernel is to take an interpreter, not the supervisor."""
        node, theirs, log = self.new_node(None)
        node.awaited = True
        self.processes.preferred_victim(True)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                first.become(theirs, log, node.folder, self.config)
            os._exit(1)
        self.processes.preferred_victim(False)
        theirs.close()
        os.close(log)
        node.pid = pid

    def new_node(self, parent, twin=False):
        """A node with its folder and log; also returns the child's ends of socket and log."""
        self.last += 1
        folder = self.folders.copy(parent.folder, shared=twin) if parent else self.folders.new()
        path = os.path.join(self.root, f"log{self.last}")
        log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        theirs_log = os.dup(log)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        node = Node(self.last, ours, folder, log)
        self.nodes[node.number] = node
        self.sockets[ours.fileno()] = node
        self.watch(node)
        return node, theirs, theirs_log

    def fork(self, order):
        """Order an interpreter to fork. The client may write to the new channels at once."""
        parent = self.nodes.get(order["from"])
        if self.host is not None and parent is not None and parent.pid is None:
            parent = None  # it may not be told anything yet
        made, dropped = self.new_nodes(parent, order) if parent else [], []
        while not made and parent in self.nodes.values():
            if not self.dying():
                if len(dropped) == len(order["room"]):
                    break
                dropped.append(order["room"][len(dropped)])
                self.drop(dropped[-1:])
            if not self.await_deaths():
                break
            made = self.new_nodes(parent, order)
        if not made:
            self.tell({"op": "forked", "tag": order["tag"], "ids": [], "dropped": dropped})
            return
        waiting = order["op"] != "park"  # somebody is
        body = json.dumps({"folders": [node.folder for node, _, _ in made], "waiting": waiting}).encode()
        fds = [theirs.fileno() for _, theirs, _ in made] + [log for _, _, log in made]
        self.pass_fds(parent, wire.NODE.pack(len(body), wire.FORK) + body, fds)
        for _, theirs, log in made:
            theirs.close()
            os.close(log)
        ids = [node.number for node, _, _ in made]
        self.tell({"op": "forked", "tag": order["tag"], "ids": ids, "dropped": dropped})

    def new_nodes(self, parent, order):
        """All that are ordered, as new_node makes them, or none if there is no room for their folders."""
        made = []
        try:
            for _ in range(order["count"]):
                made.append(self.new_node(parent, order["op"] == "park"))
                made[-1][0].awaited = order["op"] == "revive"
            if self.host is None or not self.host.full():
                return made
        except (OSError, RecursionError):  # RecursionError: a hostile tree of folders
            pass
        for node, theirs, log in made:
            theirs.close()
            os.close(log)
            self.bury(node, "no room")
        return []

    def dying(self):
        """Whether folders are about to go: of interpreters that were dropped and are not reaped."""
        return any(node.forgotten for node in self.nodes.values())

    def await_deaths(self):
        until = time.monotonic() + ROOM_SECONDS
        while self.dying() and time.monotonic() < until:
            time.sleep(0.001)
            self.reap()
        return not self.dying()

    def pass_fds(self, node, frame, fds):
        """Descriptors travel with the first byte of their frame, so what waits goes out before."""
        while node.outgoing:
            if not select.select([], [node.sock], [], 5)[1]:
                return  # it doesn't read: the children never start, which the client is told
            self.push(node)
        try:
            sent = socket.send_fds(node.sock, [frame], fds)
        except OSError:
            return
        node.outgoing += frame[sent:]
