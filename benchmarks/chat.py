"""How soon one can type, and how soon a key shows while tokens stream: `agentdistill chat` on a terminal.

    python benchmarks/chat.py [--model SPEC] [--starts N] [--keys N]

`first prompt` is the time from starting the program to the prompt being drawn, `ready` to the model and the
sandbox being open. A key's latency is the time from writing a letter to the terminal to that letter being
drawn, once while nothing goes on, once while the model streams text; medians, the 95th percentile, the most.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import time

LETTERS = "ЖЩЮЯДФЛЪЫЭЦШЧБГЗИЙПУ"  # no model writes these of itself
ASK = "Write a long comment on every prime number below 400, one after the other, then the code."


class Terminal:
    """The program on a terminal of 80 by 24."""

    def __init__(self, command: list[str], state: str) -> None:
        self.ours, theirs = pty.openpty()
        subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=theirs, check=True)
        self.said = b""
        self.began = time.monotonic()
        environment = {**os.environ, "AGENTDISTILL_STATE": state, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def seconds_until(self, text: str, limit: float = 120.0) -> float:
        """Seconds from now until the text is drawn, or since the start for what is drawn already."""
        begun, wanted = time.monotonic(), text.encode()
        while wanted not in self.said:
            if time.monotonic() - begun > limit:
                raise TimeoutError(text)
            if select.select([self.ours], [], [], 0.5)[0]:
                self.said += os.read(self.ours, 1 << 16)
        return time.monotonic() - begun

    def type(self, text: str) -> None:
        self.said = b""
        os.write(self.ours, text.encode())

    def keys(self, count: int) -> list[float]:
        """Latencies of that many letters, one in about 0.3 s."""
        found = []
        for number in range(count):
            letter = LETTERS[number % len(LETTERS)]
            self.type(letter)
            found.append(self.seconds_until(letter))
            until = time.monotonic() + 0.27 + 0.01 * (number % 7)
            while (left := until - time.monotonic()) > 0:  # what streams meanwhile must be read
                if select.select([self.ours], [], [], left)[0]:
                    os.read(self.ours, 1 << 16)
        return found

    def end(self) -> None:
        os.write(self.ours, b"\x03\x11")
        until = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < until:
            if select.select([self.ours], [], [], 0.1)[0]:
                try:
                    os.read(self.ours, 1 << 16)
                except OSError:
                    break
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def shown(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p95_ms": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 1),
        "most_ms": round(1000 * ordered[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--keys", type=int, default=40)
    given = parser.parse_args()
    command = [sys.executable, "-m", "agentdistill", "chat", "--model", given.model]
    prompts, ready = [], []
    with tempfile.TemporaryDirectory() as state:
        for _ in range(given.starts):
            terminal = Terminal(command, state)
            terminal.seconds_until("Ask, or /help")
            prompts.append(time.monotonic() - terminal.began)
            terminal.seconds_until("sandbox ready")
            ready.append(time.monotonic() - terminal.began)
            terminal.end()
        terminal = Terminal(command, state)
        terminal.seconds_until("sandbox ready")
        idle = terminal.keys(given.keys)
        terminal.type("\x15")  # an empty line again
        terminal.type(ASK + "\r")
        terminal.seconds_until("thinking")
        time.sleep(15)  # the prompt is read
        streaming = terminal.keys(given.keys)
        terminal.type("")
        terminal.seconds_until("thinking", limit=3)  # or it was over before, and these are no such keys
        terminal.end()
    print(
        json.dumps(
            {
                "model": given.model,
                "first_prompt_s": round(statistics.median(prompts), 2),
                "ready_s": round(statistics.median(ready), 2),
                "starts": given.starts,
                "key_idle": shown(idle),
                "key_streaming": shown(streaming),
                "keys": given.keys,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
