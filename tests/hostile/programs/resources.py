"""Memory, disk, descriptors: bombs, and limits turned into weapons."""

from __future__ import annotations

from dataclasses import replace

from arena import LIMITS, Attack, Program, ends, held, played, refused

from agentdistill.types import ErrorKind

LONG = replace(LIMITS, seconds=10)
SMALL = replace(LIMITS, memory_mb=160)
KILLED = ("memory", "timeout")

PROGRAMS: list[Program] = [
    ends("x = bytearray(4 << 30)", "memory", name="memory in one piece"),
    ends("x = []\nwhile True: x.append(bytearray(1 << 20))", *KILLED, name="memory bit by bit"),
    ends("x = 'x'\nwhile True: x += x", *KILLED, name="memory that doubles"),
    ends("x = []\nwhile True: x.append(x[:])", *KILLED, name="memory in small objects"),
    ends("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\nlibc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
         "while True:\n    p = libc.malloc(1 << 24)\n    if not p: raise MemoryError\n    libc.memset(p, 1, 1 << 24)", *KILLED, name="memory of the C library"),
    ends("import numpy\nx = [numpy.ones(1 << 22) for _ in range(100)]", *KILLED, name="memory of numpy"),
    ends("import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n    m.write(bytes(1 << 26)); x.append(m)",
         "memory", "timeout", "exception", name="mapped memory"),
    ends("import re\nre.compile('(' * 50_000_000)", *KILLED, "exception", name="memory of the regular expressions"),
    ends("""
    import os, time
    for _ in range(12):
        if os.fork() == 0:
            x = bytearray(b'x') * (200 << 20)
            time.sleep(60)
    time.sleep(60)
    """, *KILLED, name="memory of twelve children"),
    ends("""
    import os, time
    def grow():
        x = bytearray(b'x') * (150 << 20)
        if os.fork() == 0: grow()
        time.sleep(60)
    grow()
    """, *KILLED, name="memory of children's children"),
    held("""
    import fcntl, os
    pipes = []
    try:
        while True:
            pipe = os.pipe(); pipes.append(pipe)
            for size in (1 << 20, 1 << 16):
                try: fcntl.fcntl(pipe[1], 1031, size); break
                except OSError: pass
            os.set_blocking(pipe[1], False)
            try:
                while os.write(pipe[1], bytes(1 << 16)): pass
            except BlockingIOError: pass
    except OSError as e: print('refused', e)
    """, "memory of the kernel, in pipes"),
    held("""
    import os, socket
    try:
        pairs = []
        while True:
            pair = socket.socketpair(); pairs.append(pair)
            pair[0].setblocking(False)
            try:
                while pair[0].send(bytes(1 << 16)): pass
            except BlockingIOError: pass
    except OSError as e: print('refused', e)
    """, "memory of the kernel, in sockets"),
    refused("f = open('big', 'wb')\nfor _ in range(9): f.write(bytes(1 << 20))\nf.close()\nprint('ESCAPED')", "a file too large"),
    refused("for i in range(1000):\n    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))\nprint('ESCAPED')", "many files too large together"),
    refused("""
    import os
    fds = []
    for i in range(200):
        fds.append(os.open(f'f{i}', os.O_RDWR | os.O_CREAT)); os.unlink(f'f{i}')
        os.write(fds[-1], bytes(1 << 20))
    print('ESCAPED')
    """, "files without a name too large together"),
    refused("f = open('s', 'wb')\nf.truncate(1 << 40)\nprint('ESCAPED')", "a sparse giant"),
    held("for i in range(30):\n    with open(f's{i}', 'wb') as f: f.truncate(8 << 20)", "sparse files that are large when copied", may_lose_state=True),
    held("import os\nfd = os.open('f', os.O_RDWR | os.O_CREAT)\nfor offset in range(0, 1 << 40, 1 << 30):\n    try: os.pwrite(fd, b'x', offset)\n    except OSError as e: print('refused', e); break\nelse: print('ESCAPED')",
         "a file with holes"),
    refused("import os\nfds = []\nwhile True: fds.append(os.dup(0))", "a flood of descriptors"),
    refused("import os\nfds = []\nwhile True: fds.append(os.pipe())", "a flood of pipes"),
    refused("import select\nfds = []\nwhile True: fds.append(select.epoll())", "a flood of epolls"),
    ends("i = 0\nwhile True:\n    open(f'f{i}', 'w').close()\n    i += 1", "memory", name="a flood of empty files", limits=LONG),
    ends("import os\ni = 0\nwhile True:\n    os.mkdir(f'd{i}')\n    i += 1", "memory", name="a flood of folders", limits=LONG),
    ends("import os\nopen('f', 'w').close()\ni = 0\nwhile True:\n    os.link('f', f'l{i}')\n    i += 1", "memory", "timeout", "exception",
         name="a flood of hard links", limits=LONG),
    ends("import os\ni = 0\nwhile True:\n    os.symlink('x' * 4000, f'l{i}')\n    i += 1", "memory", "exception", name="a flood of symbolic links", limits=LONG),
    held("import os\nfor i in range(200): os.setxattr('.', f'user.x{i}', bytes(60000))", "a flood of attributes"),
    held("import gc\ngc.disable()\nwhile True:\n    x = []; x.append(x); x.append(bytearray(10_000))", "memory that is never collected", may_lose_state=True),
]  # fmt: skip


