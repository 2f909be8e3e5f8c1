"""What people install: the wheel carries the services and its data, a checkout serves what was edited."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling builds the wheel: install the extra 'dev'")

COPIED = ("agentdistill", "sandbox", "retrievers", "pyproject.toml", "README.md", "LICENSE", "compose.yaml")


@dataclass(frozen=True)
class Installed:
    """A fresh environment with agentdistill in it, used from a folder that is not the checkout."""

    bin: Path
    cwd: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AGENTDISTILL_"))}
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def output(self, *command: str) -> str:
        run = self.run(*command)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def service(self, name: str) -> Path:
        program = f"from agentdistill.services import service_folder; print(service_folder({name!r}))"
        return Path(self.output("python", "-c", program).strip())


def environment(folder: Path, *requirement: str) -> Installed:
    """A new environment that sees the packages of this one, and not our own: no .pth file is followed."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    own = sysconfig.get_path("purelib")
    Path(paths["purelib"], "tests.pth").write_text(f"{own}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    run = subprocess.run(
        [*pip, "-q", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    cwd = folder.parent / "elsewhere"
    cwd.mkdir()
    return Installed(folder / "bin", cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    run = subprocess.run([*build, str(checkout)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return environment(tmp_path_factory.mktemp("wheel") / "env", str(wheel))


def test_the_wheel_holds_what_is_needed_and_no_more(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for service in ("sandbox", "retrievers"):
        for file in (checkout / service).rglob("*.py"):
            assert f"agentdistill/_services/{file.relative_to(checkout)}" in names
    prompts = {
        f"agentdistill/prompts/{path.name}" for path in (checkout / "agentdistill/prompts").glob("*.yaml")
    }
    assert {"agentdistill/prompts/teacher.yaml", "agentdistill/prompts/student.yaml"} <= prompts <= names
    assert {name.partition("/")[0] for name in names} == {
        "agentdistill",
        f"{wheel.name.split('-py3')[0]}.dist-info",
    }
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert wheel.stat().st_size < 5_000_000


def test_recorded_attempts_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        run = json.loads(archive.read("agentdistill/recorded/run.json"))
        lines = lzma.decompress(archive.read("agentdistill/recorded/trajectories.jsonl.xz")).splitlines()
    assert run
    assert len(lines) >= 24
    assert all(json.loads(line)["task"].get("split") != "test" for line in lines)


def test_version(installed: Installed, wheel: Path) -> None:
    assert installed.output("agentdistill", "--version").strip() == f"agentdistill {wheel.name.split('-')[1]}"


def test_tasks_are_made(installed: Installed) -> None:
    installed.output("agentdistill", "tasks", "make", "lookup", "-n", "4", "--seed", "1", "-o", "tasks.jsonl")
    shown = json.loads(installed.output("agentdistill", "tasks", "show", "tasks.jsonl", "--json"))
    assert len(shown) == 4


def test_the_wheel_brings_its_own_sandbox(installed: Installed, checkout: Path) -> None:
    folder = installed.service("sandbox")
    assert folder.is_relative_to(installed.bin.parent)
    assert folder.parts[-2:] == ("_services", "sandbox")
    (installed.cwd / "program.py").write_text("print('hello')\nsum(range(10))\n")
    ran = json.loads(installed.output("agentdistill", "sandbox", "run", "program.py", "--json"))
    assert ran["logs"] == "hello\n"
    assert ran["value"] == 45
    assert ran["error"] is None

    # The proof that no file of the checkout was used: without the wheel's own there is no sandbox.
    launcher = folder / "launch.py"
    hidden = launcher.rename(folder / "hidden.py")
    try:
        run = installed.run("agentdistill", "sandbox", "run", "program.py", "--json")
        assert run.returncode == 1
    finally:
        hidden.rename(launcher)


def test_an_editable_checkout_serves_what_was_edited(tmp_path: Path, checkout: Path) -> None:
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in COPIED:
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, copy / name)
    editable = environment(tmp_path / "env", "--editable", str(copy))
    assert editable.service("sandbox") == copy / "sandbox"
    (editable.cwd / "program.py").write_text("1 + 1\n")
    ran = json.loads(editable.output("agentdistill", "sandbox", "run", "program.py", "--json"))
    assert ran["value"] == 2

    launcher = copy / "sandbox" / "launch.py"
    launcher.write_text("import sys\nsys.exit('this launcher was edited')\n")
    run = editable.run("agentdistill", "sandbox", "run", "program.py", "--sandbox", "process")
    assert run.returncode == 1
    assert "this launcher was edited" in run.stderr
