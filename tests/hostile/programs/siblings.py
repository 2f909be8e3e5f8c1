"""Candidates of one step against each other and against the session they were forked from."""

from __future__ import annotations

import time

from arena import Attack, Program, played

from agentdistill.types import ErrorKind
from programs.protocol import FORGE

WORDS = (None, ErrorKind.DIED, ErrorKind.TIMEOUT, ErrorKind.EXCEPTION, ErrorKind.MEMORY)


def against_sibling(name: str, attacker: str, honest: bool) -> Program:
    """`honest`: the sibling's result must be right. If not, it may also have died: that is its failure, as data."""

    @played(name, may_lose_state=not honest)
    def play(attack: Attack) -> None:
        mine = "import time\ntime.sleep(.3)\nopen('mine', 'w').write('mine')\nx = 'mine'\nx + open('mine').read()"
        bad, good = attack.run(attacker, mine)
        assert bad.error_kind in WORDS
        if honest or good.error is None:
            assert good.value == "minemine", good
            attack.keep(1)
            if honest:
                assert attack.value("x") == "mine"

    return play


KILL_ALL = """
import os
for pid in range(2, 2000):
    if pid != os.getpid():
        try: os.kill(pid, 9)
        except OSError: pass
"""
PROGRAMS: list[Program] = [
    against_sibling("a candidate that kills everybody", KILL_ALL, honest=False),
    against_sibling("a candidate that stops everybody", KILL_ALL.replace("9)", "19)"), honest=False),
    against_sibling("a candidate that dies", "import os\nos._exit(0)", honest=True),
    against_sibling("a candidate that never ends", "while True: pass", honest=True),
    against_sibling("a candidate that eats memory", "x = []\nwhile True: x.append(bytearray(1 << 20))", honest=True),
    against_sibling("a candidate that fills its folder", "import os\nfor i in range(100): open(f'f{i}', 'wb').write(bytes(1 << 18))", honest=False),
    against_sibling("a candidate that bombs", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", honest=False),
    against_sibling("a candidate that forges", FORGE + "for run in range(50): forged(run, 'ESCAPED')", honest=True),
    against_sibling("a candidate that floods", FORGE + "while True: send(b'{\"op\": \"call\", \"id\": 1, \"name\": \"echo\", \"args\": [], \"kwargs\": {}}')", honest=False),
    against_sibling("a candidate that talks without end", "import os\nwhile True: os.write(1, b'x' * 4096)", honest=True),
    against_sibling("a candidate that closes everything", "import os\nos.closerange(0, 256)\nwhile True: pass", honest=True),
    against_sibling("a candidate that spawns threads", "import threading\nfor _ in range(50): threading.Thread(target=lambda: all(iter(lambda: 1, 0)), daemon=True).start()",
                    honest=False),
    against_sibling("a candidate that removes the folders of others", """
import os, shutil
top = os.path.dirname(os.getcwd())
for name in os.listdir(top): shutil.rmtree(os.path.join(top, name), ignore_errors=True)
""", honest=False),
    against_sibling("a candidate that looks into its sibling's folder and writes there", """
import os, time
top = os.path.dirname(os.getcwd())
for _ in range(20):
    for name in os.listdir(top):
        try: open(os.path.join(top, name, 'mine'), 'w').write('ESCAPED')
        except OSError: pass
    time.sleep(.01)
""", honest=False),
]  # fmt: skip


@played("what a losing candidate leaves behind")
def nothing_is_left(attack: Attack) -> None:
    """Variables, files, modules, threads, children, the environment, the working directory."""
    attack.one("import os, sys, threading, time\nx = [1]")
    loser = """
    x.append(2); y = 5; open('loser', 'w').close(); os.environ['LOSER'] = '1'; sys.modules['loser'] = os
    os.mkdir('d'); os.chdir('d')
    threading.Thread(target=time.sleep, args=(60,), name='loser').start()
    if os.fork() == 0:
        time.sleep(.3); open('../../late', 'w').close(); os._exit(0)
    """
    attack.run(loser, "x.append(3)")
    attack.keep(1)
    time.sleep(0.5)
    value = attack.value("""
    x, 'y' in globals(), sorted(os.listdir()), 'LOSER' in os.environ, 'loser' in sys.modules, \
    [t.name for t in threading.enumerate()], os.path.exists('../late'), os.getcwd() == os.environ['HOME']
    """)
    assert value == ([1, 3], False, [], False, False, ["MainThread"], False, True), value


@played("memory that is shared between forks")
def shared_memory(attack: Attack) -> None:
    """What a loser writes to it isn't seen afterwards: it can't be had, or every fork has its own."""
    made = attack.one("import mmap\nm = mmap.mmap(-1, 4096)\nm[0] = 1")
    if made.error is None:
        attack.run("m[0] = 7", "m[0]")
        attack.keep(1)
        assert attack.value("m[0]") == 1


@played("a file that is mapped and shared between forks")
def shared_file(attack: Attack) -> None:
    made = attack.one(
        "import mmap\nf = open('f', 'w+b')\nf.write(bytes(4096)); f.flush()\nm = mmap.mmap(f.fileno(), 4096)\nm[0] = 1"
    )
    if made.error is None:
        attack.run("m[0] = 7", "m[0]")
        attack.keep(1)
        assert attack.value("m[0], open('f', 'rb').read(1)[0]") == (1, 1)


@played("an open file of a losing candidate")
def open_files(attack: Attack) -> None:
    attack.one("f = open('log', 'w+')\n_ = f.write('start ')\nf.flush()")
    first, second = attack.run(
        *(f"_ = f.write('{name}')\nf.flush()\nopen('log').read()" for name in ("a", "b"))
    )
    assert (first.value, second.value) == ("start a", "start b")
    attack.keep(0)
    assert attack.value("f.write('c')\nf.flush()\nopen('log').read()") == "start ac"


@played("pipes and sockets between candidates")
def pipes(attack: Attack) -> None:
    attack.one(
        "import os, socket\nr, w = os.pipe()\na, b = socket.socketpair()\nd = os.open('.', os.O_RDONLY)"
    )
    attack.run("os.write(w, b'ESCAPED')", "import time\ntime.sleep(.2)\nprint(os.read(r, 7))")
    attack.run("b.send(b'ESCAPED')", "import time\ntime.sleep(.2)\na.settimeout(.2)\nprint(a.recv(7))")
    attack.run("os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=d)", "1")
    attack.keep(1)
    assert attack.value("os.listdir()") == []


@played("more states than are kept", may_lose_state=True)
def many_states(attack: Attack) -> None:
    for number in range(40):
        attack.one(f"x = {number}")
    attack.session.undo(10)
    assert attack.value("x") == 29


@played("thirty candidates")
def many_candidates(attack: Attack) -> None:
    results = attack.run(*[f"{number}" for number in range(30)])
    assert [result.value for result in results] == list(range(30))


@played("thirty candidates that are stopped or die", may_lose_state=True)
def many_losers(attack: Attack) -> None:
    attack.run(*["import os\nos._exit(1)", "import os, signal\nos.kill(os.getpid(), 19)"] * 4)


PROGRAMS += [
    nothing_is_left,
    shared_memory,
    shared_file,
    open_files,
    pipes,
    many_states,
    many_candidates,
    many_losers,
]
