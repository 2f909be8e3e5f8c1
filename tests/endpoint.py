"""A real OpenAI-compatible server that misbehaves as it is told to, for tests and benchmarks.

    with serve(Endpoint(script=lambda messages: "Thought: ...", latency=0.1, faults={"busy": 0.1})) as server:
        OpenAICompatibleModel("m", server.url)
    python tests/endpoint.py --port 8100 --script agent --latency 1 --fault busy=0.1 --fault hang=0.1

One asyncio loop carries hundreds of calls in flight. The script's text is a whole assistant turn; `style`
decides what becomes of a prefix. GET /stats tells what was asked and answered; `Endpoint.requests` keeps all
bodies where the server runs in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

Messages = list[dict[str, Any]]
Reply = tuple[int, Any]
"""A status, and a body as JSON."""

COUNTED = "Zebra: one two three four five six seven"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of the model behind /v1/completions: prompts there are taken apart by it."""

STYLES = {
    "vllm": "continues the last message when told to (continue_final_message), sends the continuation only",
    "llama-server": "continues a trailing assistant turn and sends all of it",
    "trailing": "refuses unknown fields (422), continues a trailing assistant turn",
    "prefix": "wants prefix: true on a trailing assistant turn, refuses unknown fields",
    "no-trailing": "refuses a trailing assistant turn and `continue_final_message`; does as told in words",
    "deaf": "takes any conversation and starts a turn of its own",
}

FAULTS = {
    "busy": "429 with Retry-After",
    "error": "500",
    "unavailable": "503",
    "hang": "nothing, until the client hangs up",
    "reset": "the connection is closed without an answer",
    "cut": "the connection is closed in the middle of the body (or the stream)",
    "dribble": "one byte of the body in 50 ms, for ever",
    "garbage": "200 with what is no JSON",
    "empty": "200 with no choices",
    "overflow": "400, the conversation doesn't fit into the context",
}

OVERFLOWS: dict[str, Reply] = {
    "vllm": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 "
            "tokens (4488 in the messages, 512 in the completion). Please reduce the length of the messages "
            "or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "llama-server": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (5000 tokens) exceeds the available context size (4096 tokens), "
                "try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
    ),
    "openai": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, your messages "
                "resulted in 5000 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "sglang": (
        400,
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
}


@dataclass
class Endpoint:
    """What the server does. Every field may be changed while it runs.

    `latency` is in seconds and the same for every answer; `faults` maps a name of FAULTS to its rate, drawn
    by `seed` in the order of requests; `capacity` is how many calls it takes at once, the rest get a 429;
    `context` limits the conversation, in words; with `props` it tells its template. `answer`, where given,
    replies in place of all this.
    """

    script: Callable[[Messages], str] = lambda _: COUNTED
    style: str = "vllm"
    latency: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    overflow: str = "vllm"
    retry_after: str = "0"
    capacity: int | None = None
    context: int | None = None
    honours_n: bool = True
    counts: bool = True
    completions: bool = True
    props: bool = False
    answer: Callable[[dict[str, Any]], Reply | None] = lambda _: None

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    given: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def draw_fault(self) -> str:
        """The fault of the next request, if it has one. Rates that sum to more than 1 fail always."""
        point = self.random.random()
        for name, rate in self.faults.items():
            if point < rate:
                return name
            point -= rate
        return ""

    def stats(self) -> dict[str, Any]:
        return {
            "requests": len(self.requests),
            "given": dict(self.given),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }


# What is answered


def refused(status: int, message: str, **more: Any) -> Reply:
    return status, {"error": {"message": message, "type": "invalid_request_error", **more}}


