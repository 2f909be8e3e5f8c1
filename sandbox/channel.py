"""An interpreter's socket to the supervisor: requests come in, results and tool calls go out.

Guaranteed: frames are whole, whoever writes; an answer reaches the thread that has asked. Not guaranteed:
anything against the code that runs beside it in the same process. What it may not do, it can't do from here:
the supervisor knows this socket by its end of it, and by the sender's process.
"""

import json
import os
import socket
import threading
from collections import deque

import wire


class ToolError(Exception):
    """A tool refused the call or failed; the text is the tool's."""


class Channel:
    """Requests in, results and tool calls out, over this process's socket. Any thread may call a tool.

    Whoever waits reads: one thread at a time holds the socket and hands what it gets to whom it is for.
    """

    def __init__(self, sock):
        self.sock = sock
        self.writing = threading.Lock()
        self.changed = threading.Condition()
        self.requests = deque()
        self.answers = {}
        self.reading = False
        self.calls = 0

    def send(self, message):
        body = json.dumps(message).encode()
        with self.writing:
            self.sock.sendall(wire.NODE.pack(len(body), wire.MESSAGE) + body)

    def ready(self):
        self.sock.sendall(wire.NODE.pack(0, wire.READY))

    def request(self):
        """The next frame for the main loop: (type, body or message, file descriptors)."""
        return self.wait(lambda: self.requests.popleft() if self.requests else None)

    def call(self, name, args, kwargs):
        message = {
            "op": "call",
            "name": name,
            "args": [wire.encode_value(item) for item in args],
            "kwargs": {str(key): wire.encode_value(item) for key, item in kwargs.items()},
        }
        with self.changed:
            self.calls += 1
            number = message["id"] = self.calls
        self.send(message)
        answer = self.wait(lambda: self.answers.pop(number, None))
        if "error" in answer:
            raise ToolError(answer["error"])
        return wire.decode_value(answer["value"])

    def wait(self, take):
        while True:
            with self.changed:
                found = take()
                if found is not None:
                    return found
                if self.reading:
                    self.changed.wait()
                    continue
                self.reading = True
            frame = None
            try:
                frame = self.receive()
            finally:
                with self.changed:
                    self.reading = False
                    if frame is not None:
                        self.deliver(*frame)
                    self.changed.notify_all()

    def deliver(self, kind, body, fds):
        if kind == wire.MESSAGE:
            message = json.loads(body)
            if message["op"] == "answer":
                self.answers[message["id"]] = message
                return
            body = message
        self.requests.append((kind, body, fds))

    def receive(self):
        header, fds, _, _ = socket.recv_fds(self.sock, wire.NODE.size, 128, socket.MSG_CMSG_CLOEXEC)
        header += self.exactly(wire.NODE.size - len(header)) if header else b""
        if not header:
            os._exit(0)  # the supervisor let go of us
        size, kind = wire.NODE.unpack(header)
        return kind, self.exactly(size), fds

    def exactly(self, size):
        parts = []
        while size:
            part = self.sock.recv(min(size, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
