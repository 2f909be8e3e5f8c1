"""Every hostile program on every backend, as root and as an ordinary user: the figures.

    python tests/hostile/matrix.py [--sandbox SPEC ...] [--user root|user ...] [--only TEXT] [--json FILE]

Prints, for each backend and user: programs, escapes, hangs, bystanders harmed (see arena.py), and sessions
lost that nothing entitled the program to lose. Each must be 0. As root all backends are run as both; else as
whoever runs this. The landlock backend runs inside an outer bubblewrap with a read-only host, pids of its own
and no network, so that a hole harms nothing. `process` has no wall at all: its column would be a list of what
an unguarded program can do to this machine, so it is not run.

Not guaranteed: the ordinary user is a user id that nobody has (54321), in a mount namespace where this Python
can be read; for docker, in the group that may use the engine's socket.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from reach import reachable  # noqa: E402

CHECKOUT = TESTS.parent
USER = 54321
SOCKET = Path("/var/run/docker.sock")
BACKENDS = ("bubblewrap", "landlock", "docker", "docker:runsc", "gateway")
OUTSIDE = [
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--perms", "1777", "--tmpfs", "/mnt"),
    *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent", "--new-session"),
    *("--setenv", "TMPDIR", "/mnt", "--setenv", "HOME", "/mnt", "--chdir", "/mnt"),
]
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN")  # what a hardened container leaves root


def command(spec: str, user: str, only: str) -> list[str]:
    """The command line that runs one backend's programs as one user."""
    from agentdistill.clients.bubblewrap import bwrap

    inside = [sys.executable, "-B", str(Path(__file__).resolve()), "--inside", spec, "--only", only]
    if user == "user" and os.geteuid() == 0:
        inside += ["--become", str(USER)]
    outer: list[str] = []
    if spec == "landlock":
        outer = [str(bwrap()), *OUTSIDE, "--cap-drop", "ALL"]
        if os.geteuid() == 0:
            outer += [word for name in CAPABILITIES for word in ("--cap-add", name)]
    elif "--become" in inside:
        outer = [str(bwrap()), "--dev-bind", "/", "/", "--cap-add", "ALL", "--die-with-parent"]
    if "--become" in inside:
        outer += reachable(sys.base_prefix, sys.prefix, str(CHECKOUT))
    return [*outer, *inside]


def become(user: int) -> None:
    groups = [SOCKET.stat().st_gid] if SOCKET.exists() else []
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="matrix-")
    tempfile.tempdir = None


def play_all(spec: str, only: str) -> list[dict[str, object]]:
    sys.path[:0] = [str(CHECKOUT), str(Path(__file__).parent)]
    from arena import Arena, Escape, Hang, Harmed, Lost
    from programs import THEMES

    words = {Escape: "escape", Hang: "hang", Harmed: "harmed", Lost: "lost"}
    rows: list[dict[str, object]] = []
    arena = Arena(spec)
    try:
        for theme, programs in THEMES.items():
            for program in programs:
                name = f"{theme}: {program.name}"
                if only not in name:
                    continue
                started, verdict, detail = time.monotonic(), "held", ""
                try:
                    arena.play(program)
                except (Escape, Hang, Harmed, Lost) as problem:
                    verdict, detail = words[type(problem)], str(problem)
                seconds = round(time.monotonic() - started, 2)
                row = {"program": name, "verdict": verdict, "seconds": seconds, "detail": detail[:2000]}
                rows.append(row)
                if verdict != "held":
                    print(f"{spec}: {verdict}: {name}: {detail[:300]!r}", file=sys.stderr, flush=True)
    finally:
        arena.close()
    return rows


def run(spec: str, user: str, only: str) -> list[dict[str, object]] | str:
    """The rows of one backend and user; a line that says why not, if it can't be had here."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(CHECKOUT), os.environ.get("PYTHONPATH", ""))),
    }
    done = subprocess.run(command(spec, user, only), stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        return f"not run: exit code {done.returncode}"
    rows: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="All hostile programs on all backends.")
    parser.add_argument("--sandbox", action="append", help="a backend; may be given several times")
    parser.add_argument("--user", action="append", choices=["root", "user"])
    parser.add_argument("--only", default="", help="programs with this text in their name")
    parser.add_argument("--json", type=Path, help="write every verdict here")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--become", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        if asked.become:
            become(asked.become)
        with contextlib.redirect_stdout(io.StringIO()):
            rows = play_all(asked.inside, asked.only)
        print(json.dumps(rows))
        return
    users = asked.user or (["root", "user"] if os.geteuid() == 0 else ["user"])
    found: dict[str, list[dict[str, object]] | str] = {}
    verdicts = ("escape", "hang", "harmed", "lost")
    head = ("programs", "escapes", "hangs", "harmed", "lost", "seconds")
    print(f"{'backend':<14} {'user':<5}" + "".join(f"{word:>9}" for word in head))
    for spec in asked.sandbox or BACKENDS:
        for user in users:
            result = found[f"{spec} {user}"] = run(spec, user, asked.only)
            if isinstance(result, str):
                print(f"{spec:<14} {user:<5} {result}", flush=True)
                continue
            counts = [sum(row["verdict"] == verdict for row in result) for verdict in verdicts]
            seconds = sum(float(str(row["seconds"])) for row in result)
            numbers = [len(result), *counts, round(seconds)]
            print(f"{spec:<14} {user:<5}" + "".join(f"{number:>9}" for number in numbers), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
