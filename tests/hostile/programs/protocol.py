"""Forged messages, a turned interpreter, hostile arguments of tools."""

from __future__ import annotations

from arena import Attack, Program, ends, gives, held, played, stopped

FORGE = """
import json, os, socket, struct, sys
frame = sys._getframe()
while frame and not hasattr(frame.f_locals.get('self'), 'channel'): frame = frame.f_back
own = frame.f_locals['self'].channel if frame else print('ESCAPED: no channel found, mend the forger')
def send(body, kind=1):
    own.sock.sendall(struct.pack('>IB', len(body), kind) + body)
def forged(run, text):
    send(json.dumps({'op': 'result', 'run': run, 'logs': text, 'cut': 0, 'value': text,
                     'final': True, 'error': None, 'kind': None}).encode())
"""
NAME = """
frame = sys._getframe()
while frame and 'message' not in frame.f_locals: frame = frame.f_back
name = frame.f_locals['message']['run'] if frame else print('ESCAPED: no name found, mend the forger')
"""
BODIES: list[bytes] = [
    b"", b"{", b"[]", b"null", b"0", b'"x"', b'{"op": "hello"}', b'{"op": "died", "id": 1}', b'{"op": "forked", "tag": 1, "ids": [1], "full": false}',
    b'{"op": "ready", "id": 1}', b"\xff\xfe", b"[" * 100_000, b'{"op": null}', b'{"op": ["call"]}',
    b'{"op": "call"}', b'{"op": "call", "run": "HERE", "id": 1, "name": [], "args": {}, "kwargs": 3}', b'{"op": "call", "run": "HERE", "id": true}',
    b'{"op": "call", "run": "HERE", "id": -1, "name": "echo", "args": [{"$": "nothing"}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "echo", "args": [{"$": "dict", "v": [[[], 1]]}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "echo", "args": [{"$": "int", "v": "' + b"9" * 100_000 + b'"}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "echo", "args": [{"$": "decimal", "v": "1e999999999"}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "echo", "args": [{"$": "fraction", "v": "1/0"}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "echo", "args": [{"$": "set", "v": [[1], {}]}], "kwargs": {}}',
    b'{"op": "call", "run": "HERE", "id": 1, "name": "__class__", "args": [], "kwargs": {}}', b'{"op": "result", "run": 1e999}', b'{"op": "call", "run": "HERE", "id": NaN}',
    b'{"op": "call", "run": "HERE", "id": 1' + b"0" * 10_000 + b', "name": "echo", "args": [], "kwargs": {}}',
    b'{"op": "' + b"x" * 3_000_000 + b'"}',
]  # fmt: skip
VALUES = [
    '{"$": "int", "v": "1_0"}', '{"$": "int", "v": 5}', '{"$": "float", "v": "x"}', '{"$": "bytes", "v": "?"}', '{"$": "tuple", "v": 5}',
    '{"$": "decimal", "v": "sNaN"}', '{"$": "decimal", "v": "1e999999999999"}', '{"$": "fraction", "v": "1/0"}', '{"$": "complex", "v": ["1"]}',
    '{"$": "datetime", "v": "never"}', '{"$": "opaque", "type": 5, "repr": []}', '{"$": "opaque"}', '{"$": "os.system", "v": "true"}', '{"v": 1}',
    '{"$": ["dict"]}', '{"$": "dict", "v": [[1]]}', '{"$": "dict", "v": [[{"$": "dict", "v": []}, 1]]}', "1e400", "NaN",
]  # fmt: skip


def _nonsense(number: int, body: bytes) -> Program:
    head, rest = body[:300], len(body) - len(body[:300])
    code = (
        FORGE
        + NAME
        + f"body = {head!r}.replace(b'HERE', name.encode()) + {body[300:301]!r} * {max(0, rest - 2)} + {body[-2:] if rest > 0 else b''!r}\n"
        + "send(body)\nimport time\ntime.sleep(.2)"
    )
    return held(code, f"nonsense {number}: {body[:40]!r}", shared=True)


def _value(text: str) -> Program:
    code = FORGE + NAME + (
        "body = json.dumps({'op': 'result', 'run': name, 'logs': '', 'cut': 0, 'value': 'HERE', 'final': False, 'error': None, 'kind': None})\n"
        f"send(body.replace('\"HERE\"', {text!r}).encode())"
    )  # fmt: skip
    return held(code, f"a forged value {text}", shared=True, may_lose_state=True)


