"""A Hugging Face data set: a folder for `datasets.load_from_disk`, or a repository of the hub.

Guaranteed: the types of the columns do not depend on the rows (a column of nulls keeps its type); a folder is
there whole or not at all, and `replace` takes the place of a data set only, never of another folder; nothing
goes to the hub without a token, and a repository that is new there is private.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentdistill.errors import InfrastructureError, RunDirectoryError, UsageError
from agentdistill.types import Json

_TYPES = {
    "sample": "int64",
    "seed": "int64",
    "steps": "int64",
    "tokens_in": "int64",
    "tokens_out": "int64",
    "seconds": "float64",
    "usd": "float64",
    "correct": "bool",
}
"""Columns that are not text."""


def is_dataset(folder: Path) -> bool:
    """Whether `save` made this folder, or could have."""
    return (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()


def make(rows: Sequence[Mapping[str, Json]], what: str) -> Any:
    """A `datasets.Dataset` of rows that all have the same columns. `what` names their source in errors."""
    from datasets import Dataset, Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    columns = {name: Value(_TYPES.get(name, "string")) for name in rows[0] if name != "messages"}
    try:
        return Dataset.from_list(list(rows), features=Features({"messages": messages, **columns}))
    except (ValueError, TypeError, OverflowError) as error:
        line = " ".join(str(error).split())
        raise RunDirectoryError(f"{what} has a value that is not of its column's type: {line}") from error


def save(dataset: Any, out: Path) -> None:
    """Write the folder `out`, in place of the data set that is there. Raises RunDirectoryError."""
    incoming = out.with_name(f".{out.name}.{os.getpid()}")
    leaving = out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        with _no_bars():
            dataset.save_to_disk(str(incoming))
        if out.exists():
            out.rename(leaving)
        incoming.rename(out)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        if out.exists():
            shutil.rmtree(leaving, ignore_errors=True)
        elif leaving.exists():
            leaving.rename(out)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of `datasets`, which are a matter of the whole process."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def check_push(repository: str) -> None:
    """Raise UsageError if a push to `repository` ("NAME" or "OWNER/NAME") cannot begin."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--push {repository!r}: give OWNER/NAME") from error
    if not get_token():
        raise UsageError(
            f"--push {repository}: the hub wants a token", "set HF_TOKEN, or log in with `hf auth login`"
        )


def push(dataset: Any, repository: str, saved: Path) -> None:
    """Send a data set to the hub, where a new one is private. `saved` is where it already is.

    Raises InfrastructureError.
    """
    try:
        dataset.push_to_hub(repository, private=True)
    except Exception as error:  # the hub's client raises what its HTTP library of the day raises
        line = " ".join(str(error).split())
        raise InfrastructureError(
            f"{repository} could not be pushed: {line}",
            f"the data set is in {saved}; push again with --force",
        ) from error
