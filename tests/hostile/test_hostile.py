"""Every hostile program once, on the backend that `--sandbox` names. See arena.py for what is judged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arena import Arena, Program
from programs import THEMES

EVERYTHING = [
    pytest.param(program, id=f"{theme}: {program.name}".encode("ascii", "replace").decode())
    for theme, programs in THEMES.items()
    for program in programs
]


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    opened = Arena(request.config.getoption("--sandbox"))
    yield opened
    opened.close()


@pytest.mark.parametrize("program", EVERYTHING)
def test_it_is_held(arena: Arena, program: Program) -> None:
    arena.play(program)
