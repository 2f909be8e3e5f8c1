"""Other processes: the supervisor, the client, the host's; bombs; and what outlives a step."""

from __future__ import annotations

from arena import Attack, Program, ends, gives, held, played, refused

from programs.kernel import SYSCALL

TRY = """
import os, signal
def attempt(do, *args):
    try: do(*args)
    except OSError as e: print('refused', e)
    else: print('ESCAPED', do, args)
"""
OUTSIDE = "[1, os.getppid(), host['pid'], host['client']]"


def signalled(number: int) -> Program:
    code = f"""
    for pid in [-1, *{OUTSIDE}]: attempt(os.kill, pid, {number})
    for pid in (os.getppid(), host['pid']): attempt(os.kill, -pid, {number}); attempt(os.killpg, pid, {number})
    """
    return held(
        TRY.strip() + "\n" + "\n".join(line.strip() for line in code.splitlines()),
        f"signal {number} to everybody outside",
    )


STOPPED = ("timeout", "memory", "died")  # which of the limits a bomb meets first is the jail's affair

PROGRAMS: list[Program] = [
    *map(signalled, (0, 1, 2, 9, 15, 19, 34)),
    held(TRY + "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ninfo = bytes(128)\n"
         + "\n".join(f"for pid in {OUTSIDE}: print('ESCAPED' if libc.syscall({call}) == 0 else 'refused')"
                     for call in ("200, pid, 9", "234, pid, pid, 9", "129, pid, 9, info", "297, pid, pid, 9, info")),
         "tkill, tgkill and their like"),
    held(TRY + """
    for pid in [p for p in {1, os.getppid(), host['pid'], host['client']} if p != os.getpid()]:
        attempt(os.sched_setaffinity, pid, {0})
        attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)
        attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
        attempt(os.setpgid, pid, pid)
    """, "slowing down the supervisor"),
    held("""
    import os
    for pid in (host['pid'], host['client']):
        for do in (lambda: os.sched_setaffinity(pid, {0}), lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
                   lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))):
            try: do()
            except OSError as e: print('refused', e)
    """, "slowing down a process of the host"),
    held("""
    import ctypes, os
    for which in (os.PRIO_PGRP, os.PRIO_USER):
        for who in (0, os.getuid(), 65534):
            try: os.setpriority(which, who, 19)
            except OSError as e: print('refused', e)
    libc = ctypes.CDLL(None, use_errno=True)
    for which in (1, 2, 3): libc.syscall(251, which, 0, 3 << 13)
    """, "slowing down everybody of this user"),
    held("""
    import os
    found = []
    for top in ('/proc', '/private/proc'):
        for pid in [str(host['pid']), str(host['client']), *(os.listdir(top) if os.path.isdir(top) and os.access(top, 4) else [])]:
            for name in ('cmdline', 'environ', 'maps', 'stack', 'fdinfo/0'):
                try: print(open(f'{top}/{pid}/{name}').read())
                except OSError: pass
    """, "the command lines and environments of others"),
    held("import os\nprint(dict(os.environ))", "the environment"),
    held("""
    import ctypes
    block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')
    i = 0
    while block[i]: print(block[i]); i += 1
    """, "the environment that the C library sees"),
    held("import os\nfor name in ('/proc/self/environ', '/proc/self/cmdline'):\n    try: print(open(name).read())\n    except OSError: pass",
         "the environment that the process began with"),
    held("import gc\nprint([o for o in gc.get_objects() if isinstance(o, dict) and any('SECRET-' in str(v)[:500] for v in list(o.values())[:100])][:1])",
         "secrets in its own memory"),
    held("""
    import ctypes, gc
    try: lines = open('/proc/self/maps').read().splitlines()
    except OSError: lines = []
    for line in lines:
        span, mode = line.split()[:2]
        if mode[0] != 'r' or '[v' in line: continue
        start, end = (int(x, 16) for x in span.split('-'))
        at = ctypes.string_at(start, min(end - start, 1 << 24)).find(b'SECRET' + b'-')
        if at >= 0: print(ctypes.string_at(start + at, 40))
    """, "secrets in its own pages"),
    played("descriptors that were left to it")(lambda attack: _descriptors(attack)),
    held("import os\npid = os.fork()\nif pid == 0: os.setsid(); os.kill(0, 9)\nos.waitpid(pid, 0)", "a signal to its own group"),
    ends("import os\nos.kill(0, 9)", "died", name="a signal to its own group and itself",
         may_lose_state=True),  # landlock: a twin is in the group until the supervisor has taken it out
    held("""
    import os
    for pid in range(2, 400):
        if pid != os.getpid():
            for number in (19, 9):
                try: os.kill(pid, number)
                except OSError: pass
    """, "signals to every pid there may be", may_lose_state=True),
    ends("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", *STOPPED, name="a fork bomb"),
    ends("import os\nwhile True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass", *STOPPED, name="a fork bomb in sessions of its own"),
    ends("import os\nwhile True:\n    try: os.vfork() if hasattr(os, 'vfork') else os.posix_spawn('/x', ['x'], {})\n    except OSError: pass", *STOPPED, name="a spawn bomb"),
    refused("""
    import threading, time
    made = 0
    try:
        while made < 1000: threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); made += 1
        print('ESCAPED')
    except RuntimeError as e: print('refused', made, e)
    """, "a thread bomb"),
    gives("import os, time\npid = os.fork()\nif pid: time.sleep(.2)\n'parent' if pid else 'ESCAPED'", "parent", "a child that comes through"),
    gives("import os\nfor _ in range(5): os.fork()\nos._exit(0) if os.getpid() == 1 else None\n'through'", "through", "children that go on with the step"),
    ends("import os\nos._exit(0)", "died", name="os._exit"),
    ends("import os\nos.abort()", "died", name="os.abort"),
    ends("import ctypes\nctypes.string_at(0)", "died", name="a bad pointer"),
    ends("import sys\nsys.exit(0)", "exception", name="sys.exit"),
    ends("import threading, os\nthreading.Thread(target=os._exit, args=(0,)).start()\nthreading.Event().wait()", "died", name="os._exit from a thread"),
    ends("import signal\nsignal.raise_signal(signal.SIGSEGV)", "died", name="its own SIGSEGV"),
    held("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.prctl(36, 1, 0, 0, 0)\nimport os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)",
         "adopting its own orphans"),
    held("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)", "children that are never waited for"),
    held("import ctypes\nctypes.CDLL(None).prctl(1, 9, 0, 0, 0)", "a signal when its parent ends"),
    held("import os\nos.setsid()" , "a session of its own", may_lose_state=True),
]  # fmt: skip


