"""What holds for the source as a whole: where imports go, how fast help is, what is never committed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

HEAVY = {
    "accelerate",
    "datasets",
    "httpx",
    "huggingface_hub",
    "jinja2",
    "math_verify",
    "matplotlib",
    "numpy",
    "openai",
    "pandas",
    "peft",
    "psutil",
    "smolagents",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "xllamacpp",
}
SERVICES = ("sandbox", "retrievers")


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> set[str]:
    """Top-level names of the modules a file imports by their full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("module", ["agentdistill", "agentdistill.cli.main"])
def test_import_brings_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())


def test_help_brings_nothing_heavy() -> None:
    program = (
        "import sys\nfrom agentdistill.cli.main import main\nsys.argv = ['agentdistill', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown, _, modules = run.stdout.partition("MODULES")
    assert "quickstart" in shown
    assert not HEAVY & set(modules.split())


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    else:
        for name, child in children.items():
            yield from commands(child, *path, name)


def all_commands() -> list[tuple[tuple[str, ...], Any]]:
    from agentdistill.cli.main import app

    return list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), all_commands(), ids=lambda value: str(value)[:40])
def test_help_of_every_command_has_an_example(path: tuple[str, ...], command: Any) -> None:
    assert f"Example: agentdistill {' '.join(path)}" in (command.help or "")
    options = {option for parameter in command.params for option in parameter.opts}
    [example] = re.findall(r"Example: (.*)", command.help, re.DOTALL)
    used = set(re.findall(r"(?<=\s)-{1,2}[a-z][a-z-]*", example))
    assert used <= options, "the example uses an option that the command does not have"


def test_services_and_package_never_import_each_other(checkout: Path) -> None:
    for path in sources(checkout / "agentdistill"):
        assert not imported(path) & set(SERVICES), path
    for service in SERVICES:
        if (checkout / service).is_dir():
            for path in sources(checkout / service):
                assert "agentdistill" not in imported(path), path


def test_the_sandbox_needs_the_standard_library_only(checkout: Path) -> None:
    files = [path for path in sources(checkout / "sandbox") if path.name != "gateway.py"]
    own = {path.stem for path in files}
    for path in files:
        foreign = imported(path) - own - set(sys.stdlib_module_names)
        # The worker may look at a numpy that the program brought along; nothing else is taken.
        assert foreign <= ({"numpy"} if path.name in ("worker.py", "wire.py") else set()), path


def test_no_module_is_a_drawer_for_everything(checkout: Path) -> None:
    folders = [checkout / name for name in ("agentdistill", "tests", "benchmarks", *SERVICES)]
    names = {path.stem for folder in folders if folder.is_dir() for path in sources(folder)}
    assert not names & {"utils", "util", "helpers", "helper", "misc", "common"}


def tracked(checkout: Path) -> list[Path]:
    if shutil.which("git") is None or not (checkout / ".git").exists():
        pytest.skip("not a git checkout")
    run = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    return [checkout / name for name in run.stdout.split("\0") if name and (checkout / name).is_file()]


def test_no_tracked_file_names_the_machine_it_was_written_on(checkout: Path) -> None:
    """Folders of the checkout and of the environment differ on every machine: none may be committed."""
    names = ("work", "farm", "opt/pypi", "root/.cache", "tmp/envs")
    places = [f"{'/'}{name}/" for name in names] + ([str(checkout)] if len(checkout.parts) > 2 else [])
    for path in tracked(checkout):
        text = path.read_bytes().decode("utf-8", "replace")
        for place in places:
            # A folder of that name further down ("runs/work/a") is nobody's machine.
            hit = re.search(r"(?<![\w.)}\]])" + re.escape(place), text)
            assert hit is None, f"{path.relative_to(checkout)} names {place}"


def test_the_pinned_torch_is_no_local_build(checkout: Path) -> None:
    pins = (checkout / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in pins if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert sum(line.startswith("torch==") for line in lines) == 1