PROGRAMS: list[Program] = [
    *(_nonsense(number, body) for number, body in enumerate(BODIES)),
    *map(_value, VALUES),
    held(FORGE + "for kind in (0, 2, 3, 4, 255):\n    for body in (b'', b'{}', json.dumps({'folders': ['/']}).encode()):\n        send(body, kind)",
         "frames of other types", may_lose_state=True),
    held(FORGE + "for _ in range(20_000): send(b'', 3)", "a flood of READY frames"),
    held(FORGE + "own.sock.sendall(struct.pack('>IB', 0xffffffff, 1))\nwhile True: own.sock.sendall(bytes(65536))", "a frame without end"),
    held(FORGE + "own.sock.sendall(b'\\0')", "half a header"),
    stopped(FORGE + "own.sock.sendall(struct.pack('>IB', 100, 1) + b'half')\nwhile True: pass", "half a frame"),
    held(FORGE + "own.sock.sendall(struct.pack('>IB', 100, 1) + b'half')", "half a frame before the reply", may_lose_state=True),
    *(held(FORGE + f"body = json.dumps({{'op': 'call', 'run': {run}, 'id': 1, 'name': 'echo', 'args': [], 'kwargs': {{}}}}).encode()\nwhile True: send(body)", name)
      for run, name in (("own.run", "a flood of calls"), ("'no step'", "a flood of calls of another step"))),
    held(FORGE + "while True: send(json.dumps({'op': 'result', 'run': 'x' * 1000}).encode())", "a flood of results"),
    held(FORGE + NAME + "for _ in range(2000): forged(name, 'twice')", "its own result two thousand times"),
    held(FORGE + "for _ in range(5000):\n    r, w = os.pipe()\n    try: socket.send_fds(own.sock, [struct.pack('>IB', 0, 3)], [r, w, 0, 1])\n    finally: os.close(r); os.close(w)",
         "descriptors passed to the supervisor"),
    held(FORGE + "try: own.sock.sendmsg([struct.pack('>IB', 0, 3)], [(1, 2, struct.pack('3i', os.getppid(), 0, 0))]); print('sent')\nexcept OSError as e: print('refused', e)",
         "another sender's credentials"),
    ends(FORGE + "own.sock.close()\nwhile True: pass", "died", name="its channel closed"),
    ends(FORGE + "own.sock.shutdown(2)\nwhile True: pass", "died", name="its channel shut down"),
    ends("import os\nos.closerange(3, 256)\nwhile True: pass", "died", name="all descriptors closed"),
    held("import os\nos.closerange(0, 256)", "all descriptors closed before the reply", may_lose_state=True),
    stopped(FORGE + "own.sock.setblocking(False)\nwhile True:\n    try: own.sock.recv(1 << 16)\n    except BlockingIOError: pass", "its requests stolen"),
    held(FORGE + "import threading\ndef steal():\n    while True: own.sock.recv(1 << 16)\nthreading.Thread(target=steal, daemon=True).start()",
         "later requests stolen by a thread", may_lose_state=True),
    held(FORGE + "import threading, time\ndef talk():\n    for i in range(10**6): send(b'{\"op\": \"call\"}')\nthreading.Thread(target=talk, daemon=True).start()",
         "nonsense by a thread after its step", may_lose_state=True),
]  # fmt: skip

