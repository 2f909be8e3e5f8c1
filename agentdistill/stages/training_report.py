"""CHECKPOINT/report.html: how training went, from training.json alone.

Guaranteed: what training.json says and nothing else, drawn again whenever it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from agentdistill.evaluation.report import ReportData, write_report
from agentdistill.training.checkpoint import read_record
from agentdistill.training.trainer import LossPoint

REPORT = "report.html"


def write_training_report(checkpoint: Path) -> Path:
    """Write the report of a finished checkpoint and return it; raises TrainingError, RunDirectoryError."""
    record = read_record(checkpoint)
    history = [LossPoint(*point) for point in record["history"]]
    config = record["config"]
    peak = max((point.learning_rate for point in history), default=0.0)
    curves = {
        "training loss": [(point.step, point.loss) for point in history],
        "validation loss": [(p.step, p.validation) for p in history if p.validation is not None],
        f"learning rate (1 is {peak:g})": [(p.step, p.learning_rate / peak) for p in history if peak],
    }
    facts = {
        "Objective": f"{config['objective']}, {config['method']}",
        "Rows": str(record["rows"]),
        "Optimizer steps": str(record["steps"]),
        "Tokens": f"{record['total_tokens']:,}",
        "Trained tokens": f"{record['trained_tokens']:,}",
        "Time": f"{record['seconds']:.0f} s on {record['device']}",
        "Peak memory": f"{record['peak_memory_mb']:.0f} MB",
    }
    if record.get("best_step") is not None:
        facts["Best step"] = f"{record['best_step']} ({record['validation_rows']} validation rows)"
    provenance = {name: str(value) for name, value in (record["versions"] | config).items()}
    provenance["base"] = record["base"]["sha256"]
    write_report(
        checkpoint / REPORT,
        ReportData(
            title=f"Training of {checkpoint.resolve().name}",
            facts=facts,
            losses={name: points for name, points in curves.items() if points},
            provenance=provenance,
        ),
    )
    return checkpoint / REPORT
