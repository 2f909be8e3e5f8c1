"""The images: of sessions in Docker and the gateway, and of the retriever. Build one, know the right one.

The context is made on this machine: the Dockerfile, the programs beside it, and the wheels for the base
image's own Python, fetched by pip. The build itself needs no network. Guaranteed: the image carries a hash
of the programs, the requirements and the Dockerfile; an image with another hash is refused, not used. Not in
the hash: the base image.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from agentdistill.clients.engine import LABEL, Engine, connect
from agentdistill.errors import SandboxError
from agentdistill.services import service_folder

BASE = "python:3.11-slim"
CONTENT = "agentdistill.content"
PIP = "pip>=24"  # installs the wheels while the image is built; it is not in the image
BUILD = "agentdistill services build"


@dataclass(frozen=True)
class Recipe:
    """An image, by the folder of its programs; `files` are what else of that folder goes into it."""

    folder: str
    tag: str
    files: tuple[str, ...]


SANDBOX = Recipe(
    "sandbox",
    "agentdistill-sandbox:latest",
    ("Dockerfile", "pack.py", "requirements.txt", "gateway-requirements.txt"),
)
RETRIEVER = Recipe("retrievers", "agentdistill-retriever:latest", ("Dockerfile", "requirements.txt"))

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PROBE = """
import json, os, sys
print(json.dumps([sys.version_info[:2], os.uname().machine, os.confstr("CS_GNU_LIBC_VERSION")]))
"""


def content_hash(recipe: Recipe = SANDBOX) -> str:
    """What the image is made of, apart from its base."""
    folder = service_folder(recipe.folder)
    return _hash([*(folder / name for name in recipe.files), *_programs(recipe)])


def image_id(engine: Engine, recipe: Recipe = SANDBOX) -> str:
    """The built image, if it is there and up to date. SandboxError otherwise."""
    tag, build = recipe.tag, BUILD + (" --retriever" if recipe is RETRIEVER else "")
    try:
        found = engine.inspect_image(tag)
    except ImageNotFound:
        raise SandboxError(f"the Docker engine has no image {tag}", build) from None
    except (DockerException, OSError) as error:
        raise SandboxError(f"the Docker engine does not answer: {error}", "see `docker info`") from error
    if (found["Config"]["Labels"] or {}).get(CONTENT) != content_hash(recipe):
        raise SandboxError(f"the image {tag} was built from other programs than these", build)
    return str(found["Id"])


def build_image(
    base: str = BASE, progress: Callable[[str], None] = lambda line: None, recipe: Recipe = SANDBOX
) -> str:
    """Build the image and return its id. `progress` gets one line at a time. SandboxError if it fails."""
    with connect() as engine:
        try:
            _have(engine, base, progress)
            with tempfile.TemporaryDirectory(prefix="agentdistill-image-") as folder:
                context = Path(folder)
                _fill(context, recipe)
                _download_wheels(context / "wheels", recipe, *_python(engine, base), progress)
                _build(engine, context, recipe, base, progress)
            engine.prune_images({"dangling": True, "label": f"{LABEL}=image"})  # the one this one replaces
            return str(engine.inspect_image(recipe.tag)["Id"])
        except (DockerException, OSError) as error:
            raise SandboxError(f"the image cannot be built: {error}", "see `docker info`") from error


def _programs(recipe: Recipe = SANDBOX) -> list[Path]:
    return sorted(
        path for path in service_folder(recipe.folder).glob("*.py") if path.name not in recipe.files
    )


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _have(engine: Engine, base: str, progress: Callable[[str], None]) -> None:
    try:
        engine.inspect_image(base)
    except ImageNotFound:
        progress(f"pulling {base}")
        try:
            engine.pull(base)
        except APIError as error:
            remedy = "give an image that you have with --base; docs/air-gapped.md makes one of packages"
            raise SandboxError(f"the base image {base} cannot be had: {error.explanation}", remedy) from None


def _python(engine: Engine, base: str) -> tuple[str, str, int]:
    """Version, machine and the minor version of glibc in the base image, asked of its own Python."""
    config = {
        "Image": base,
        "Entrypoint": ["python3"],
        "Cmd": ["-c", _PROBE],
        "Labels": {LABEL: "probe"},
        "HostConfig": {"NetworkMode": "none"},
    }
    try:
        container = engine.create_container_from_config(config)["Id"]
        try:
            engine.start(container)
            status = engine.wait(container)["StatusCode"]
            said = engine.logs(container).decode("utf-8", "replace").strip()
        finally:
            engine.remove_container(container, force=True)
    except (APIError, NotFound) as error:
        raise SandboxError(f"{base} has no python3 that runs: {error.explanation}", _wanted()) from None
    if status != 0:
        raise SandboxError(f"{base} has no usable Python: {said[-300:]}", _wanted())
    version, machine, libc = json.loads(said)
    if tuple(version) < (3, 11) or not (libc or "").startswith("glibc 2."):
        raise SandboxError(
            f"{base} has Python {version[0]}.{version[1]} on {libc or 'another libc'}", _wanted()
        )
    return f"{version[0]}.{version[1]}", machine, int(libc.split(".")[1])


def _wanted() -> str:
    return "the base needs Python 3.11 or later and glibc"


def _fill(context: Path, recipe: Recipe) -> None:
    folder = service_folder(recipe.folder)
    for name in recipe.files:
        shutil.copy(folder / name, context / name)
    (context / "programs").mkdir()
    for path in _programs(recipe):
        shutil.copy(path, context / "programs" / path.name)


def _download_wheels(
    target: Path, recipe: Recipe, version: str, machine: str, glibc: int, progress: Callable[[str], None]
) -> None:
    """The wheels for the image's Python, which need not be ours."""
    progress(f"fetching wheels for Python {version}, glibc 2.{glibc} on {machine}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(target), "--no-deps", "--only-binary=:all:", "--python-version", version]
    for minor in range(glibc, 16, -1):
        command += ["--platform", f"manylinux_2_{minor}_{machine}"]
    command += ["--platform", f"manylinux2014_{machine}", PIP]
    for name in recipe.files:
        if name.endswith(".txt"):
            command += ["-r", str(service_folder(recipe.folder) / name)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or [run.stderr[-500:]]
        remedy = "pip needs an index: set PIP_INDEX_URL, or PIP_FIND_LINKS to a folder of wheels"
        raise SandboxError(f"the wheels cannot be fetched: {lines[-1]}", remedy)


def _build(engine: Engine, context: Path, recipe: Recipe, base: str, progress: Callable[[str], None]) -> None:
    made_of = [*(context / name for name in recipe.files), *sorted((context / "programs").iterdir())]
    labels = {LABEL: "image", CONTENT: _hash(made_of)}
    events = engine.build(
        path=str(context),
        tag=recipe.tag,
        buildargs={"BASE": base},
        labels=labels,
        network_mode="none",
        rm=True,
        forcerm=True,
        decode=True,
    )
    words = ""  # what the failing command said last
    for event in events:
        if "error" in event:
            raise SandboxError(f"the image cannot be built: {event['error'].strip()} {words}".rstrip())
        for line in event.get("stream", "").splitlines():
            text = _COLOURS.sub("", line).strip()
            if text and not text.startswith("Removing intermediate"):
                words = text
            if text:
                progress(text)
