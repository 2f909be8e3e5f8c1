"""Training as it is run: killed at any moment, with validation rows, in two processes, without a GPU."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from students import CONVERSATIONS, tiny_student

from agentdistill.errors import ConfigError
from agentdistill.training.rows import encode_rows
from agentdistill.training.sft import SftConfig, load_student_tokenizer, train

SETTINGS = SftConfig(
    lora_r=4, lora_alpha=8, lora_dropout=0.1, learning_rate=1e-2, epochs=6, batch_size=2, max_length=512
)
PROGRAM = """
import sys, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from students import CONVERSATIONS
from agentdistill.training.rows import encode_rows
from agentdistill.training.sft import SftConfig, load_student_tokenizer, train
base, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = encode_rows(CONVERSATIONS, load_student_tokenizer(base), 512).rows
looked_at = rows[: int(sys.argv[4])]
config = SftConfig(lora_r=4, lora_alpha=8, lora_dropout=float(sys.argv[5]), learning_rate=1e-2, epochs=6,
                   batch_size=2, max_length=512, checkpoint_minutes=0.0)
train(rows, config, out, base, validation=looked_at, progress=lambda p: print(p.step, flush=True))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def rows(tiny):
    return encode_rows(CONVERSATIONS, load_student_tokenizer(tiny), 512).rows


def command(checkout, tiny, out, validation=0, dropout=0.1):
    return [PROGRAM, str(tiny), str(out), str(checkout / "tests"), str(validation), str(dropout)]


def weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def losses(checkpoint):
    return [point[1] for point in json.loads((checkpoint / "training.json").read_text())["history"]]


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0, 2])
def test_killed_at_any_moment_it_ends_where_it_would_have(tiny, tmp_path, checkout, validation):
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run([sys.executable, "-c", *command(checkout, tiny, whole, validation)], check=True)
    drawn = random.Random(validation)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", *command(checkout, tiny, out, validation)], stdout=subprocess.PIPE
        )
        process.stdout.readline()  # a step, or the end
        time.sleep(drawn.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += not (out / "training.json").exists()
    assert kills > 0
    subprocess.run([sys.executable, "-c", *command(checkout, tiny, out, validation)], check=True)
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    for name, weight in weights(whole).items():
        assert torch.allclose(weights(out)[name], weight, atol=1e-5), name


@pytest.mark.slow
def test_two_processes_train_as_one(tiny, tmp_path, checkout):
    (tmp_path / "program.py").write_text(PROGRAM)
    one, two = tmp_path / "one", tmp_path / "two"
    call = command(checkout, tiny, one, 2, 0.0)
    subprocess.run([sys.executable, "-c", *call], check=True)
    call[0], call[2] = str(tmp_path / "program.py"), str(two)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    subprocess.run([*launch, "--main_process_port", "29713", *call], check=True)
    record = json.loads((two / "training.json").read_text())
    assert record["processes"] == 2
    alone = json.loads((one / "training.json").read_text())
    assert [point[2:4] for point in record["history"]] == [point[2:4] for point in alone["history"]]
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_early_stopping_keeps_the_best(tiny, rows, tmp_path):
    """Trained on four rows, looked at with two others, at a rate that soon does harm."""
    config = replace(SETTINGS, method="full", learning_rate=3e-2, epochs=40, patience=3, checkpoint_minutes=9)
    out = tmp_path / "out"
    result = train(rows[:4], config, out, tiny, validation=rows[4:])
    record = json.loads((out / "training.json").read_text())
    taken = {point.step: point.validation for point in result.history if point.validation is not None}
    assert result.steps < 80  # it was stopped
    assert record["best_step"] == min(taken, key=taken.__getitem__)
    assert record["best_step"] < result.steps
    from agentdistill.training.base import load_model

    model = load_model(out, torch.float32)
    total = trained = 0
    with torch.no_grad():
        for row in rows[4:]:
            loss = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            total, trained = total + float(loss) * row.trained, trained + row.trained
    assert total / trained == pytest.approx(min(taken.values()), abs=1e-4)


def test_qlora_is_refused_without_a_gpu(tiny, rows, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="qlora needs a CUDA GPU"):
        train(rows, replace(SETTINGS, method="qlora"), tmp_path / "out", tiny)
    assert not (tmp_path / "out").exists()


def test_a_batch_that_processes_cannot_share_is_refused(tiny, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="batch_size 2 is not a multiple of micro_batch 1 times 3"):
        train(rows, SETTINGS, tmp_path / "out", tiny)


def test_a_reporter_that_is_not_installed_is_refused(tiny, rows, tmp_path):
    with pytest.raises(ConfigError, match="pip install trackio"):
        train(rows, replace(SETTINGS, report_to="trackio"), tmp_path / "out", tiny)