def _descriptors(attack: Attack) -> None:
    kinds = attack.value("""
    import os, stat
    kinds = {}
    for fd in range(256):
        try: mode = os.fstat(fd).st_mode
        except OSError: continue
        kinds[fd] = 'socket' if stat.S_ISSOCK(mode) else 'file' if stat.S_ISREG(mode) else 'device' if stat.S_ISCHR(mode) else 'other'
    kinds
    """)  # fmt: skip
    assert isinstance(kinds, dict)
    assert {fd: kind for fd, kind in kinds.items() if fd < 3} == {0: "device", 1: "file", 2: "file"}, kinds
    assert [kind for fd, kind in kinds.items() if fd >= 3] == ["socket"], kinds  # its own channel


def _left_over(name: str, code: str) -> Program:
    """Children that a step leaves behind are killed at its end: they can't write into the folder later."""

    @played(name)
    def play(attack: Attack) -> None:
        attack.one(code)
        attack.one("import time\ntime.sleep(.6)")
        assert attack.value("import os\nos.path.exists('late')") is False

    return play


LATE = "time.sleep(.5); open('late', 'w').close(); os._exit(0)"
PROGRAMS += [
    _left_over("a child left behind", f"import os, time\nif os.fork() == 0: {LATE}"),
    _left_over("a grandchild left behind", f"""
    import os, time
    for _ in range(10):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: {LATE}
            os._exit(0)
    """),
    _left_over("a child that ignores what can be ignored", f"""
    import os, signal, time
    if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        {LATE}
    """),
    _left_over("a child of the supervisor's", SYSCALL + f"""
import time
if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0: {LATE}
    """),
]  # fmt: skip
