"""Which part of an attempt a student would be trained on: the loss mask of `training/rows.py`.

With a tokenizer, token by token and exactly as the trainer sees the row, or the reason why it would be none.
Without one only what the mask is made from can be shown: the turns of the model carry loss, the others do
not. The system prompt is the RUN's own; `curate` puts the student's in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text

from agentdistill.errors import TrainingError
from agentdistill.training.rows import assistant_text, encode_row
from agentdistill.types import Trajectory
from agentdistill.visible import visible

TRAINED, IGNORED = "bold green", "dim"
_SHOWN = 40_000


def load_mask_tokenizer(base: Path) -> Any:
    """The tokenizer of a model folder, CHECKPOINT or GGUF file; raises TrainingError. Takes seconds."""
    from agentdistill.training.base import load_tokenizer

    return load_tokenizer(base)


def token_mask(trajectory: Trajectory, tokenizer: Any) -> Text:
    """The row of an attempt, what carries loss in colour and between ⟦ ⟧."""
    from agentdistill.training.preview import preview

    try:
        row = encode_row(trajectory.id, trajectory.messages, tokenizer)
    except TrainingError as error:
        return Text.assemble(
            (f"This would be no training row: {visible(str(error))}\n\n", "bold red"), turn_mask(trajectory)
        )
    head = f"{row.trained:,} of {len(row.input_ids):,} tokens carry loss\n\n"
    return Text.assemble((head, "bold"), _marked(preview(row, tokenizer)))


def turn_mask(trajectory: Trajectory) -> Text:
    """The turns of an attempt, those of the model in colour and between ⟦ ⟧."""
    text = Text()
    for message in trajectory.messages:
        trained = message["role"] == "assistant"
        shown = assistant_text(message["content"]) if trained else message["content"]
        text.append(f"{message['role']}\n", style="bold")
        text.append(
            visible(f"⟦{shown}⟧" if trained else shown, _SHOWN), style=TRAINED if trained else IGNORED
        )
        text.append("\n\n")
    return text


def _marked(row: Text) -> Text:
    """Where there is no colour, the marks say it."""
    marked = Text()
    for span in row.spans:
        piece, style = row.plain[span.start : span.end], str(span.style)
        marked.append(f"⟦{piece}⟧" if style == TRAINED else piece, style=style)
    return marked
