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

# Not json.loads: it looks at encodings and spaces first, which after a pause is 50 us of a reply.
read_json = json.JSONDecoder().raw_decode


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
        self.run = None  # the step that is being run; a call is one of its
        self.incoming = bytearray()
        self.descriptors = []  # in the order of the frames they belong to

    def send(self, message):
        body = json.dumps(message).encode()
        with self.writing:
            self.sock.sendall(wire.NODE.pack(len(body), wire.MESSAGE) + body)

    def ready(self):
        self.sock.sendall(wire.NODE.pack(0, wire.READY))

    def request(self):
        """The next frame for the main loop: (type, message, file descriptors)."""
        return self.wait(lambda: self.requests.popleft() if self.requests else None)

    def call(self, name, args, kwargs):
        message = {
            "op": "call",
            "run": self.run,
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

    def deliver(self, kind, message, fds):
        if kind == wire.MESSAGE and message["op"] == "answer":
            self.answers[message["id"]] = message
        else:
            self.requests.append((kind, message, fds))

    def receive(self):
        """One frame; what has come behind it stays in our buffer."""
        self.fill(wire.NODE.size)
        size, kind = wire.NODE.unpack_from(self.incoming)
        end = wire.NODE.size + size
        self.fill(end)
        message, _ = read_json(self.incoming[wire.NODE.size : end].decode())
        del self.incoming[:end]
        count = 2 * len(message["folders"]) if kind == wire.FORK else 0  # a socket and a log for each
        fds, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        return kind, message, fds

    def fill(self, size):
        while len(self.incoming) < size:
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 128, socket.MSG_CMSG_CLOEXEC)
            if not data:
                os._exit(0)  # the supervisor let go of us
            self.incoming += data
            self.descriptors += fds
