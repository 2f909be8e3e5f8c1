"""Settings of the commands: flags beat environment beat file beat default.

    file          --config FILE.toml, one table a command: [generate], [eval], [train], ...; beside them
                  [prices."NAME"] for models that cost something
    environment   AGENTDISTILL_<FIELD>, for every command that has the field (AGENTDISTILL_SANDBOX=docker);
                  several values with commas between them (AGENTDISTILL_TOOL=a.py:A,b.py:B)

Guaranteed: an unknown key, a wrong type or a broken file is a ConfigError of one line that names it. Stages
never see these classes: commands turn them into the arguments that stages take.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentdistill.errors import ConfigError

ENVIRONMENT = "AGENTDISTILL_"


class Config(BaseModel):
    """Base of all command settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AttemptConfig(Config):
    """What generate, eval and chat share. Temperature and top_p not given: greedy, or with candidates the
    values of agent/self_consistency.py."""

    model: str
    limit: int | None = Field(default=None, ge=1)
    concurrency: int = Field(default=4, ge=1, le=1024)
    max_steps: int = Field(default=5, ge=1, le=100)
    max_tokens: int = Field(default=512, ge=1)
    candidates: int = Field(default=1, ge=1, le=256)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int = 0
    context: int = Field(default=4096, ge=256)
    threads: int | None = Field(default=None, ge=1)
    sandbox: str = "auto"
    step_seconds: float = Field(default=20.0, gt=0)
    memory_mb: int = Field(default=1024, ge=64)
    prompt: str | None = None
    tool: tuple[str, ...] = ()
    retriever: str | None = None
    kb: str | None = None
    kb_delivery: Literal["inject", "recall", "gated", "off"] = "inject"
    kb_choice: Literal["retrieved", "random", "filler"] = "retrieved"
    kb_lexical: bool = False
    skip_bad_rows: bool = False


class BatchConfig(AttemptConfig):
    """What generate and eval share, and chat has no use for."""

    samples: int = Field(default=1, ge=1)
    budget: float | None = Field(default=None, ge=0)
    budget_tokens: int | None = Field(default=None, ge=0)
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None


class GenerateConfig(BatchConfig):
    """`agentdistill generate`."""

    first_thought: str = "auto"


class EvalConfig(BatchConfig):
    """`agentdistill eval`."""

    mode: Literal["agent", "cot", "cot-rag"] = "agent"
    grader: str | None = None


class ChatConfig(AttemptConfig):
    """`agentdistill chat`. Without a model it is the catalog's (cli/chat.py)."""

    model: str = ""
    approve: bool = False


class PriceConfig(Config):
    """`[prices."NAME"]`: USD per million tokens read and written. NAME is the model's in its SPEC."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


class TrainConfig(Config):
    """`agentdistill train`. Fields left None keep the preset's value."""

    student: str
    preset: str = "quick"
    objective: Literal["sft", "masked-thought", "redi"] = "sft"
    method: Literal["lora", "qlora", "full"] | None = None
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    patience: int | None = Field(default=None, ge=1)
    report_to: Literal["none", "tensorboard", "trackio"] | None = None
    epochs: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=16)
    lora_r: int | None = Field(default=None, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    threads: int | None = Field(default=None, ge=1)
    seed: int | None = None


_C = TypeVar("_C", bound=Config)


def load(kind: type[_C], table: str, file: Path | None, flags: Mapping[str, Any]) -> _C:
    """Settings of one command. Flags that are None (or empty) were not given."""
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_table(file, table))
    for name, field in kind.model_fields.items():
        if (text := os.environ.get(ENVIRONMENT + name.upper())) is not None:
            values[name] = text.split(",") if field.default == () else text
    values.update({name: value for name, value in flags.items() if value is not None and value != ()})
    return _valid(kind, table, values, "--{}")


def load_price(name: str, file: Path | None) -> PriceConfig | None:
    """The price of a model, or None if the file has none. The prices of others are checked, too."""
    if file is None:
        return None
    found = {
        model: _valid(PriceConfig, f'prices."{model}"', values, "both are needed")
        for model, values in _table(file, "prices").items()
    }
    return found.get(name)


def _valid(kind: type[_C], table: str, values: Any, missing: str) -> _C:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(
                f"{table}: {name} is not given", missing.format(name.replace("_", "-"))
            ) from error
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{table}: there is no setting {name!r}") from error
        if not name:
            raise ConfigError(f"{table} must be a table, [{table}]") from error
        raise ConfigError(f"{table}: {name} = {first['input']!r}: {first['msg'].lower()}") from error


def _table(file: Path, table: str) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    for name, value in content.items():
        if not isinstance(value, dict) and name != table:
            raise ConfigError(f"{file}: {name!r} stands outside a table", f"put it under [{table}]")
    values = content.get(table, {})
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: {table} must be a table, [{table}]")
    return values
