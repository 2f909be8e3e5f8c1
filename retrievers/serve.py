"""`python -m retrievers serve INDEX`: the process around app.py.

It listens on loopback unless told otherwise, and answers when it is ready to search: the models are loaded
first. SIGTERM and SIGINT end it in order (what is being answered is answered, for up to GRACE_SECONDS). With
--users FILE it belongs to those who hold a shared flock on that file: when nobody has held one for --linger
seconds it takes the lock for itself, so that nobody new comes, and ends. The kernel releases the lock of a
user that is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn

from retrievers.app import LOOPBACK, TOKEN_VARIABLE, Service
from retrievers.batches import Searcher
from retrievers.index import Index

GRACE_SECONDS = 5
KEEP_ALIVE_SECONDS = 120
LOOK_SECONDS = 0.5
"""How often users are looked for."""


def serve(options: argparse.Namespace) -> None:
    """Until it is told to end. ValueError, OSError or BadIndex, in one line, if it can't begin."""
    token = _token(options)
    sock = socket.socket(fileno=options.socket) if options.socket is not None else _listen(options)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # a connection takes a descriptor
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    index = Index.open(options.index, options.encoder, options.reranker)
    if "dense" in index.modes:
        index.encode(["load the model before the first client asks"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it is done
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    asyncio.run(_serve(index, options, token, sock))


async def _serve(index: Index, options: argparse.Namespace, token: str | None, sock: socket.socket) -> None:
    searcher = Searcher(index, max(0, options.cached), options.threads)
    config = uvicorn.Config(
        Service(index, searcher, token).app(),
        lifespan="off",
        access_log=False,
        log_level=logging.WARNING,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    if options.users is not None:
        _end_without_users(server, options.users, options.linger)
    port = sock.getsockname()[1]
    sys.stderr.write(f"retriever: {index.info['passages']} passages, {'/'.join(index.modes)}, port {port}\n")
    try:
        await server.serve(sockets=[sock])
    finally:
        searcher.close()


def _token(options: argparse.Namespace) -> str | None:
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if options.token_file is not None:
        lines = options.token_file.read_text(encoding="utf-8").splitlines()
        token = lines[0].strip() if lines else ""
        if not token:
            raise ValueError(f"{options.token_file} holds no token")
    if options.no_token:
        if options.host not in LOOPBACK:
            raise ValueError(f"--no-token goes with loopback only, not with --host {options.host}")
        return None
    if not token:
        raise ValueError(f"a token is needed: --token-file FILE, or the variable {TOKEN_VARIABLE}")
    if not token.isascii() or not token.isprintable():
        raise ValueError("the token can't be sent: it must be printable ASCII")
    return token


def _listen(options: argparse.Namespace) -> socket.socket:
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )
        # With its protocol: asyncio turns Nagle's algorithm off (40 ms an answer) only where it sees TCP.
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{options.host} port {options.port} cannot be used: {why}") from None
    return sock


def _end_without_users(server: uvicorn.Server, users: Path, linger: float) -> None:
    def watch() -> None:
        file = users.open("a")
        seen = time.monotonic()
        while True:
            time.sleep(LOOK_SECONDS)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.monotonic() - seen >= linger:
                    server.should_exit = True
                    threading.Event().wait()  # the lock is held until the process has ended
                fcntl.flock(file, fcntl.LOCK_UN)
                continue
            seen = time.monotonic()

    threading.Thread(target=watch, name="users", daemon=True).start()
