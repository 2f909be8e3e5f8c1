"""The command line: exit codes, one clear line for bad input, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BASE = [sys.executable, "-m", "agentdistill"]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [*BASE, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def refused(*arguments: str, cwd: Path, code: int = 2, **environment: str) -> str:
    """Run a call that must fail; the one line it says."""
    found = run(*arguments, cwd=cwd, **environment)
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("agentdistill:")]
    assert len(lines) == 1, found.stderr
    assert found.stdout == ""
    return lines[0]


GOOD = '{"id": "a", "question": "1 + 1?", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "tasks.jsonl"),
        ("", "tasks.jsonl"),
        (GOOD + "{broken\n", "2"),
        (GOOD + '{"id": "b", "answer": "2"}\n', "question"),
        (GOOD + '{"id": "b", "question": "2 + 2?", "answer": null}\n', "answer"),
    ],
)
def test_bad_task_files(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "tasks.jsonl").write_text(content)
    line = refused("generate", "tasks.jsonl", "-o", "run", "--model", "smollm2-135m", cwd=tmp_path)
    assert "tasks.jsonl" in line
    assert says in line
    assert not (tmp_path / "run").exists()


def test_candidates_need_a_temperature(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(GOOD)
    asked = ("tasks.jsonl", "-o", "run", "--model", "smollm2-135m", "--candidates", "8")
    for command in ("generate", "eval"):
        assert "8 times the same" in refused(command, *asked, "--temperature", "0", cwd=tmp_path)
        assert "candidates" in refused(command, *asked[:-1], "0", cwd=tmp_path)
    assert "no steps" in refused("eval", *asked, "--mode", "cot", cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def test_bad_rows_can_be_left_out_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(GOOD + '{"id": "b", "question": "2 + 2?", "answer": null}\n')
    found = run("tasks", "show", "tasks.jsonl", "--skip-bad-rows", "--json", cwd=tmp_path)
    assert found.returncode == 0
    assert [row["id"] for row in json.loads(found.stdout)] == ["a"]
    assert "skipped" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "tasks.jsonl", "-o", "run", "--model", "no-such-model"], "no-such-model"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "llamacpp:none.gguf"], "none.gguf"),
        (["generate", "tasks.jsonl", "-o", "run"], "--model"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "x", "--concurrency", "0"], "concurrency"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "x", "--first-thought", "nope"], "nope"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "x", "--tool", "none.py:f"], "none.py"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "x", "--prompt", "none.yaml"], "none.yaml"),
        (["generate", "tasks.jsonl", "-o", "run", "--model", "x", "--config", "none.toml"], "none.toml"),
        (["generate", "tasks.jsonl"], "--out"),
        (["eval", "tasks.jsonl", "-o", "run", "--model", "x", "--mode", "nope"], "mode"),
        (["eval", "tasks.jsonl", "-o", "run", "--model", "x", "--mode", "cot-rag"], "--retriever"),
        (["eval", "tasks.jsonl", "-o", "run", "--model", "x", "--grader", "none.py:f"], "none.py"),
        (["eval", "bbh/nope", "-o", "run", "--model", "x"], "no subset 'nope'"),
        (["eval", "math500@level", "-o", "run", "--model", "x"], "@FIELD=VALUE"),
        (["compare", "only-one"], "two or more"),
        (["tasks", "make", "nope", "-o", "t.jsonl"], "nope"),
        (["tasks", "make", "lookup", "-o", "t.jsonl", "--levels", "x"], "levels"),
        (["models", "pull", "nope"], "nope"),
        (["nope"], "nope"),
        (["sandbox", "run", "none.py"], "none.py"),
        (["sandbox", "run", "tasks.jsonl", "--sandbox", "nope"], "nope"),
        (["sandbox", "run", "tasks.jsonl", "--sandbox", "memory"], "memory"),
        (["train", "data", "-o", "c", "--student", "x", "--preset", "nope"], "nope"),
    ],
)
def test_wrong_calls_are_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "tasks.jsonl").write_text(GOOD)
    assert says in refused(*arguments, cwd=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["grade", "none"], ["curate", "none", "-o", "data"]])
def test_a_folder_that_is_no_run_is_exit_code_1(tmp_path: Path, command: list[str]) -> None:
    assert "none" in refused(*command, cwd=tmp_path, code=1)


def test_environment_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(GOOD)
    line = refused("generate", "tasks.jsonl", "-o", "run", cwd=tmp_path, AGENTDISTILL_MODEL="from-env")
    assert "from-env" in line


def test_json_is_all_of_stdout(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("print('hi')\n6 * 7\n")
    found = run("sandbox", "run", "p.py", "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert (result["logs"], result["value"], result["error"]) == ("hi\n", 42, None)
    assert list(result) == ["logs", "value", "is_final", "error", "timed_out", "seconds"]


def test_a_programs_own_error_is_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("1 / 0\n")
    found = run("sandbox", "run", "p.py", "--json", cwd=tmp_path)
    assert found.returncode == 0
    assert "ZeroDivisionError" in json.loads(found.stdout)["error"]


def test_process_sandbox_warns(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("1\n")
    found = run("sandbox", "run", "p.py", "--sandbox", "process", cwd=tmp_path)
    assert "warning" in found.stderr
