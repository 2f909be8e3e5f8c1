"""Fixtures that tests of every kind share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sandbox", default="bubblewrap", help="the backend that tests/hostile attacks")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout the tests run in."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the checkout; skips where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data (../shared/data) is not here")
    return folder
