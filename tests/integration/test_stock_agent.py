"""A student runs in a stock CodeAgent: unmodified class, stock tags, stock OpenAIModel, prompts.yaml.

The same three steps are taken once by our agent and once by the stock one against a real HTTP server; what
the student's chat template makes of both conversations must be the same text, and so the same token ids.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from smolagents import ActionStep, CodeAgent, LogLevel, OpenAIModel
from students import CHATML, serve, tiny_student

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.grading import Grader
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.template import ChatTemplate
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.training.export import export_gguf
from agentdistill.training.rows import IGNORED, encode_rows, student_chat_template
from agentdistill.training.sft import SftConfig, load_student_tokenizer, train
from agentdistill.types import Task

REPLIES = [
    "Thought: Look first.\n<code>\nx = 6\nprint(x)\n",
    "Thought: Multiply.\n<code>\ny = x * 7\ny\n",
    "Thought: Done.\n<code>\nfinal_answer(y)\n",
]


class Server(ThreadingHTTPServer):
    """Answers chat completions with REPLIES and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = REPLIES[len(self.server.asked)]
        self.server.asked.append(body)
        message = {"role": "assistant", "content": text}
        reply = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "student",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


PROMPTS = load_prompts("student")
TASK = Task("t", "What is 6 times 7?", "42")


def our_three_steps() -> ScriptedModel:
    """The conversations our agent sends while it takes REPLIES' steps, in `calls`."""
    ours = ScriptedModel(REPLIES)
    with Grader() as grader:
        settings = AttemptSettings(prompts=PROMPTS)
        thoughts = FirstThoughts(settings, grader)
        run_attempt(
            TASK, 0, "key", ours, settings, thoughts, lambda tools: open_sandbox("bubblewrap", tools=tools)
        )
    return ours


def stock_run(address: str, **how: Any) -> tuple[Any, CodeAgent]:
    """Answer and agent of an unmodified smolagents at an OpenAI-compatible server."""
    model = OpenAIModel("student", api_base=f"{address}/v1", api_key="none", **how)
    stock = CodeAgent(
        tools=[],
        model=model,
        prompt_templates=yaml.safe_load(PROMPTS.text),  # as a checkpoint's prompts.yaml holds them
        verbosity_level=LogLevel.OFF,
        max_steps=4,
    )
    answer = stock.run(PROMPTS.question(TASK))
    model.client.close()
    return answer, stock


def test_three_steps_give_the_same_tokens_in_a_stock_agent(server: Server) -> None:
    ours = our_three_steps()
    answer, _ = stock_run(f"http://127.0.0.1:{server.server_address[1]}")
    assert answer == 42

    template = ChatTemplate(student_chat_template(SimpleNamespace(chat_template=CHATML)))
    seen_by_stock = [template.render(request["messages"]) for request in server.asked]
    seen_by_ours = [template.render(messages) for messages in ours.calls]
    assert len(seen_by_stock) == 3
    assert "Calling tools" in json.dumps(server.asked[2]["messages"])  # the stock agent does fold it in
    assert seen_by_stock == seen_by_ours


def test_a_trained_student_takes_its_steps_in_a_stock_agent_on_llamacpp(tmp_path: Path) -> None:
    """Trained until it knows three steps by heart, exported, served by llama.cpp: a stock agent gets 42.

    Were one token of the history another than in training, the student would be lost.
    """
    conversation = [*our_three_steps().calls[2], {"role": "assistant", "content": REPLIES[2] + "</code>"}]
    base = tiny_student(tmp_path / "base", hidden=64, vocabulary=500)
    tokenizer = load_student_tokenizer(base)
    rows = encode_rows([("row", conversation)], tokenizer, 2048).rows
    by_heart = SftConfig(method="full", learning_rate=5e-3, epochs=120, batch_size=1, checkpoint_minutes=9)
    checkpoint = train(rows, by_heart, tmp_path / "student", base).checkpoint
    server = serve(export_gguf(checkpoint, tmp_path / "student.gguf", "f16"))

    answer, stock = stock_run(server.listening_address, temperature=0, max_tokens=200)
    assert answer == 42
    read = [step.token_usage.input_tokens for step in stock.memory.steps if isinstance(step, ActionStep)]
    ids, labels = rows[0].input_ids, rows[0].labels
    begins = [i for i in range(1, len(ids)) if labels[i] != IGNORED and labels[i - 1] == IGNORED]
    assert read == begins
