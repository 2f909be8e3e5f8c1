"""Training: label tokens/s of `agentdistill train` beside stock TRL's SFTTrainer, one thread, one LoRA.

    python benchmarks/training.py [RUN...] [--rows 200] [--only NAME] [--student smollm2-135m]

Rows are those of the RUNs (default: the attempts that ship with the package), one pass over all of them, in
a process of its own for each variant; the same rows, weights and LoRA (`paper`: r 64, all linear layers,
but no dropout, so that the losses can be compared), 8 rows an optimiser step. Stock gets what is best for
it on a CPU: no gradient checkpointing, nothing cut, grouped by length, batches of 1, 4 and 8, exact labels.
Printed: label tokens a second over the whole pass, by the clock of the process's CPU time (with one thread
the wall clock's on an idle machine, and less disturbed by others on a busy one), peak memory of the
process, the loss of the first step (equal weights: equal in all variants up to the order of rows), our ratio
to the best stock variant, and ours in bf16 to ours in float32, which all others are. `packing` says by how
much a row's loss packed with others differs from its loss alone, at most over all rows.
"""

from __future__ import annotations

import argparse
import json
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

STOCK = {"stock, batch 1": 1, "stock, batch 4": 4, "stock, batch 8": 8}
OURS = {"ours, 1 row": 1, "ours, 2 rows": 2, "ours, 4 rows": 4, "ours, 8 rows": 8}
HALF = {"ours, 4 rows, bf16": 4}
PACKED = "packing"
STEP = 8
"""Rows an optimiser step, in all variants."""


def conversations(runs: list[Path], limit: int) -> list[tuple[str, Any]]:
    from agentdistill.prompts import load_prompts
    from agentdistill.runs import read_trajectories
    from agentdistill.stages.curate import student_messages

    with tempfile.TemporaryDirectory() as folder:
        shipped = resources.files("agentdistill").joinpath("recorded")
        for name in ("run.json", "trajectories.jsonl"):
            plain, packed = shipped.joinpath(name), shipped.joinpath(f"{name}.xz")
            content = lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
            Path(folder, name).write_bytes(content)
        prompts = load_prompts("student")
        found = [
            (f"{run.name}/{attempt.id}", student_messages(attempt, prompts))
            for run in runs or [Path(folder)]
            for attempt in read_trajectories(run)
            if attempt.messages[-1]["role"] == "assistant"
        ]
    return found[:limit]


def lora(config: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )


def train_stock(rows: Any, config: Any, base: Path, batch: int, out: Path) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from agentdistill.training.base import load_model
    from agentdistill.training.sft import load_student_tokenizer

    columns = [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in rows]
    trainer = SFTTrainer(
        model=load_model(base, torch.float32),
        args=SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=STEP // batch,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            train_sampling_strategy="group_by_length",
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(columns),
        processing_class=load_student_tokenizer(base),
        peft_config=lora(config),
    )
    trainer.train()
    return {"first_loss": trainer.state.log_history[0]["loss"]}


def train_ours(rows: Any, config: Any, base: Path, out: Path) -> dict[str, float]:
    from agentdistill.training.sft import train

    return {"first_loss": train(rows, config, out, base).history[0].loss}


def clocked() -> dict[str, float]:
    """Wall and CPU seconds that SFTTrainer.train takes, which ours inherits; filled in when it has ended."""
    from trl import SFTTrainer

    spent: dict[str, float] = {}
    original = SFTTrainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = original(self, *args, **kwargs)
        spent.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
        return result

    SFTTrainer.train = train
    return spent


def packing_difference(rows: Any, base: Path) -> dict[str, float]:
    """Every row alone and among seven others: the largest difference of its mean loss."""
    import torch

    from agentdistill.training.base import load_model
    from agentdistill.training.packing import WITHIN_ROWS, collate, row_losses

    alone_model, model = load_model(base, torch.float32), load_model(base, torch.float32)
    model.set_attn_implementation(WITHIN_ROWS)
    largest = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), STEP):
            some = rows[start : start + STEP]
            batch = collate([{"input_ids": row.input_ids, "labels": row.labels} for row in some])
            for row, packed in zip(some, row_losses(model, batch), strict=True):
                labels = torch.tensor([row.labels])
                alone = alone_model(torch.tensor([row.input_ids]), labels=labels).loss
                largest = max(largest, abs(float(packed) - float(alone)))
    return {"difference": largest}


def measure(name: str, runs: list[Path], limit: int, student: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    from dataclasses import replace

    from agentdistill.stages.train import student_base
    from agentdistill.training.rows import encode_rows
    from agentdistill.training.sft import PRESETS, load_student_tokenizer

    base = student_base(student)
    rows = encode_rows(conversations(runs, limit), load_student_tokenizer(base), 10_240).rows
    config = replace(PRESETS["paper"], lora_dropout=0.0, epochs=1.0, batch_size=STEP, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        spent = clocked()
        if name == PACKED:
            found = packing_difference(rows, base)
        elif name in STOCK:
            found = train_stock(rows, config, base, STOCK[name], out)
        else:
            precision = "bfloat16" if name in HALF else "float32"
            settings = replace(config, micro_batch=(OURS | HALF)[name], precision=precision)
            found = train_ours(rows, settings, base, out)
    size = {
        "rows": len(rows),
        "labels": sum(row.trained for row in rows),
        "tokens": sum(len(row.input_ids) for row in rows),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return size | found | spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--only", action="append", choices=[*STOCK, *OURS, *HALF, PACKED])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.runs, given.rows, given.student)))
        return
    speeds: dict[str, float] = {}
    for name in given.only or [*STOCK, *OURS, *HALF, PACKED]:
        command = [sys.executable, __file__, *map(str, given.runs), "--child", name]
        command += ["--rows", str(given.rows), "--student", given.student]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        what = f"{name:<16} {found['rows']} rows, {found['labels']} labels of {found['tokens']} tokens"
        if name == PACKED:
            print(f"{what}: packed differs from alone by {found['difference']:.1e} at most", flush=True)
            continue
        speeds[name] = found["labels"] / found["cpu"]
        print(
            f"{what}: {speeds[name]:6.1f} label tokens a CPU second, {found['cpu']:.0f} s "
            f"({found['wall']:.0f} s wall), peak {found['peak']:.0f} MB, "
            f"first loss {found['first_loss']:.4f}",
            flush=True,
        )
    stock = max((speed for name, speed in speeds.items() if name in STOCK), default=0.0)
    ours = max((speed for name, speed in speeds.items() if name in OURS), default=0.0)
    if stock and ours:
        print(f"ratio of the best: {ours / stock:.2f}")
    for name, rows in HALF.items():
        same = f"ours, {rows} rows"
        if name in speeds and same in speeds:
            print(f"ratio of bf16 to float32, {rows} rows a pass: {speeds[name] / speeds[same]:.2f}")


if __name__ == "__main__":
    main()
