"""The retriever of compose.yaml on a real engine: `-m docker`, after `services build --retriever`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gateway import free_port
from retrieval import VARIABLE, build_index

from agentdistill import services
from agentdistill.clients.engine import connect
from agentdistill.clients.image import RETRIEVER, image_id
from agentdistill.clients.retriever import open_retriever
from agentdistill.errors import SandboxError, UsageError

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def image() -> None:
    try:
        image_id(connect(), RETRIEVER)
    except SandboxError as error:  # 1.5 GB, which CI does not build
        pytest.skip(f"{error.message}: {error.remedy}")


def test_up_in_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    index = build_index(tmp_path)
    variables = {"AGENTDISTILL_RETRIEVER_INDEX": str(index)}
    state, new = services.up_docker("retriever", free_port(), print, lambda: None, variables, of=str(index))
    try:
        assert new and services.is_up(state)
        with open_retriever(state.url) as retriever:  # by the state's token
            assert retriever.search(["music"], 1)[0][0].id == "bach"
        again = ("retriever", None, print, lambda: None, variables)
        assert services.up_docker(*again, of=str(index)) == (state, False)
        with pytest.raises(UsageError, match="up already, for"):
            services.up_docker(*again, of="another")
        # The token is not in what everybody may see of the container's process.
        shown = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert "serve /index" in shown and state.token not in shown
    finally:
        services.down(state)
    assert not services.is_up(state) and services.read_state("retriever") is None
