"""Every endpoint, fuzzed from the service's own OpenAPI description, and what no description says."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import schemathesis
from encoders import tiny_encoder
from hypothesis import HealthCheck, given, settings
from retrieval import TOKEN, Service, build_index, start_retriever
from schemathesis import GenerationMode


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    index = build_index(tmp_path_factory.mktemp("index"), encoder)
    with start_retriever(index, "--encoder", str(encoder)) as service:
        yield service
        assert service.process.poll() is None, service.log.read_text()
        assert "Traceback" not in service.log.read_text()


@pytest.fixture(scope="module")
def description(service: Service) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("path", ["/search", "/retrieve", "/embed"])
def test_every_answer_is_one_of_the_description(
    service: Service, description: Any, path: str, mode: GenerationMode
) -> None:
    """What it calls right is answered by 200, what it calls wrong by an error of its shape, never a 500."""
    answers = set()

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=description[path]["POST"].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"})
        answers.add(response.status_code)

    check()
    assert answers == {200} if mode is GenerationMode.POSITIVE else answers & {400, 422}


def test_64_clients_send_rubbish_and_get_errors(service: Service) -> None:
    """Bodies that are broken in the middle, from many sides at once, with good ones among them."""
    good = json.dumps({"queries": ["river", "a\x00b"], "topk": 2, "return_scores": True}).encode()

    def client(seed: int) -> None:
        drawn = random.Random(seed)
        for _ in range(8):
            body = bytearray(good)
            for _ in range(drawn.randint(0, 4)):
                at = drawn.randrange(len(body))
                body[at : at + drawn.randint(0, 3)] = drawn.randbytes(drawn.randint(0, 3))
            path = drawn.choice(["/search", "/retrieve"])
            status, answer = service.post(path, bytes(body))
            assert status in (200, 400, 422), (status, bytes(body))
            assert ("result" in answer) == (status == 200), answer

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(client, range(64)))
    assert service.post("/retrieve", good)[0] == 200
    assert service.metric("waiting") == 0
