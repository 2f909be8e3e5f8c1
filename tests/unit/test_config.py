"""Settings: flags beat environment beat file beat default; what is wrong is named in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from agentdistill.config import ENVIRONMENT, EvalConfig, GenerateConfig, TrainConfig, load, load_price
from agentdistill.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT)]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('[generate]\nmodel = "from-file"\nlimit = 1\n\n[train]\nstudent = "small"\nthreads = 3\n')
    return path


def refusal(text: str, tmp_path: Path, **flags: object) -> str:
    """The one line that a file with this text, and these flags, are refused with."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(GenerateConfig, "generate", path, flags)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Precedence


def test_defaults_hold_where_nothing_is_said() -> None:
    config = load(GenerateConfig, "generate", None, {"model": "m"})
    assert (config.max_steps, config.sandbox, config.limit) == (5, "auto", None)


def test_the_file_beats_the_default(file: Path) -> None:
    config = load(GenerateConfig, "generate", file, {})
    assert (config.model, config.limit) == ("from-file", 1)


def test_the_environment_beats_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_LIMIT", "2")
    config = load(GenerateConfig, "generate", file, {})
    assert (config.model, config.limit) == ("from-file", 2)


def test_flags_beat_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_LIMIT", "2")
    assert load(GenerateConfig, "generate", file, {"limit": 3}).limit == 3


def test_a_flag_that_is_off_or_zero_was_given(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[eval]\nmodel = "m"\nskip_bad_rows = true\nseed = 7\n')
    config = load(EvalConfig, "eval", path, {"skip_bad_rows": False, "seed": 0})
    assert (config.skip_bad_rows, config.seed) == (False, 0)


def test_a_flag_that_was_not_given_beats_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_TOOL", "tools.py:a,tools.py:b")
    config = load(GenerateConfig, "generate", file, {"limit": None, "tool": ()})
    assert (config.limit, config.tool) == (1, ("tools.py:a", "tools.py:b"))


def test_a_command_reads_its_own_table_only(file: Path) -> None:
    assert load(TrainConfig, "train", file, {}).threads == 3
    assert load(GenerateConfig, "generate", file, {}).threads is None


def test_settings_cannot_be_changed_afterwards() -> None:
    config = load(GenerateConfig, "generate", None, {"model": "m"})
    with pytest.raises(ValidationError, match="frozen"):
        config.limit = 3  # type: ignore[misc]


# What is wrong


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    line = refusal('[generate]\nmodel = "m"\nlimmit = 3\n', tmp_path)
    assert line == "generate: there is no setting 'limmit'"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('limit = "many"', "limit = 'many'"),
        ("limit = 0", "limit = 0"),
        ("temperature = 2.5", "temperature = 2.5"),
        ("model = 3", "model = 3"),
        ("tool = [1]", "tool.0 = 1"),
        ("sandbox = {}", "sandbox = {}"),
    ],
)
def test_a_wrong_value_is_shown_with_its_name(tmp_path: Path, setting: str, named: str) -> None:
    model = "" if setting.startswith("model") else 'model = "m"\n'
    line = refusal(f"[generate]\n{model}{setting}\n", tmp_path)
    assert line.startswith(f"generate: {named}: input should be")


def test_a_wrong_value_in_the_environment_is_shown_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTDISTILL_MAX_STEPS", "lots")
    assert "max_steps = 'lots'" in refusal("", tmp_path, model="m")


def test_a_missing_model_says_which_flag_gives_it(tmp_path: Path) -> None:
    assert refusal("", tmp_path) == "generate: model is not given (--model)"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[generate\n", "bad.toml cannot be read"),
        ("generate = 3\n", "generate must be a table, [generate]"),
        ('model = "m"\n', "'model' stands outside a table"),
    ],
    ids=["broken TOML", "a command that is no table", "a setting outside a table"],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in refusal(text, tmp_path, model="m")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "image.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"image\.toml cannot be read"):
        load(GenerateConfig, "generate", path, {"model": "m"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load(GenerateConfig, "generate", tmp_path / "nowhere.toml", {"model": "m"})


# Prices


def test_a_price_is_found_by_the_models_name(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[generate]\nlimit = 1\n\n[prices."org/model-1.5"]\ninput = 0.25\noutput = 1\n')
    found = load_price("org/model-1.5", path)
    assert found is not None and (found.input, found.output) == (0.25, 1.0)
    assert load_price("another", path) is None
    assert load_price("another", None) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[prices.m]\ninput = 1\n", 'prices."m": output is not given (both are needed)'),
        ("[prices.m]\ninput = 1\noutput = -1\n", 'prices."m": output = -1: '),
        ("[prices.m]\ninput = 1\noutput = inf\n", 'prices."m": output = inf: '),
        ("[prices.m]\ninput = 1\noutput = 1\nper = 1000\n", "there is no setting 'per'"),
        ("[prices]\nm = 3\n", 'prices."m" must be a table'),
        ("prices = 3\n", "prices must be a table"),
    ],
)
def test_a_broken_price_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_price("another", path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
