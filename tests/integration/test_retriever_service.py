"""The retrieval service and its client from end to end: real processes, real indexes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from encoders import tiny_cross_encoder, tiny_encoder
from retrieval import ROWS, TOKEN, VARIABLE, Service, build_index, command, start_retriever

from agentdistill import catalog, services
from agentdistill.clients.retriever import open_retriever
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.clients.served_encoder import encoder_up_here
from agentdistill.errors import RetrieverError, RunMismatchError, UsageError
from agentdistill.grading import Grader
from agentdistill.knowledge.encoder import Encoder
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.runs import read_trajectories
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.curate import curate
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import grade
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import Limits, Task, TaskKind

LINGER = 1.0


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words only."""
    return build_index(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, index: Path, encoder: Path) -> Iterator[Service]:
    """Hybrid, with a re-ranker."""
    hybrid = build_index(tmp_path_factory.mktemp("hybrid"), encoder)
    reranker = tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))
    with start_retriever(hybrid, "--encoder", str(encoder), "--reranker", str(reranker)) as service:
        yield service


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTDISTILL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "state"


def ids(answer: dict[str, list[list[dict[str, str]]]]) -> list[list[str]]:
    return [[passage["id"] for passage in passages] for passages in answer["results"]]


# ---------------------------------------------------------------------- /search


def test_search_finds_passages(service: Service) -> None:
    status, answer = service.post("/search", {"query": "river in Africa", "k": 2, "mode": "sparse"})
    assert status == 200 and answer["mode"] == "sparse" and len(answer["results"]) == 1
    [[first, _]] = answer["results"]
    assert first == {
        "id": "nile",
        "title": "Nile",
        "text": "The Nile is a river in Africa. It flows through Egypt.",
        "score": first["score"],
    }
    assert first["score"] > 0


def test_a_batch_is_answered_in_its_order(service: Service) -> None:
    queries = ["capital of Italy", "xyzzy", "music", "capital of Italy", ""]
    status, answer = service.post("/search", {"queries": queries, "k": 1, "mode": "sparse"})
    assert status == 200 and ids(answer) == [["rome"], [], ["bach"], ["rome"], []]


