"""The public names: sorted, complete, importable, and cheap until used."""

import subprocess
import sys

import agentdistill


def test_public_names_are_sorted_and_importable() -> None:
    names = agentdistill.__all__
    assert names == sorted(names)
    for name in names:
        assert callable(getattr(agentdistill, name)), name


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import agentdistill, sys; print('torch' in sys.modules or 'smolagents' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
