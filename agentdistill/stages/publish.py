"""A finished checkpoint for others: its model card, and the hub.

    CHECKPOINT/README.md   data, teacher, settings, scores, licences, and how to run it

Guaranteed: what the card says stands in training.json, the base's GGUF or the RUNs it was given; nothing of
`.state`, and no optimizer state, is uploaded. Not guaranteed: that the licence given is the right one; the
base model's and the data's terms are the reader's to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill.errors import RunDirectoryError, TrainingError
from agentdistill.evaluation.stats import wilson
from agentdistill.models.spec import CHECKPOINT_GGUF
from agentdistill.runs import read_run_json, read_scores, write_atomic
from agentdistill.training.checkpoint import read_record

UPLOADED = ("*.json", "*.jinja", "*.safetensors", "*.gguf", "*.md", "*.html", "*.yaml", "adapter/*")

_SETTINGS = (
    "objective",
    "method",
    "lora_r",
    "lora_alpha",
    "learning_rate",
    "epochs",
    "batch_size",
    "max_length",
)


def write_card(checkpoint: Path, runs: Sequence[Path], licence: str) -> Path:
    """Write README.md and return it; raises TrainingError, RunDirectoryError."""
    record = read_record(checkpoint)
    name = checkpoint.resolve().name
    lines = [
        "---",
        f"license: {licence}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [agentdistill, smolagents, code-agent]",
        "---",
        "",
        f"# {name}",
        "",
        "A code agent distilled with agentdistill: step by step it writes a thought, then Python between",
        "`<code>` and `</code>`. Its prompts are in `prompts.yaml`.",
        "",
        "## Run",
        "",
        f"    agentdistill chat --model {name}",
        f"    llama-server -m {CHECKPOINT_GGUF} --jinja    # then smolagents.OpenAIModel and CodeAgent",
        "",
        "## Training",
        "",
        f"- Student: `{record['provenance'].get('student', 'a local model')}`, "
        f"SHA-256 `{record['base']['sha256']}`",
        *_data(record),
        *(f"- {setting}: {record['config'][setting]}" for setting in _SETTINGS),
        f"- {record['steps']} steps, {record['trained_tokens']} trained of {record['total_tokens']} tokens, "
        f"{record['seconds']:.0f} s on {record['device']}",
        "",
        "## Scores",
        "",
        *_scores(runs),
        "",
        "## Licences",
        "",
        f"These weights: {licence}. The model it was trained from, the teacher and the tasks keep their own",
        "terms.",
        "",
    ]
    write_atomic(checkpoint / "README.md", "\n".join(lines))
    return checkpoint / "README.md"


def _data(record: dict[str, Any]) -> list[str]:
    data = record["provenance"].get("data")
    if not data:
        return [f"- Data: {record['rows']} rows"]
    lines = [f"- Data: {record['rows']} rows of correct attempts, {record['validation_rows']} held back"]
    for run in data["runs"]:
        model = run["shape"]["model"]
        teacher = model.get("file") or model.get("model") or model.get("engine")
        kept = f"{run['kept']} of {run['attempts']} attempts kept"
        lines.append(f"- Teacher: `{teacher}`, RUN {run['run']}: {kept}")
    return lines


def _scores(runs: Sequence[Path]) -> list[str]:
    if not runs:
        return ["None were given."]
    lines = ["| run | tasks | correct | 95 % interval (Wilson) |", "|---|---|---|---|"]
    for run in runs:
        tasks = Path(str(read_run_json(run)["asked"].get("tasks"))).name
        scores = read_scores(run)
        if not scores:
            raise RunDirectoryError(f"{run} has no scores", "run `agentdistill grade` on it")
        right = sum(score.correct for score in scores.values())
        low, high = wilson(right, len(scores))
        share = f"{right} of {len(scores)} ({right / len(scores):.1%})"
        lines.append(f"| {run.name} | {tasks} | {share} | {low:.1%} to {high:.1%} |")
    return lines


def push(checkpoint: Path, repository: str, *, private: bool = False) -> str:
    """Upload a finished checkpoint and return its address. Raises TrainingError with what the hub said."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    read_record(checkpoint)
    hub = HfApi(library_name="agentdistill")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository,
            folder_path=checkpoint,
            allow_patterns=list(UPLOADED),
            commit_message="agentdistill models push",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError, OSError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"the hub did not take {repository}: {said}", "hf auth login, or HF_TOKEN"
        ) from error
    return str(done.commit_url)
