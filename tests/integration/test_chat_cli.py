"""`agentdistill chat` as a program: piped, on a terminal, without a model."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, serve

from agentdistill.runs import read_trajectories

COMMAND = [sys.executable, "-m", "agentdistill", "chat"]
NASTY = "\x1b]0;owned\x07\x1b[31m"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    def script(messages: object) -> str:
        return f"Thought: Multiply{NASTY}.\n<code>\nfinal_answer('{NASTY!s}' + str(6 * 7))\n</code>"

    with serve(Endpoint(script=script)) as endpoint:
        yield endpoint


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "AGENTDISTILL_STATE": str(tmp_path / "state"), "TERM": "xterm-256color"}


def piped(
    question: str, *flags: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *flags],
        input=question,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def model(server: Endpoint) -> list[str]:
    return ["--model", f"openai:m@{server.url}", "--sandbox", "bubblewrap"]


def test_one_question_as_json(server: Endpoint, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = piped("What is 6 times 7?\n", *model(server), "--json", "-o", str(run))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["answer"] == f"{NASTY}42" and said["question"] == "What is 6 times 7?"
    assert said["steps"][0]["code"] and said["usage"]["tokens_out"] > 0 and said["run"] == str(run)
    assert [attempt.answer for attempt in read_trajectories(run)] == [said["answer"]]
    assert "step 1" in done.stderr and "\x1b" not in done.stderr


def test_one_question_as_text(server: Endpoint, environment: dict[str, str]) -> None:
    done = piped("What is 6 times 7?", *model(server), environment=environment)
    assert (done.returncode, done.stdout) == (0, f"{NASTY}42\n")
    assert not Path(environment["AGENTDISTILL_STATE"]).exists(), "one question leaves nothing behind"


def test_candidates_and_a_question_that_fails(server: Endpoint) -> None:
    done = piped("Vote.", *model(server), "--json", "--candidates", "2")
    assert len(json.loads(done.stdout)["steps"][0]["candidates"]) == 2
    done = piped("Fail.", *model(server)[:2], "--sandbox", "ws://127.0.0.1:9", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("agentdistill: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("question", "flags", "problem"),
    [
        ("  \n", [], "there is no question on stdin"),
        ("Hi", ["--approve"], "--approve has nobody to ask"),
        ("Hi", ["--model", "nonsense"], "no model 'nonsense'"),
        ("Hi", ["--candidates", "2", "--temperature", "0"], "2 candidates at temperature 0"),
    ],
)
def test_a_wrong_call_is_one_line(server: Endpoint, question: str, flags: list[str], problem: str) -> None:
    done = piped(question, *model(server), *flags)
    assert done.returncode == 2 and problem in done.stderr and done.stderr.count("\n") == 1


def test_without_any_model_it_says_what_it_fetches(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AGENTDISTILL_CACHE": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
    }
    done = piped("Hi", environment=environment)
    assert done.returncode == 1
    told, fetching = done.stderr.splitlines()[:2]
    assert told.startswith(
        "No --model was given and none is here yet. Starting on Qwen2.5-Coder-1.5B-Instruct"
    )
    assert "--model smollm2-135m (98 MB)" in told
    assert fetching == f"Fetching qwen2.5-coder-1.5b: 1,117 MB (Apache-2.0), once, into {tmp_path}"


class Terminal:
    """The program on a terminal of our own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.ours, theirs = pty.openpty()
        self.said = b""
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def wait_for(self, text: bytes, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < until, self.said[-3000:]
            self._read()

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def end(self) -> int:
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            self._read()
        self.process.kill()
        os.close(self.ours)
        return self.process.wait()

    def _read(self) -> None:
        if select.select([self.ours], [], [], 0.1)[0]:
            try:
                self.said += os.read(self.ours, 1 << 16)
            except OSError:
                time.sleep(0.05)


def test_on_a_terminal(server: Endpoint, environment: dict[str, str]) -> None:
    terminal = Terminal([*COMMAND, *model(server)], environment)
    terminal.wait_for(b"sandbox ready")
    terminal.type("What is 6 times 7?\r")
    terminal.wait_for(b"31m42")
    terminal.type("\x03\x11")
    assert terminal.end() == 0
    assert b"owned\x07" not in terminal.said and b"\x1b[31m42" not in terminal.said
    [run] = (Path(environment["AGENTDISTILL_STATE"]) / "chats").iterdir()
    assert len(list(read_trajectories(run))) == 1
    history = Path(environment["AGENTDISTILL_STATE"]) / "chat-history.jsonl"
    assert json.loads(history.read_text()) == "What is 6 times 7?"


def test_on_a_terminal_json_wants_a_pipe(server: Endpoint, environment: dict[str, str]) -> None:
    terminal = Terminal([*COMMAND, *model(server), "--json"], environment)
    assert terminal.end() == 2
    assert b"--json answers one question from stdin" in terminal.said


def test_a_model_that_cannot_be_opened_ends_with_one_line(environment: dict[str, str]) -> None:
    terminal = Terminal([*COMMAND, "--model", "nonsense"], environment)
    assert terminal.end() == 2
    assert b"agentdistill: no model 'nonsense'" in terminal.said and b"Traceback" not in terminal.said