TURNED = [
    "import json\njson.dumps = lambda *a, **k: '{}'",
    "import json\njson.loads = lambda *a, **k: {'op': 'run', 'run': '', 'code': 'x'}",
    "import sys\nsys.modules['wire'].encode_value = lambda v: 1 / 0",
    "import sys\nsys.modules['wire'].encode_value = lambda v: v",
    "import sys\nsys.modules.clear()",
    "import builtins\nbuiltins.__dict__.clear()",
    "import builtins\nfor n in ('compile', 'exec', 'eval', 'len', 'isinstance', 'type', 'print'): setattr(builtins, n, None)",
    "import builtins\nbuiltins.__import__ = None",
    "import os\nfor n in dir(os):\n    if callable(getattr(os, n)) and n not in ('_exit',): setattr(os, n, lambda *a, **k: 0)",
    "import os\nos.fork = lambda: 1\nos.waitpid = lambda *a: (0, 0)",
    "import os\nos.fork = lambda: 0",
    "import os\nos.register_at_fork(before=lambda: 1 / 0)",
    "import os\nos.register_at_fork(after_in_child=lambda: os._exit(0))",
    "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(999))",
    "import os, time\nos.register_at_fork(before=lambda: time.sleep(999))",
    "import socket\nsocket.socket.sendall = lambda *a: None",
    "import socket\nsocket.recv_fds = lambda *a: (b'', [], 0, None)",
    "import sys\nsys.settrace(lambda *a: 1 / 0)",
    "import sys, threading\ndef t(*a): raise SystemExit\nthreading.settrace(t); sys.setprofile(t)",
    "import sys\nsys.addaudithook(lambda name, args: 1 / 0)",
    "import gc\ngc.callbacks.append(lambda *a: [0 for _ in iter(int, 1)])\ngc.set_threshold(1, 1, 1)",
    "import gc\ngc.callbacks.append(lambda *a: 1 / 0)\ngc.set_threshold(1, 1, 1)",
    "import atexit, time\natexit.register(time.sleep, 99)",
    "import signal\ndef h(*a): raise SystemExit\nfor n in range(1, 65):\n    try: signal.signal(n, h)\n    except (OSError, ValueError): pass\nsignal.setitimer(signal.ITIMER_REAL, .01, .01)",
    "import signal\nsignal.setitimer(signal.ITIMER_REAL, .01)",
    "import faulthandler\nfaulthandler.dump_traceback_later(.05, exit=True)",
    "import sys\nsys.setrecursionlimit(60)",
    "import sys\nsys.stdout.write = None\nsys.excepthook = sys.displayhook = sys.unraisablehook = None",
    "import threading\nthreading.Condition.wait = threading.Condition.__enter__ = lambda *a: None",
    "import sys\nf = sys._getframe()\nwhile f:\n    o = f.f_locals.get('self'); f = f.f_back\n    if type(o).__name__ == 'Interpreter': o.run = o.fork = lambda *a: None",
    "import sys\nf = sys._getframe()\nwhile f:\n    o = f.f_locals.get('self'); f = f.f_back\n    if type(o).__name__ == 'Interpreter': o.main = None; o.tools = 5",
    "import sys\nf = sys._getframe()\nwhile f:\n    o = f.f_locals.get('self'); f = f.f_back\n    if hasattr(o, 'channel'): o.channel.sock = o.channel.requests = None",
    "import ctypes, sys\nctypes.memset(id(None) + 16, 0, 8)",
    "import ctypes\nctypes.c_int.from_address(id(1) + 24).value = 2",
    "import sys\nsys.meta_path.clear(); sys.path_hooks.clear(); sys.path.clear()",
    "import os\nos.environ.clear()\nos.chdir('/')",
    "__builtins__ = None\n__name__ = 5",
    "del __builtins__",
    "import threading\nthreading.Thread(target=lambda: [globals().update(canary='dead', final_answer=None) for _ in iter(int, 1)], daemon=True).start()",
    "import ctypes\n# a seccomp filter that fails clone and fork: no twin, no candidate can be made any more\n"
    "import struct\ncode = [(0x20, 0, 0, 0), (0x15, 0, 1, 56), (6, 0, 0, 0x50001), (0x15, 0, 1, 57), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]\n"
    "program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))\n"
    "head = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(program))\nctypes.CDLL(None).prctl(22, 2, head, 0, 0)",
    "import ctypes, struct\n# a seccomp filter that kills on write and sendto: the answer itself\n"
    "code = [(0x20, 0, 0, 0), (0x15, 0, 1, 44), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7fff0000)]\n"
    "program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))\n"
    "head = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(program))\nctypes.CDLL(None).prctl(22, 2, head, 0, 0)",
]  # fmt: skip


def _turned(code: str) -> Program:
    """An interpreter turned against us: its own steps are worth nothing, but they end, and going back helps."""

    @played("turned: " + code.replace("\n", "; ")[:70], may_lose_state=True)
    def play(attack: Attack) -> None:
        attack.one(code)
        attack.one("1 + 1")
        attack.run("1", "2")
        attack.one("import os\nos._exit(1)")

    return play


PROGRAMS += map(_turned, TURNED)


@played("states that can't be woken", may_lose_state=True)
def poisoned_twins(attack: Attack) -> None:
    """A twin is two forks away from the session. What is forked from a twin sleeps: no state can be gone back
    to, and they must not be tried one after another for ever."""
    attack.one("""
    import os, time
    depth = 0
    def sleep():
        global depth
        depth += 1
        if depth > 2: time.sleep(999)
    os.register_at_fork(after_in_child=sleep)
    """)
    for number in range(5):
        attack.one(f"{number}")
    attack.one("os._exit(1)")


