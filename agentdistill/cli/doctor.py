"""`agentdistill doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import typer

from agentdistill.cli import options as o

Check = tuple[str, bool, str, str]
"""Name, works, what was found, what to do for it to work."""


def print_checks(checks: Sequence[Check]) -> None:
    for name, ok, detail, remedy in checks:
        hint = f"  -> {remedy}" if not ok and remedy else ""
        typer.echo(f"{'ok ' if ok else 'no '} {name:<20}{detail}{hint}")


def doctor(as_json: o.AsJson = False) -> None:
    """Say what this machine can do: cores, memory, GPU, jail, Docker, models.

    Example: agentdistill doctor
    """
    from agentdistill.cli.console import print_json
    from agentdistill.clients.sandbox import STRENGTH
    from agentdistill.clients.sandbox import doctor as jails

    checks = [*_machine(), *jails(), *_models()]
    if as_json:
        print_json([dict(zip(("name", "ok", "detail", "remedy"), row, strict=True)) for row in checks])
    else:
        print_checks(checks)
    if not any(ok for name, ok, *_ in checks if name in STRENGTH):
        raise typer.Exit(1)


def _machine() -> list[Check]:
    import psutil

    from agentdistill.catalog import cache_folder

    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().available / 1e9
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return [
        ("cores", True, f"{cores}", ""),
        ("memory", memory > 4, f"{memory:.1f} GB free", "the quickstart needs about 4 GB"),
        ("disk", free > 4, f"{free:.1f} GB free in {existing}", "set AGENTDISTILL_CACHE to another disk"),
        _gpu(),
    ]


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return ("gpu", True, f"{name}, {memory:.0f} GB", "")
    return ("gpu", False, "none that torch can use", "everything runs on the CPU, slower")


def _models() -> list[Check]:
    from agentdistill import catalog

    checks = []
    for entry in catalog.entries():
        here = catalog.cached(entry.name)
        whole = here is not None and catalog.verify(entry.name)
        detail = f"{entry.title}, " + ("checksum right" if whole else "damaged" if here else "not fetched")
        remedy = f"delete {here}" if here and not whole else f"agentdistill models pull {entry.name}"
        checks.append((entry.name, whole, detail, remedy))
    return checks