def _limit(name: str, value: int) -> Program:
    """Its own limits lowered, so that twins and forks of the session can't be made or die at once."""
    return held(
        f"import resource\nresource.setrlimit(resource.{name}, ({value}, {value}))",
        f"{name} set to {value}",
        may_lose_state=True,
    )


PROGRAMS += [_limit(*item) for item in (("RLIMIT_NOFILE", 3), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", 1 << 20), ("RLIMIT_NPROC", 0),
                                        ("RLIMIT_DATA", 0), ("RLIMIT_STACK", 4096), ("RLIMIT_CPU", 0), ("RLIMIT_CPU", 1))]  # fmt: skip


@played("a tree of folders too deep to copy")
def deep_tree(attack: Attack) -> None:
    made = attack.one("import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')")
    [first, _] = attack.run("1", "2")
    stopped = made.error is not None  # on landlock: what can't be counted is too much
    assert stopped or (first.error is not None and "folder" in first.error), first


@played("a full folder costs older states and says so", may_lose_state=True)
def full_folder(attack: Attack) -> None:
    attack.one("x = 1")
    attack.one(
        "import os\nfor i in range(3):\n    with open(f'f{i}', 'wb') as f: f.write(os.urandom(7 << 20))"
    )
    attack.one("x = 2")
    died = attack.one("os._exit(1)")
    after = attack.one("x")
    assert after.value == 2 or "state was lost" in (died.error or ""), after


@played("memory that losing candidates hold")
def losers_memory(attack: Attack) -> None:
    """What they held is free again: the same once more, and again, fits."""
    code = "x = bytearray(b'x') * (80 << 20)\nlen(x)"
    for _ in range(3):
        results = attack.run(code, code)
        assert [result.value for result in results] == [80 << 20] * 2, results
    attack.keep(0)
    assert attack.value("len(x)") == 80 << 20
    attack.one("del x")


@played("memory of eight candidates at once", limits=SMALL)
def candidates_memory(attack: Attack) -> None:
    """Each one's end is data; what counts is that the session and others go on."""
    results = attack.run(*["x = bytearray(b'x') * (90 << 20)\nlen(x)"] * 8)
    assert all(
        r.value == 90 << 20 or r.error_kind in (ErrorKind.MEMORY, ErrorKind.DIED, ErrorKind.TIMEOUT)
        for r in results
    ), results


@played("a memory bomb in every candidate", may_lose_state=True, limits=SMALL)
def candidates_bombs(attack: Attack) -> None:
    attack.run(*["x = []\nwhile True: x.append(bytearray(1 << 20))"] * 8)


@played("memory that many twins hold", may_lose_state=True, limits=SMALL)
def twins_memory(attack: Attack) -> None:
    """Twins share pages with the session until it writes: it writes all of them in every step."""
    attack.one("x = bytearray(b'x') * (60 << 20)")
    for number in range(12):
        attack.one(f"x[:] = bytes([{number}]) * len(x)")


PROGRAMS += [deep_tree, full_folder, losers_memory, candidates_memory, candidates_bombs, twins_memory]