def chat_reply(*texts: str, finish: str = "stop", counts: bool = True, tokens_in: int = 10) -> Reply:
    choices = [
        {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for i, text in enumerate(texts)
    ]
    return 200, _body("chat.completion", choices, texts, counts, tokens_in)


def text_reply(*texts: str, finish: str = "stop", counts: bool = True, tokens_in: int = 10) -> Reply:
    choices = [{"index": i, "finish_reason": finish, "text": text} for i, text in enumerate(texts)]
    return 200, _body("text_completion", choices, texts, counts, tokens_in)


def _body(
    kind: str, choices: list[dict[str, Any]], texts: Sequence[str], counts: bool, tokens_in: int
) -> dict[str, Any]:
    body = {"id": "1", "object": kind, "created": 1, "model": "m", "choices": choices}
    if counts:
        out = sum(len(text.split()) for text in texts)
        body["usage"] = {
            "prompt_tokens": tokens_in,
            "completion_tokens": out,
            "total_tokens": tokens_in + out,
        }
    return body


def _words(messages: Messages) -> int:
    return sum(len(str(message["content"]).split()) for message in messages)


def _draw(endpoint: Endpoint, messages: Messages, prefix: str, request: dict[str, Any]) -> list[str]:
    """n whole turns of the script that begin with the prefix, cut at the first stop string."""
    turn = endpoint.script(messages)
    rest = turn.removeprefix(prefix) if turn.startswith(prefix) else " " + turn
    stops = [rest.index(mark) for mark in request.get("stop") or () if mark in rest]
    rest = rest[: min(stops)] if stops else rest
    return [prefix + rest] * (request.get("n") or 1 if endpoint.honours_n else 1)


def answer_chat(endpoint: Endpoint, request: dict[str, Any]) -> Reply:
    messages = list(request["messages"])
    style = endpoint.style
    if endpoint.context is not None and _words(messages) > endpoint.context:
        return OVERFLOWS[endpoint.overflow]
    if "continue_final_message" in request and style in ("trailing", "prefix", "no-trailing"):
        return 422, {"detail": [{"loc": ["body", "continue_final_message"], "msg": "extra not permitted"}]}
    prefix, echo, asked = "", False, messages
    if messages[-1]["role"] == "assistant":
        last = messages[-1]
        if style == "no-trailing":
            return refused(400, "the last message must be from the user")
        if style == "prefix" and not last.get("prefix"):
            return refused(400, "Expected last role User or Tool (or Assistant with prefix True)")
        if style == "trailing" and "prefix" in last:
            return 422, {"detail": [{"loc": ["body", "messages", "prefix"], "msg": "extra not permitted"}]}
        if style == "vllm" and request.get("continue_final_message"):
            if request.get("add_generation_prompt", True):
                return refused(400, "Cannot set both continue_final_message and add_generation_prompt")
            prefix = last["content"]
        elif style in ("llama-server", "trailing", "prefix"):
            prefix, echo = last["content"], style == "llama-server"
        if prefix:
            asked = messages[:-1]
    told = re.search(r"go on from it:\n(.*)\Z", str(messages[-1]["content"]), re.DOTALL)
    if told and style == "no-trailing":
        prefix, echo = told[1], True
    turns = _draw(endpoint, asked, prefix, request)
    texts = [turn if echo else turn[len(prefix) :] for turn in turns]
    return chat_reply(*texts, counts=endpoint.counts, tokens_in=_words(messages))


def answer_completions(endpoint: Endpoint, request: dict[str, Any]) -> Reply:
    """/v1/completions: the prompt is a conversation rendered by CHATML, and the beginning of a turn."""
    if not endpoint.completions:
        return 404, {"error": {"message": "Not Found"}}
    turns = re.split(r"<\|im_start\|>(\w+)\n", str(request["prompt"]))[1:]
    messages = [
        {"role": role, "content": text.removesuffix("<|im_end|>\n")}
        for role, text in zip(turns[::2], turns[1::2], strict=True)
    ]
    if not messages or messages[-1]["role"] != "assistant":
        return refused(400, "this prompt is in no template of mine")
    if endpoint.context is not None and _words(messages) > endpoint.context:
        return OVERFLOWS[endpoint.overflow]
    prefix = messages[-1]["content"]
    texts = [turn[len(prefix) :] for turn in _draw(endpoint, messages[:-1], prefix, request)]
    return text_reply(*texts, counts=endpoint.counts, tokens_in=_words(messages))


# The server


class _Gone(Exception):
    """The client is to see the connection closed."""


class Server:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when the server ends: asyncio would log a connection's task that ends so.
        with contextlib.suppress(_Gone, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                self.endpoint.keys += re.findall(r"(?i)\r\n(?:proxy-)?authorization: *(.*)(?=\r\n)", head)
                await self.answer(method, path, body, writer)
                await writer.drain()
        writer.close()

    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        endpoint = self.endpoint
        if method == "GET":
            send(writer, *self.get(path))
            return
        request = json.loads(body)
        endpoint.requests.append(request)
        endpoint.paths.append(path)
        if endpoint.capacity is not None and endpoint.in_flight >= endpoint.capacity:
            endpoint.given["busy"] += 1
            self.turn_away(writer)
            return
        endpoint.in_flight += 1
        endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
        try:
            await self.post(path, request, writer)
        finally:
            endpoint.in_flight -= 1

    def get(self, path: str) -> Reply:
        if path == "/stats":
            return 200, self.endpoint.stats()
        if path.endswith("/models"):
            return 200, {"object": "list", "data": [{"id": "m", "object": "model"}]}
        if path == "/props" and self.endpoint.props:
            return 200, {"chat_template": CHATML, "bos_token": "", "eos_token": "<|im_end|>"}
        return 404, {"error": {"message": "Not Found"}}

    def turn_away(self, writer: asyncio.StreamWriter) -> None:
        send(writer, *refused(429, "too many requests"), [("Retry-After", self.endpoint.retry_after)])

    async def post(self, path: str, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        endpoint = self.endpoint
        fault = endpoint.draw_fault()
        endpoint.given[fault or "answers"] += 1
        if fault == "busy":
            self.turn_away(writer)
            return
        if fault in ("error", "unavailable", "overflow"):
            send(
                writer,
                *{
                    "error": refused(500, "internal error"),
                    "unavailable": refused(503, "starting up"),
                    "overflow": OVERFLOWS[endpoint.overflow],
                }[fault],
            )
            return
        if fault == "reset":
            raise _Gone
        if fault == "hang":
            while not writer.transport.is_closing():
                await asyncio.sleep(0.05)
            raise _Gone
        if endpoint.latency:
            await asyncio.sleep(endpoint.latency)
        given = endpoint.answer(request)
        if given is None:
            if path.endswith("/chat/completions"):
                given = answer_chat(endpoint, request)
            elif path.endswith("/completions"):
                given = answer_completions(endpoint, request)
            else:
                given = 404, {"error": {"message": "Not Found"}}
        status, body = given
        if fault == "empty":
            body = {**body, "choices": []}
        if request.get("stream") and status == 200:
            counted = bool((request.get("stream_options") or {}).get("include_usage"))
            self.stream(body, writer, cut=fault == "cut", counted=counted)
            return
        data = b"{oops" if fault == "garbage" else encoded(body)
        if fault == "cut":
            send_head(writer, status, len(data))
            writer.write(data[: len(data) // 2])
            await writer.drain()
            raise _Gone
        if fault == "dribble":
            send_head(writer, status, 10**6)
            while not writer.transport.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.05)
            raise _Gone
        send_head(writer, status, len(data))
        writer.write(data)

    def stream(self, body: dict[str, Any], writer: asyncio.StreamWriter, cut: bool, counted: bool) -> None:
        """The reply as server-sent events, a word a chunk; the tokens in one of their own if asked for."""
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )

        def event(data: bytes) -> None:
            data = b"data: " + data + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))

        head = {key: body[key] for key in ("id", "created", "model")}
        for choice in body["choices"]:
            words = re.findall(r"\s*\S+", choice["message"]["content"])
            for word in words[: len(words) // 2] if cut else words:
                delta = {"index": choice["index"], "delta": {"content": word}, "finish_reason": None}
                event(encoded({**head, "object": "chat.completion.chunk", "choices": [delta]}))
        if cut:
            raise _Gone
        last = [{"index": i, "delta": {}, "finish_reason": "stop"} for i, _ in enumerate(body["choices"])]
        event(encoded({**head, "object": "chat.completion.chunk", "choices": last}))
        if counted and "usage" in body:
            event(encoded({**head, "object": "chat.completion.chunk", "choices": [], "usage": body["usage"]}))
        event(b"[DONE]")
        writer.write(b"0\r\n\r\n")


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def send_head(
    writer: asyncio.StreamWriter, status: int, length: int, headers: Sequence[tuple[str, str]] = ()
) -> None:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    writer.write(f"{head}{more}\r\n".encode())


def send(
    writer: asyncio.StreamWriter, status: int, body: Any, headers: Sequence[tuple[str, str]] = ()
) -> None:
    data = encoded(body)
    send_head(writer, status, len(data), headers)
    writer.write(data)


async def _listen(endpoint: Endpoint, port: int) -> asyncio.Server:
    server = await asyncio.start_server(
        Server(endpoint).connection, "127.0.0.1", port, backlog=1024, limit=2**20
    )
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    return server


@contextlib.contextmanager
def serve(endpoint: Endpoint, port: int = 0) -> Iterator[Endpoint]:
    """The server in a thread of this process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        server = asyncio.run_coroutine_threadsafe(_listen(endpoint, port), loop).result(10)
        yield endpoint
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serve_apart(*arguments: str) -> Iterator[str]:
    """The server in a process of its own, by its command line; gives its URL. For timings."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--port", str(port), *arguments])
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/stats", trust_env=False)
                break
            assert process.poll() is None and time.monotonic() < until, "the endpoint did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