def test_all_modes_and_the_reranker_answer(service: Service) -> None:
    found = {}
    for mode in ("sparse", "dense", "hybrid", None):
        status, answer = service.post("/search", {"query": "the river", "k": 4, "mode": mode})
        assert status == 200
        found[mode] = answer
    assert found[None] == found["hybrid"] and found[None]["mode"] == "hybrid"
    assert len(found["dense"]["results"][0]) == len(ROWS)
    status, answer = service.post("/search", {"query": "the river", "k": 4, "rerank": True})
    assert status == 200
    scores = [passage["score"] for passage in answer["results"][0]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4


def test_queries_are_embedded_once(service: Service) -> None:
    before = service.metric("cache_misses_total"), service.metric("cache_hits_total")
    for _ in range(3):
        service.post("/search", {"query": "asked three times"})
    after = service.metric("cache_misses_total"), service.metric("cache_hits_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 2)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"query": "\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"query": "a", "k": 1' + b"0" * 5000 + b"}", "no JSON"),
        ([], "a JSON list"),
        ({}, "one of query and queries"),
        ({"query": "a", "queries": ["a"]}, "one of query and queries"),
        ({"query": "a", "topk": 3}, "no field 'topk'"),
        ({"query": 7}, "no list of texts"),
        ({"queries": "text"}, "no list of texts"),
        ({"queries": []}, "no list of texts"),
        ({"queries": ["a", None]}, "no list of texts"),
        ({"query": "x" * 100_000}, "a text of 100000 characters"),
        ({"queries": ["a"] * 4097}, "4097 queries"),
        ({"queries": ["a"] * 100, "k": 1000}, "100 queries times 1000"),
        ({"query": "a", "k": 0}, "k is no whole number"),
        ({"query": "a", "k": -1}, "k is no whole number"),
        ({"query": "a", "k": 10**30}, "k is no whole number"),
        ({"query": "a", "k": 1.5}, "k is no whole number"),
        ({"query": "a", "k": True}, "k is no whole number"),
        ({"query": "a", "mode": "best"}, "no mode 'best'"),
        ({"query": "a", "mode": ["sparse"]}, "no mode"),
        ({"query": "a", "rerank": 1}, "rerank is neither"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_search_is_one_line(service: Service, asked: object, error: str) -> None:
    status, answer = service.post("/search", asked)
    assert status in (400, 422) and error in answer["error"] and answer["remedy"]
    assert set(answer) == {"error", "remedy"} and "\n" not in answer["error"] and len(answer["error"]) < 400


@pytest.mark.parametrize(
    "query", ["\x00", "a\x00b", "\ud800", "é" * 10_000, "\u2028", "river \U0001f600", " "]
)
def test_odd_texts_are_searched(service: Service, query: str) -> None:
    status, answer = service.post("/search", {"query": query})
    assert status == 200 and len(answer["results"]) == 1


def test_a_body_beyond_the_limit_is_not_read(service: Service) -> None:
    body = b'{"queries": ["' + b"x" * (9 << 20)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
        head = f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it hangs up on us in the middle
            sock.sendall(body)
        answer = sock.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")


# ---------------------------------------------------------------------- /retrieve


def test_retrieve_answers_as_search_r1_does(service: Service) -> None:
    asked = {"queries": ["river in Africa", "Bach music"], "topk": 1, "return_scores": True}
    status, answer = service.post("/retrieve", asked)
    assert status == 200 and list(answer) == ["result"]
    assert [[hit["document"]["id"] for hit in hits] for hits in answer["result"]] == [["nile"], ["bach"]]
    [[hit], [other]] = answer["result"]
    assert set(hit) == {"document", "score"} and isinstance(hit["score"], float)
    # As its client takes a document apart:
    title, text = hit["document"]["contents"].split("\n")[0], hit["document"]["contents"].split("\n")[1:]
    assert title == '"Nile"' and text == ["The Nile is a river in Africa. It flows through Egypt."]
    assert other["document"]["contents"].startswith('"Johann "Sebastian" Bach"\n')

    status, answer = service.post("/retrieve", {**asked, "return_scores": False})
    assert answer["result"][0] == [hit["document"]]


@pytest.mark.parametrize("topk", [{}, {"topk": None}, {"topk": 0}])
def test_retrieve_gives_three_unless_told(service: Service, topk: dict[str, object]) -> None:
    status, answer = service.post("/retrieve", {"queries": ["the river"], "extra": 1, **topk})
    assert status == 200 and len(answer["result"][0]) == 3


# ---------------------------------------------------------------------- who may ask


@pytest.mark.parametrize("path", ["/search", "/retrieve"])
@pytest.mark.parametrize("shown", ["", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
def test_without_the_token_nothing_is_searched(service: Service, path: str, shown: str) -> None:
    before = service.metric("queries_total")
    status, answer = service.post(path, {"queries": ["river"]}, Authorization=shown)
    assert status == 401 and VARIABLE in answer["remedy"]
    assert service.ask("GET", "/metrics", Authorization=shown)[0] == 401
    assert service.ask("GET", "/health", Authorization=shown)[0] == 200
    assert service.metric("queries_total") == before


def test_a_web_page_is_refused(service: Service) -> None:
    assert service.post("/search", {"query": "a"}, Origin="http://evil.example")[0] == 403


def test_no_token_is_for_this_machine_only(index: Path) -> None:
    with start_retriever(index, "--no-token") as service:
        assert service.post("/retrieve", {"queries": ["river"]}, Authorization="")[0] == 200
        status, answer = service.post(
            "/retrieve", {"queries": ["river"]}, Authorization="", Host="evil.example"
        )
        assert status == 403 and "127.0.0.1" in answer["remedy"]
    said = refused(index, "--no-token", "--host", "0.0.0.0")
    assert "loopback only" in said


def test_a_token_is_always_needed(index: Path, tmp_path: Path) -> None:
    assert "a token is needed" in refused(index)
    (tmp_path / "empty").touch()
    assert "holds no token" in refused(index, "--token-file", str(tmp_path / "empty"))
    (tmp_path / "token").write_text("from-a-file\n")
    with start_retriever(index, "--token-file", str(tmp_path / "token")) as service:
        assert service.post("/search", {"query": "river"})[0] == 401
        assert service.post("/search", {"query": "river"}, Authorization="Bearer from-a-file")[0] == 200


def refused(index: Path, *arguments: str) -> str:
    """What a service that can't begin says: one line."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    run = subprocess.run(
        command(index, "--port", "0", *arguments), env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode in (1, 2) and run.stderr.count("\n") == 1, run.stderr
    return run.stderr


def test_a_damaged_index_and_a_taken_port_are_one_line(index: Path, tmp_path: Path, service: Service) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert "is no index of agentdistill" in refused(tmp_path, "--token-file", __file__)
    assert "Address already in use" in refused(index, "--token-file", __file__, "--port", str(service.port))


# ---------------------------------------------------------------------- many at once, and the end


def test_64_clients_at_once(service: Service) -> None:
    def client(number: int) -> list[int]:
        return [
            service.post("/search", {"queries": [f"river {number} {turn}", "music"], "k": 2})[0]
            for turn in range(5)
        ]

    batches = service.metric("batches_total")
    with ThreadPoolExecutor(64) as pool:
        statuses = [status for found in pool.map(client, range(64)) for status in found]
    assert statuses == [200] * 320
    assert service.metric("batches_total") - batches < 300, "requests that came together were embedded alone"
    assert service.metric("waiting") == 0


def test_a_large_request_does_not_hold_up_a_small_one(service: Service) -> None:
    seconds: list[float] = []

    def large() -> None:
        started = time.monotonic()
        queries = [f"{number} river music king" * 20 for number in range(2000)]
        assert service.post("/search", {"queries": queries, "k": 5})[0] == 200
        seconds.append(time.monotonic() - started)

    thread = threading.Thread(target=large)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    assert service.post("/search", {"query": "a small one"})[0] == 200
    small = time.monotonic() - started
    thread.join()
    assert small < seconds[0] / 3


def test_sigterm_ends_it_in_order(index: Path) -> None:
    with start_retriever(index) as service:
        assert service.post("/search", {"query": "river"})[0] == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert "Traceback" not in service.log.read_text()


def test_clients_that_hang_up_leave_nothing(service: Service) -> None:
    for body in (b"", b"POST /search HTTP/1.1\r\n", b"\x00\xff\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port)) as sock:
            sock.sendall(body)
    head = (
        f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 500\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as sock:
        sock.sendall(head.encode())
    assert service.post("/search", {"query": "river"})[0] == 200
    assert service.metric("waiting") == 0 and "Traceback" not in service.log.read_text()


# ---------------------------------------------------------------------- the client


def test_a_client_by_url(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetrieverError, match="it wants a token .*" + VARIABLE):
        open_retriever(service.url)
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(RetrieverError, match="the token is wrong"):
        open_retriever(service.url)
    monkeypatch.setenv(VARIABLE, TOKEN)
    with open_retriever(f"{service.url}/") as retriever:
        [found, none] = retriever.search(["river in Africa", ""], 1)
        assert [passage.id for passage in found] == ["nile"] and none == []
        assert len(retriever.search(["music"] * 700, 1)) == 700
        assert re.fullmatch("[0-9a-f]{64}", retriever.fingerprint()["index"])
        with pytest.raises(UsageError, match="10001 characters"):
            retriever.search(["x" * 10_001], 1)
        with pytest.raises(UsageError, match="whole number"):
            retriever.search(["river"], 0)


def up(service: Service, state: Path) -> None:
    """As if `agentdistill services up` had started it."""
    process = psutil.Process(service.process.pid)
    state.mkdir(parents=True)
    known = services.State("retriever", "local", service.port, TOKEN, process.pid, process.create_time())
    (state / "retriever.json").write_text(json.dumps(dataclasses.asdict(known)))


def test_embed_gives_the_encoders_own_vectors(service: Service, encoder: Path, state: Path) -> None:
    own = Encoder(encoder)
    assert encoder_up_here(own.name) is None  # nothing is up
    up(service, state)
    assert encoder_up_here("0" * 16) is None  # another encoder
    served = encoder_up_here(own.name)
    assert served is not None and served.name == own.name
    texts = [f"the river number {i}" for i in range(300)] + ["", "the river number 7"]
    vectors = served.encode(texts)
    assert vectors.shape == (302, 24)
    assert np.allclose(vectors, own.encode(texts), atol=1e-5)
    assert served.encode([]).shape[0] == 0
    served.close()


def test_embed_needs_vectors_and_a_bounded_list(service: Service, index: Path, state: Path) -> None:
    status, answer = service.post("/embed", {"texts": ["a"] * 257})
    assert status == 422 and answer["remedy"] == "at most 256 in one request"
    assert service.post("/embed", {})[0] == 422
    assert service.ask("POST", "/embed", b"{}", Authorization="Bearer wrong")[0] == 401
    with start_retriever(index) as words_only:
        status, answer = words_only.post("/embed", {"texts": ["river"]})
        assert status == 422 and answer["error"] == "there is no encoder here"
        up(words_only, state)
        assert encoder_up_here("0" * 16) is None


def test_an_encoder_whose_service_has_ended_is_an_error(
    encoder: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdistill.clients.retriever.RETRY_SECONDS", 0.5)
    with start_retriever(build_index(tmp_path, encoder), "--encoder", str(encoder)) as service:
        up(service, state)
        served = encoder_up_here(Encoder(encoder).name)
        assert served is not None
    with pytest.raises(RetrieverError, match="no retriever answers"):
        served.encode(["river"])
    served.close()
    assert encoder_up_here(served.name) is None


@pytest.mark.parametrize("spec", ["ftp://host", "http://host:port", "http://[::1", "http://"])
def test_an_address_that_is_none(spec: str) -> None:
    with pytest.raises((UsageError, RetrieverError)):
        open_retriever(spec)


def test_nothing_there_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdistill.clients.retriever.RETRY_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(RetrieverError, match=r"no retriever answers.*services up --index"):
        open_retriever(url)
    with pytest.raises(RetrieverError, match=r"is no index .*index build"):
        open_retriever(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(RetrieverError, match="no index of agentdistill"):
        open_retriever(tmp_path)


def test_a_service_that_starts_late_is_waited_for(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    with start_retriever(index) as service:
        retriever = open_retriever(service.url)
        port = service.port
    threading.Timer(
        1.0, lambda: again.append(subprocess.Popen(late, env={**os.environ, VARIABLE: TOKEN}))
    ).start()
    late, again = command(index, "--port", str(port)), []  # type: ignore[var-annotated]
    try:
        assert retriever.search(["Tiber"], 1)[0][0].id == "rome"
    finally:
        retriever.close()
        again[0].terminate()
        again[0].wait()


def test_another_index_at_the_same_address_is_no_answer(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that has begun with one index not a single search goes to another."""
    monkeypatch.setenv(VARIABLE, TOKEN)
    other = build_index(tmp_path, rows=ROWS[:2])
    with start_retriever(index) as service:
        retriever = open_retriever(service.url)
        assert retriever.search(["river"], 1)[0]
    lost = pytest.raises(RetrieverError, match="another index than before")
    with start_retriever(other, port=service.port), retriever, lost:
        retriever.search(["river"], 1)


# ---------------------------------------------------------------------- the one that starts by itself


def processes(state: Path) -> list[services.State]:
    names = [path.stem for path in state.glob("retriever-*.json")]
    found = [services.read_state(name) for name in names]
    return [one for one in found if one is not None and services.is_running(one)]


def wait_until_gone(state: Path, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while processes(state):
        assert time.monotonic() < until, "the service stays behind"
        time.sleep(0.05)


def test_an_index_folder_gets_a_service_that_all_share(index: Path, state: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_retriever(index, linger=LINGER), range(4)))
    [running] = processes(state)
    secret = running.token
    assert all(secret not in argument for argument in psutil.Process(running.pid).cmdline())
    assert (state / f"{running.service}.json").stat().st_mode & 0o77 == 0
    program = (
        "import sys; from agentdistill.clients.retriever import open_retriever\n"
        "print(open_retriever(sys.argv[1]).search(['music'], 1)[0][0].id)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(index)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "bach\n"
    assert [one.pid for one in processes(state)] == [running.pid]
    for retriever in opened[:3]:
        retriever.close()
    time.sleep(LINGER + 1.5)
    assert opened[3].search(["music"], 1)[0][0].id == "bach", "it has ended under its last user"
    opened[3].close()
    wait_until_gone(state)


def test_a_killed_user_keeps_nothing_alive(index: Path, state: Path) -> None:
    program = (
        "import sys, time; from agentdistill.clients.retriever import open_retriever\n"
        f"retriever = open_retriever(sys.argv[1], linger={LINGER}); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(index)], stdout=subprocess.PIPE) as user:
        assert user.stdout is not None and user.stdout.readline() == b"open\n"
        assert len(processes(state)) == 1
        user.kill()
    wait_until_gone(state)


def test_a_killed_service_is_started_again(index: Path, state: Path) -> None:
    with open_retriever(index, linger=LINGER) as retriever:
        [running] = processes(state)
        os.kill(running.pid, signal.SIGKILL)
        assert retriever.search(["music"], 1)[0][0].id == "bach"
        assert [one.pid for one in processes(state)] != [running.pid]
    wait_until_gone(state)


def test_a_changed_index_gets_a_service_of_its_own(tmp_path: Path, state: Path) -> None:
    from retrievers.build import remove

    index = build_index(tmp_path)
    with open_retriever(index, linger=LINGER) as old:
        remove(index, ["bach"], lambda *_: None)
        with open_retriever(index, linger=LINGER) as new:
            assert len(processes(state)) == 2
            assert old.search(["music"], 1)[0][0].id == "bach" and new.search(["music"], 1) == [[]]
            assert old.fingerprint() != new.fingerprint()
    wait_until_gone(state)


def test_an_index_that_cannot_be_opened_says_why(index: Path, tmp_path: Path, state: Path) -> None:
    copied = tmp_path / "damaged"
    subprocess.run(["cp", "-r", str(index), str(copied)], check=True)
    [passages] = copied.rglob("passages.bin")
    passages.write_bytes(passages.read_bytes()[:-1])
    with pytest.raises(RetrieverError, match=r"is damaged: .*passages.bin"):
        open_retriever(copied)
    assert processes(state) == []


def test_vectors_of_an_unknown_encoder_need_a_service(encoder: Path, tmp_path: Path) -> None:
    assert all(known.sha256 for known in catalog.ENCODERS)
    with pytest.raises(RetrieverError, match=r"not in the catalog .*serve INDEX --encoder"):
        open_retriever(build_index(tmp_path, encoder))


# ---------------------------------------------------------------------- an agent that searches

TASK = Task("t1", "Which river is in Africa?", "Nile", kind=TaskKind.QA)
SCRIPT = [
    "Thought: Look it up.\n<code>\nprint(search('river in Africa'))\n</code>",
    "Thought: It is the Nile.\n<code>\nfinal_answer('Nile')\n</code>",
]


def test_an_agent_searches_from_its_jail(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    with open_retriever(service.url) as retriever, Grader() as grader:
        settings = AttemptSettings(
            prompts=load_prompts("teacher"), retriever=retriever, limits=Limits(seconds=5)
        )
        open_session = partial(lambda tools: open_sandbox("bubblewrap", tools=tools, limits=settings.limits))
        thoughts = FirstThoughts(settings, grader)
        found = run_attempt(TASK, 0, "key", ScriptedModel(SCRIPT), settings, thoughts, open_session)
    assert found.answer == "Nile"
    assert "def search(query: string)" in found.messages[0]["content"]
    assert "[1] Nile: The Nile is a river in Africa." in found.steps[0].observation
    [made] = found.steps[0].tool_calls
    assert made.arguments == {"query": "river in Africa"}
    assert made.result["passages"][0] == "nile" and list(made.result) == ["passages"]


def test_a_lost_retriever_is_no_wrong_answer(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    monkeypatch.setattr("agentdistill.clients.retriever.RETRY_SECONDS", 0.3)
    with start_retriever(index) as service:
        retriever = open_retriever(service.url)
    settings = AttemptSettings(prompts=load_prompts("student"), retriever=retriever, limits=Limits(seconds=5))
    model = ScriptedModel(SCRIPT)
    with Grader() as grader, pytest.raises(RetrieverError, match="no retriever answers"):
        open_session = partial(lambda tools: open_sandbox("bubblewrap", tools=tools, limits=settings.limits))
        run_attempt(TASK, 0, "key", model, settings, FirstThoughts(settings, grader), open_session)
    assert len(model.calls) == 1, "the agent went on without its search"


def test_a_run_is_bound_to_its_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    other = build_index(tmp_path, rows=ROWS[:2])
    out = tmp_path / "run"

    def run(index: Path | None) -> None:
        settings = AttemptSettings(prompts=load_prompts("teacher"), limits=Limits(seconds=5))
        if index is None:
            generate([TASK], out, ScriptedModel(SCRIPT), settings)
            return
        with start_retriever(index) as service, open_retriever(service.url) as retriever:
            from dataclasses import replace

            generate([TASK], out, ScriptedModel(SCRIPT), replace(settings, retriever=retriever))

    run(index)
    run(index)
    with pytest.raises(RunMismatchError, match=r"retriever\.index"):
        run(other)
    with pytest.raises(RunMismatchError, match="retriever"):
        run(None)
    [trajectory] = read_trajectories(out)
    assert trajectory.steps[0].tool_calls[0].result["passages"][0] == "nile"

    grade(out)
    curate([out], tmp_path / "data", load_prompts("student"))
    [row] = [json.loads(line) for line in (tmp_path / "data" / "rows.jsonl").read_text().splitlines()]
    assert "def search(query: string)" in row["messages"][0]["content"], "a student has to know its tool"
