"""Several samples a task by a scripted teacher in a real jail: graded, curated, exported."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from agentdistill import AttemptSettings, curate, export, generate, grade, load_prompts
from agentdistill.models.scripted import ScriptedModel
from agentdistill.stages.curate import read_data
from agentdistill.types import Limits, Message, Sampling, Task

TASKS = [Task("sum", "What is 19 plus 23?", "42"), Task("held-out", "What is 40 plus 2?", "42")]
CODES = (
    "total = 19 + 23\nprint(total)\nfinal_answer(total)",
    "s = 19 + 23  # the sum\nprint('sum:', s)\nfinal_answer(s)",
    "final_answer(sum([19, 23]))",
    "final_answer(19 - 23)",
)


def test_samples_to_rows(tmp_path: Path) -> None:
    codes, lock = {task.question: iter(CODES) for task in TASKS}, threading.Lock()

    def teacher(messages: Sequence[Message]) -> str:
        question = messages[-1]["content"].split("\n")[1]
        with lock:
            return f"Thought: Add them.\n<code>\n{next(codes[question])}\n</code>"

    run, data, test = tmp_path / "run", tmp_path / "data", tmp_path / "test.jsonl"
    settings = AttemptSettings(
        prompts=load_prompts("teacher"), sampling=Sampling(temperature=0.7), limits=Limits(seconds=10)
    )
    generate(TASKS, run, ScriptedModel(teacher), settings, samples=4, concurrency=1)
    grade(run)
    test.write_text(json.dumps({"id": "t", "question": "what is 40 plus 2", "answer": "42"}) + "\n")
    found = curate([run], data, load_prompts("student"), tests=[test])
    rows, _ = read_data(data)
    assert (found.attempts, found.kept) == (8, 2)
    assert found.rejected == {
        "its question overlaps with a test question": 4,
        "same code as another row of its task": 1,
        "wrong answer": 1,
    }
    assert [CODES[0] in row["messages"][-1]["content"] for row in rows] == [True, False]
    assert CODES[2] in rows[1]["messages"][-1]["content"]

    exported = export(run, tmp_path / "run.atif.jsonl", "atif", correct_only=True)
    assert (exported.rows, exported.left_out) == (6, {"wrong answer": 2})
    document = json.loads((tmp_path / "run.atif.jsonl").read_text().split("\n")[0])
    last = document["steps"][-1]
    assert last["tool_calls"][0]["arguments"]["code"] == CODES[0]
    assert "42" in last["observation"]["results"][0]["content"]
