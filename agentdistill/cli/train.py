"""`agentdistill train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o

PREVIEWED = 3
"""Rows that --preview shows."""


def train(
    data: Annotated[Path, typer.Argument(help="DATA folder made by `agentdistill curate`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="CHECKPOINT folder; the same command resumes it.")],
    student: Annotated[
        str | None,
        typer.Option(help="Catalog name, llamacpp:FILE.gguf, hf:DIR or a checkpoint.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick (a small student on a CPU) or paper. \\[default: quick]")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="sft, masked-thought, or redi (from a trained student). [default: sft]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora (GPU) or full. [default: lora]")] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Share of tasks held back; stops early and keeps the best. [default: 0]"),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better loss before it stops. [default: 3]")
    ] = None,
    report_to: Annotated[
        str | None, typer.Option(help="none, tensorboard or trackio. [default: none]")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show rows with their trained tokens, and stop.")
    ] = False,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows.", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows an optimiser step.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longer rows are left out and counted.", show_default=False)
    ] = None,
    split_long: Annotated[
        bool, typer.Option("--split-long", help="Split longer rows at a step instead of leaving them out.")
    ] = False,
    lora_r: Annotated[int | None, typer.Option(help="LoRA rank.", show_default=False)] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Rows a forward pass: memory against speed.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="auto (bfloat16 on a GPU that has it), float32 or bfloat16. [default: auto]"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Order of rows, dropout.", show_default=False)] = None,
    config: o.ConfigFile = None,
    as_json: o.AsJson = False,
) -> None:
    """Fine-tune a student on curated rows, and export it for serving.

    Example: agentdistill train data/teacher -o checkpoints/student --student smollm2-135m
    """
    import math
    from dataclasses import replace

    from agentdistill.cli.console import Bars, err, print_json
    from agentdistill.config import TrainConfig, load
    from agentdistill.errors import UsageError
    from agentdistill.stages.train import prepare, student_base
    from agentdistill.stages.train import train as run
    from agentdistill.training.settings import PRESETS, REDI_EPOCHS, REDI_LEARNING_RATE
    from agentdistill.training.sft import is_main_process

    flags = {
        "student": student,
        "preset": preset,
        "objective": objective,
        "method": method,
        "validation": validation,
        "patience": patience,
        "report_to": report_to,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
        "lora_r": lora_r,
        "micro_batch": micro_batch,
        "precision": precision,
        "threads": threads,
        "seed": seed,
    }
    settings = load(TrainConfig, "train", config, flags)
    if settings.preset not in PRESETS:
        raise UsageError(f"--preset {settings.preset!r}: give one of {', '.join(PRESETS)}")
    changes = settings.model_dump(exclude={"student", "preset", "validation"}, exclude_none=True)
    if settings.objective == "redi":
        changes = {"learning_rate": REDI_LEARNING_RATE, "epochs": REDI_EPOCHS, **changes}
    preset_settings = PRESETS[settings.preset]
    if settings.batch_size is not None:
        # A preset's rows a pass need not divide another batch size.
        changes.setdefault("micro_batch", math.gcd(preset_settings.micro_batch, settings.batch_size))
    sft = replace(preset_settings, **changes)
    if preview:
        from agentdistill.training.preview import preview as show
        from agentdistill.training.preview import statistics_table

        prepared = prepare(data, student_base(settings.student), sft.max_length, split_long=split_long)
        for row in prepared.encoded.rows[:PREVIEWED]:
            err.print(f"row {row.id}: {row.trained} of {len(row.input_ids)} tokens are trained", markup=False)
            err.print(show(row, prepared.tokenizer))
        err.print(statistics_table(prepared.encoded.rows))
        long = f"longer than {sft.max_length} tokens: {len(prepared.encoded.too_long)} rows left out"
        err.print(f"{long}, {len(prepared.encoded.split)} split at a step")
        return
    result = run(
        data,
        out,
        settings.student,
        sft,
        split_long=split_long,
        validation=settings.validation,
        progress=Bars() if is_main_process() else None,
    )
    if not is_main_process():
        return
    loss = f"{result.history[0].loss:.3f} to {result.history[-1].loss:.3f}" if result.history else "-"
    if as_json:
        print_json(
            {
                "checkpoint": str(out),
                "steps": result.steps,
                "trained_tokens": result.trained_tokens,
                "total_tokens": result.total_tokens,
                "seconds": result.seconds,
                "peak_memory_mb": result.peak_memory_mb,
                "loss": [point.loss for point in result.history],
            }
        )
    err.print(
        f"{result.steps} steps over {result.total_tokens} tokens ({result.trained_tokens} trained) in "
        f"{result.seconds:.0f} s, loss {loss}. Next: agentdistill eval TASKS -o RUN --model {out}",
        markup=False,
    )
