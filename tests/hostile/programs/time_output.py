"""Code that doesn't end, and code that doesn't stop talking."""

from __future__ import annotations

from arena import LIMITS, Attack, Execution, Program, _program, held, played, stopped

from programs.kernel import SYSCALL

PROGRAMS: list[Program] = [
    *map(stopped, (
        "while True: pass",
        "10**10**8",
        "sum(range(10**12))",
        "'a' * 30 == __import__('re').match('(a+)+$', 'a' * 40 + 'b')",
        "import itertools\nall(itertools.repeat(True))",
        "import sys\nsys.set_int_max_str_digits(0)\nint('9' * 10**7)",
        "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
        "import numpy\nwhile True: numpy.linalg.svd(numpy.random.rand(500, 500))",
        "while True:\n    try: raise ValueError\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import signal\nsignal.pause()",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import time\ntime.sleep(60)",
        "import os\nos.read(os.pipe()[0], 1)",
        "import os\nos.mkfifo('p')\nopen('p')",
        "import os\nif os.fork() == 0: __import__('time').sleep(60)\nos.wait()",
        "import threading\nthreading.Event().wait()",
        "import threading\nl = threading.Lock()\nl.acquire(); l.acquire()",
        "import select\nselect.select([], [], [])",
        "import asyncio\nasyncio.run(asyncio.sleep(60))",
        "class A:\n    def __del__(self):\n        while True: pass\nA()\nNone",
        "class A:\n    def __repr__(self):\n        while True: pass\nraise ValueError(A())",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        "import sys\nsys.setswitchinterval(1000)\nwhile True: pass",
        "import threading\nfor _ in range(4): threading.Thread(target=lambda: all(iter(lambda: 1, 0)), daemon=True).start()\nwhile True: pass",
    )),
    stopped(SYSCALL + "libc.syscall(56, 0x4100, 0, 0, 0, 0) or libc.pause()", "a parent that waits in vfork"),
    held("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", "deep recursion"),
    held("import sys\nsys.setrecursionlimit(10**9)\nimport ast\nast.parse('(' * 200 + ')' * 200)\neval('-' * 10**6 + '1')", "deep recursion of the parser"),
    held("f = lambda: None\nfor _ in range(10**6): f = f.__get__(f)\ndel f", "deep recursion of a destructor"),
    held("x = None\nfor _ in range(10**6): x = (x,)\nhash(x)", "deep recursion of a hash"),
    held("class A:\n    def __del__(self): A()\nA()\nNone", "objects that come back"),
]  # fmt: skip


def _cut(code: str, name: str) -> Program:
    def check(attack: Attack, execution: Execution) -> None:
        assert LIMITS.output_chars - 10 < len(execution.logs) < LIMITS.output_chars + 100, len(execution.logs)
        assert execution.timed_out or execution.logs.endswith("cut]"), execution.logs[-50:]

    return _program(name, code, check, {})


PROGRAMS += [
    _cut("while True: print('x' * 1000)", "endless prints"),
    _cut("while True: print()", "endless empty lines"),
    _cut("print('x' * 50_000_000)", "one giant line"),
    _cut("import os\nwhile True: os.write(2, b'y' * 4096)", "endless raw output"),
    _cut("import os\nwhile True: os.write(1, bytes(4096))", "endless zeros"),
    _cut("import os\nos.write(1, b'\\xf0\\x9f' * 100_000)", "half characters"),
    _cut("import os\nif os.fork() == 0:\n    while True: os.write(1, b'z' * 4096)\nos.wait()", "endless output of a child"),
    _cut("import threading\ndef talk():\n    while True: print('t' * 100)\nthreading.Thread(target=talk, daemon=True).start()\nthreading.Event().wait()",
         "endless output of a thread"),
    _cut("import sys\nwhile True: sys.stderr.write('e' * 1000)", "endless errors"),
    _cut("import traceback, sys\nwhile True: sys.__stdout__.write('o' * 1000)", "endless output past sys.stdout"),
    held("import os\nos.ftruncate(1, 1 << 40)", "the log made a giant"),
    held("import os\nos.ftruncate(1, 8 << 20)\nprint('x')", "the log with a hole"),
    held("import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'x')", "the log written far away"),
    held("print('\\ud800\\udfff\\0\\x1b[2J\\r\\u2028' * 100)", "characters that are none"),
    held("class S(str):\n    def __len__(self): return -5\n    def encode(self, *a): raise SystemExit\nprint(S('x'))", "a string that lies about itself"),
    held("import sys\nsys.stdout = sys.stderr = sys.__stdout__ = None", "no output at all"),
    held("import sys\nsys.stdout.left = 10**12\nsys.stdout.limit = 10**12\nprint('x' * 10**7)", "the limit of the output lifted"),
    held("raise ValueError('x' * 10_000_000)", "a giant error text"),
    held("exec('def f(): f2()\\n' * 1000 + 'def f2(): 1/0\\nf()')", "an error in generated code"),
    held("e = ValueError()\nfor _ in range(100_000):\n    n = ValueError(); n.__cause__ = e; e = n\nraise e", "a chain of causes"),
    held("raise ExceptionGroup('g', [ValueError('x' * 1000)] * 10_000)", "a group of errors"),
]  # fmt: skip


@played("output of a thread that goes on after its step")
def late_output(attack: Attack) -> None:
    attack.one(
        "import threading\ndef talk():\n    while True: print('late' * 50)\nthreading.Thread(target=talk, daemon=True).start()"
    )
    for number in range(3):
        execution = attack.one(f"import time\ntime.sleep(.1)\n{number}")
        assert execution.value == number and len(execution.logs) < LIMITS.output_chars + 100


PROGRAMS += [late_output]
