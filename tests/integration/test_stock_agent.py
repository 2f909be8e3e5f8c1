"""A student runs in a stock CodeAgent: unmodified class, stock tags, stock OpenAIModel, prompts.yaml.

The same three steps are taken once by our agent and once by the stock one against a real HTTP server; what
the student's chat template makes of both conversations must be the same text, and so the same token ids.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from smolagents import CodeAgent, LogLevel, OpenAIModel

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.grading import Grader
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.template import ChatTemplate
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.training.rows import student_chat_template
from agentdistill.types import Task

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
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


def test_three_steps_give_the_same_tokens_in_a_stock_agent(server: Server) -> None:
    prompts = load_prompts("student")
    task = Task("t", "What is 6 times 7?", "42")
    ours = ScriptedModel(REPLIES)
    with Grader() as grader:
        settings = AttemptSettings(prompts=prompts)
        thoughts = FirstThoughts(settings, grader)
        run_attempt(
            task, 0, "key", ours, settings, thoughts, lambda tools: open_sandbox("bubblewrap", tools=tools)
        )

    model = OpenAIModel("student", api_base=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none")
    stock = CodeAgent(
        tools=[],
        model=model,
        prompt_templates=yaml.safe_load(prompts.text),  # as a checkpoint's prompts.yaml holds them
        verbosity_level=LogLevel.OFF,
    )
    assert stock.run(prompts.question(task)) == 42
    model.client.close()

    template = ChatTemplate(student_chat_template(SimpleNamespace(chat_template=CHATML)))
    seen_by_stock = [template.render(request["messages"]) for request in server.asked]
    seen_by_ours = [template.render(messages) for messages in ours.calls]
    assert len(seen_by_stock) == 3
    assert "Calling tools" in json.dumps(server.asked[2]["messages"])  # the stock agent does fold it in
    assert seen_by_stock == seen_by_ours
