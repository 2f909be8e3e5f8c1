"""The notebooks run as they stand in a fresh kernel; what is committed of them is whole, names no machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PLOTS = {"1_quickstart": 2, "2_reading_trajectories": 3, "3_knowledge_base": 2}
SMALL = {"1_quickstart": "STEPS, HELD_OUT = 4, 2"}
"""Settings in place of those in the cell tagged `parameters`: two minutes on two cores."""
MAX_BYTES = 200_000
MACHINE = re.compile(r"(?<![\w.])/(work|tmp|root|home|usr|opt|var|mnt)/|site-packages")


@pytest.fixture
def notebooks(checkout: Path) -> Path:
    return checkout / "notebooks"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in code(notebook) for output in cell.outputs)


def test_every_notebook_is_tested(notebooks: Path) -> None:
    assert sorted(PLOTS) == sorted(path.stem for path in notebooks.glob("*.ipynb"))


@pytest.mark.parametrize("name", PLOTS)
def test_committed_outputs_are_whole_and_name_no_machine(notebooks: Path, name: str) -> None:
    path = notebooks / f"{name}.ipynb"
    assert path.stat().st_size < MAX_BYTES
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [found[0] for text in texts if (found := MACHINE.search(text))]
    assert pictures(notebook) == PLOTS[name]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("1_quickstart", marks=pytest.mark.models),
        "2_reading_trajectories",
        pytest.param("3_knowledge_base", marks=pytest.mark.models),
    ],
)
@pytest.mark.timeout(1200)
def test_it_runs(notebooks: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(notebooks / "recorded", tmp_path / "recorded")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(notebooks / f"{name}.ipynb")
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += f"\n{SMALL[name]}"
    NotebookClient(
        notebook, timeout=1100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert pictures(notebook) == PLOTS[name]
    assert any((tmp_path / "runs" / name).iterdir())
