"""Where the services (separate programs that agentdistill starts and never imports) are found.

A checkout comes first, so that what a developer edits is what runs; an installed wheel carries the same
folders as data in `agentdistill/_services/`.
"""

from __future__ import annotations

from pathlib import Path

from agentdistill.errors import InfrastructureError

_PACKAGE = Path(__file__).resolve().parent


def service_folder(name: str) -> Path:
    """The folder of a service ("sandbox"). Raises InfrastructureError if it was not installed."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "sandbox" / "launch.py").is_file():
        return checkout / name
    folder = _PACKAGE / "_services" / name
    if folder.is_dir():
        return folder
    raise InfrastructureError(f"the service folder {name!r} is missing", "reinstall agentdistill")
