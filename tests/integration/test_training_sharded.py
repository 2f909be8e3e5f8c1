"""Training in two processes as the accelerate configurations of docs/accelerate have it: dry runs on a CPU.

By hand: `pytest -m slow tests/integration/test_training_sharded.py`; DeepSpeed's part needs `pip install
deepspeed` (DS_BUILD_OPS=0 without a CUDA compiler). What is seen: weights really are cut up, losses are those
of one process, checkpoints are written on the way, and the model that is saved is whole and the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gateway import free_port
from safetensors.torch import load_file
from students import tiny_student

PROGRAM = """
import json, sys
from pathlib import Path
from accelerate import DistributedType, PartialState
if sys.argv[5] == "fsdp":  # accelerate cuts nothing up on a CPU: told that it is on GPUs, it does
    begin = PartialState.__init__
    def as_on_gpus(self, *args, **kwargs):
        fresh = not PartialState._shared_state
        begin(self, *args, **kwargs)
        if fresh:
            self.distributed_type = DistributedType.MULTI_GPU
    PartialState.__init__ = as_on_gpus
sys.path.insert(0, sys.argv[4])
from students import CONVERSATIONS
from agentdistill.training import trainer
from agentdistill.training.rows import encode_rows
from agentdistill.training.sft import SftConfig, load_student_tokenizer, train
base, out = Path(sys.argv[1]), Path(sys.argv[2])
compute_loss = trainer.AgentTrainer.compute_loss
def seen(self, *args, **kwargs):
    parameters = list(self.model.parameters())
    held = sum(getattr(p, "_local_tensor", p).numel() for p in parameters)
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    Path(f"{out}-held-{self.accelerator.process_index}").write_text(
        json.dumps([held / whole, str(self.accelerator.distributed_type)]))
    return compute_loss(self, *args, **kwargs)
trainer.AgentTrainer.compute_loss = seen
rows = encode_rows(CONVERSATIONS, load_student_tokenizer(base), 512).rows
config = SftConfig(method=sys.argv[3], lora_r=4, lora_alpha=8, lora_dropout=0.0, learning_rate=1e-3, epochs=2,
                   batch_size=2, max_length=512, checkpoint_minutes=0.0)
train(rows, config, out, base, validation=rows[:3])
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough to be cut up: DeepSpeed leaves tensors of up to 100,000 weights whole."""
    return tiny_student(tmp_path_factory.mktemp("student"), hidden=512)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "deepspeed_zero3"])
def test_two_processes_train_as_one(
    kind: str, method: str, student: Path, tmp_path: Path, checkout: Path
) -> None:
    if kind.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def train(out: str, *launch: str) -> Path:
        call = [str(program), str(student), str(tmp_path / out), method, str(checkout / "tests"), kind]
        call[-1] = kind if launch else "alone"
        done = subprocess.run(
            [sys.executable, *launch, *call], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / out

    alone = train("alone")
    config = checkout / "docs" / "accelerate" / f"{kind}.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    two = train("two", *launch, "--main_process_port", str(free_port()))

    held = [json.loads((tmp_path / f"two-held-{rank}").read_text()) for rank in (0, 1)]
    for share, which in held:
        if kind == "ddp":
            assert share == 1
        else:
            assert share < 0.6 and which.endswith("FSDP" if kind == "fsdp" else "DEEPSPEED")
    records = [json.loads((folder / "training.json").read_text()) for folder in (alone, two)]
    assert [record["processes"] for record in records] == [1, 2]
    histories = [record["history"] for record in records]
    assert [p[1] for p in histories[1]] == pytest.approx([p[1] for p in histories[0]], abs=1e-3)
    found = [[p[6] for p in history if p[6] is not None] for history in histories]
    assert found[0] and found[1] == pytest.approx(found[0], abs=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (alone, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.allclose(weights[1][name], weight, atol=1e-4), name