# Scripts by name, for the command line


def agent(messages: Messages) -> str:
    """An agent of two steps: prints the last number of the question doubled, then gives it as the answer."""
    question = next((str(m["content"]) for m in reversed(messages) if "New task" in str(m["content"])), "")
    number = (re.findall(r"\d+", question) or ["0"])[-1]
    if not any("Observation:" in str(message["content"]) for message in messages[1:]):
        return f"Thought: I compute it.\n<code>\nresult = {number} * 2\nprint(result)\n</code>"
    return "Thought: I have it.\n<code>\nfinal_answer(result)\n</code>"


SCRIPTS: dict[str, Callable[[Messages], str]] = {"count": lambda _: COUNTED, "agent": agent}


def _script(name: str) -> Callable[[Messages], str]:
    if name in SCRIPTS:
        return SCRIPTS[name]
    file, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None, f"{name}: count, agent or FILE.py:FUNCTION"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Messages], str] = getattr(module, function)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="A fault-injecting OpenAI-compatible server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", default="count", help="count, agent or FILE.py:FUNCTION")
    parser.add_argument("--style", choices=STYLES, default="vllm")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=RATE", help=", ".join(FAULTS))
    parser.add_argument("--capacity", type=int, help="calls at once; more get a 429")
    parser.add_argument("--retry-after", default="0")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    endpoint = Endpoint(
        script=_script(given.script),
        style=given.style,
        latency=given.latency,
        faults={name: float(rate) for name, _, rate in (fault.partition("=") for fault in given.fault)},
        seed=given.seed,
        capacity=given.capacity,
        retry_after=given.retry_after,
    )

    async def run() -> None:
        server = await _listen(endpoint, given.port)
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
