"""The real thing, small: teacher -> jail -> grade -> curate -> five training steps -> student."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentdistill.models.spec import CHECKPOINT_GGUF, open_model
from agentdistill.prompts import Prompts, load_prompts
from agentdistill.runs import read_run_json, read_trajectories
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.curate import curate, read_data
from agentdistill.stages.evaluate import evaluate
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import grade
from agentdistill.stages.train import train
from agentdistill.tasks.families import make_tasks
from agentdistill.training.sft import PRESETS
from agentdistill.types import Sampling

pytestmark = [pytest.mark.models, pytest.mark.timeout(1200)]


def test_teacher_to_student(tmp_path: Path) -> None:
    tasks = [
        *make_tasks("lookup", 3, 5, levels=(1,)),
        *make_tasks("arithmetic", 2, 5, levels=(1,)),
    ]
    settings = AttemptSettings(
        prompts=load_prompts("teacher"),
        sampling=Sampling(max_tokens=200),
        max_steps=2,
        first_thought="content",
    )
    teacher = open_model("qwen2.5-coder-1.5b", slots=2, context=2048)
    try:
        made = generate(tasks, tmp_path / "teacher", teacher, settings, concurrency=2)
        again = generate(tasks, tmp_path / "teacher", teacher, settings, concurrency=2)
    finally:
        teacher.close()
    assert (made.finished, made.parked) == (5, 0)
    assert (again.finished, again.skipped) == (0, 5)
    record = read_run_json(tmp_path / "teacher")
    assert record["shape"]["model"]["sha256"].startswith("cc324af070c2")
    assert record["asked"]["sandbox"] == "bubblewrap"
    attempts = list(read_trajectories(tmp_path / "teacher"))
    assert any(t.first_thought.prefill == "tokens" for t in attempts)

    graded = grade(tmp_path / "teacher")
    assert graded.all.successes >= 1, "the teacher solved none of five easy tasks"
    found = curate([tmp_path / "teacher"], tmp_path / "data", load_prompts("student"))
    assert found.kept >= 1
    rows, _ = read_data(tmp_path / "data")
    assert "Calling tools" not in json.dumps(rows)

    config = replace(PRESETS["quick"], max_steps=5)
    trained = train(tmp_path / "data", tmp_path / "student", "smollm2-135m", config)
    assert trained.steps == 5
    assert trained.history[-1].loss < trained.history[0].loss

    prompts = Prompts((tmp_path / "student" / "prompts.yaml").read_text())
    assert prompts.sha256 == load_prompts("student").sha256
    student = open_model(str(tmp_path / "student"), slots=2, context=1024)
    assert student.fingerprint()["file"] == CHECKPOINT_GGUF
    try:
        held_out = make_tasks("lookup", 2, 6, split="test", levels=(1,))
        summary = evaluate(
            held_out,
            tmp_path / "eval",
            student,
            AttemptSettings(prompts=prompts, sampling=Sampling(max_tokens=60), max_steps=1),
            concurrency=2,
        )
    finally:
        student.close()
    assert summary.all.n == 2
    assert summary.failed == 0

    from agentdistill.models.transformers_model import TransformersModel

    engine = TransformersModel(str(tmp_path / "student"))
    question = [{"role": "user", "content": "Count: one, two, three"}]
    first, second = engine.sample(
        question,  # type: ignore[arg-type]
        2,
        prefix="one, two,",
        stop=["five"],
        sampling=Sampling(max_tokens=12),
    )
    # Greedy, so equal; the prompt is read once, so the first alone is charged for it.
    assert (first.tokens_in > 0, second.tokens_in) == (True, 0)
    assert replace(first, tokens_in=0) == second
    assert first.prefill == "tokens"
    assert "five" not in first.text
    assert 1 <= first.tokens_out <= 12
    assert list(engine.fingerprint()["weights"]) == ["model.safetensors"]