@played("states that are stopped", may_lose_state=True)
def stopped_twins(attack: Attack) -> None:
    for number in range(5):
        attack.one(f"{number}")
    attack.one("""
    import os
    for pid in range(2, 2000):
        if pid != os.getpid():
            try: os.kill(pid, 19)
            except OSError: pass
    """)
    attack.one("1")
    attack.one("import os\nos._exit(1)")


@played("a forged result speaks for its own step only")
def forged_result(attack: Attack) -> None:
    own = attack.one(FORGE + NAME + "for run in [name, *range(50), '', None, '0']: forged(run, 'forged')")
    assert own.value == "forged"  # about itself it can lie
    for number in range(3):
        execution = attack.one(f"{number}")
        assert execution.value == number and not execution.is_final, execution


@played("a thread that answers for later steps")
def forging_thread(attack: Attack) -> None:
    """It doesn't know the name of a step it isn't part of; what it can learn of its own interpreter's it may."""
    attack.one(
        FORGE
        + NAME
        + """
import threading, time
def answer():
    for number in range(2000): forged(name, 'forged'); time.sleep(.0005)
threading.Thread(target=answer, daemon=True).start()
"""
    )
    for number in range(5):
        assert attack.value(f"import time\ntime.sleep(.05)\n{number}") == number


@played("a child can't speak for its parent")
def child_of(attack: Attack) -> None:
    value = attack.value(
        FORGE
        + NAME
        + """
if os.fork() == 0:
    for _ in range(50): forged(name, 'ESCAPED')
    os._exit(0)
os.wait()
'parent'
"""
    )
    assert value == "parent", value


@played("a result after its deadline")
def too_late(attack: Attack) -> None:
    execution = attack.one(
        FORGE
        + NAME
        + "import time\nuntil = time.time() + 1.005\nwhile time.time() < until: pass\nwhile True: forged(name, 'late')"
    )
    assert execution.timed_out or execution.value == "late", execution


TOOLS = [
    "echo(echo)", "echo(x=[[]] * 1000)", "echo('\\udc80')", "echo({1: {2: {3}}})", "echo(**{'x' * 10**6: 1})", "echo(10**3000)",
    "echo(b'\\0' * 1000)", "echo('__import__(\"os\").system(\"true\")')", "echo()", "echo(1, 2)", "echo(self=1)", "echo(*range(10**5))",
    "echo(type('int', (int,), {'__index__': lambda s: 1 / 0})(5))", "echo(float('nan'))", "echo([[[[[[[[[[[[]]]]]]]]]]]])",
    "x = []\nx.append(x)\necho(x)", "echo('x' * 50_000_000)", "echo({'$': 'int', 'v': '5'})", "echo({'__proto__': 1, '__class__': 2})",
    "echo(__import__('decimal').Decimal('1e999999'))", "echo(type('S', (str,), {'__str__': lambda s: 1 / 0})('x'))",
]  # fmt: skip
PLAIN = {type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset}


def _tool(call: str) -> Program:
    @played("a tool called with " + call.replace("\n", "; ")[:60], shared=True)
    def play(attack: Attack) -> None:
        attack.one(f"{call}\nNone" if "\n" in call else f"str({call})[:50]")
        for got in attack.called:
            assert type(got) in PLAIN or type(got).__module__ in (
                "decimal",
                "fractions",
                "datetime",
                "agentdistill.types",
            ), type(got)

    return play


@played("a thousand calls and more")
def many_calls(attack: Attack) -> None:
    attack.one("made = 0\nwhile True: echo(made); made += 1")
    assert len(attack.called) <= 1000, len(attack.called)


PROGRAMS += [
    poisoned_twins, stopped_twins, forged_result, forging_thread, child_of, too_late, *map(_tool, TOOLS), many_calls,
    held("import threading\nts = [threading.Thread(target=echo, args=(i,)) for i in range(60)]\n[t.start() for t in ts]", "calls from sixty threads"),
    held("import os\nfor _ in range(5):\n    if os.fork() == 0: echo('ESCAPED')\nos._exit(0)", "calls from children"),
    gives("try: echo.__globals__\nexcept AttributeError: pass\necho.__name__", "echo", "the inside of a tool's stub"),
    held("m = 2**61 - 1\n{i * m for i in range(1500)}", "hashes that collide"),
    held("[hash(str(i)) for i in range(10)]\n{f'{i}': i for i in range(90_000)}", "a large value"),
]  # fmt: skip
