"""Values, errors and the libraries' own ways to run code."""

from __future__ import annotations

from dataclasses import replace

from arena import SYMPY, Attack, Execution, Program, _program, ends, held, played

from agentdistill.types import Opaque

METHODS = ("__eq__", "__hash__", "__iter__", "__len__", "__str__", "__class__", "__bool__", "__getattribute__", "__reduce__", "__index__",
           "__float__", "__getitem__", "__instancecheck__", "__array__", "__del__")  # fmt: skip


def _hostile(name: str) -> Program:
    return held(
        f"""
    class M(type):
        def {name}(self, *a): raise SystemExit
    class A(dict):
        @property
        def __class__(self): raise SystemExit
    class B(list):
        def {name}(self, *a): raise SystemExit
    class C(int):
        def {name}(self, *a): raise SystemExit
    class D(str):
        def {name}(self, *a): raise SystemExit
    class E(metaclass=M): pass
    class F:
        def {name}(self, *a): raise SystemExit
    [B([1]), C(2), A(), {{'k': B()}}, D('x'), E, E(), F()]
    """,
        f"a hostile {name}",
        shared=True,
    )


def opaque(code: str, name: str, most: int = 5000) -> Program:
    def check(attack: Attack, execution: Execution) -> None:
        assert isinstance(execution.value, Opaque) and len(execution.value.repr) < most, execution

    return _program(name, code, check, {})


PROGRAMS: list[Program] = [
    *map(_hostile, METHODS),
    *(held(f"class A:\n    def __repr__(self): {body}\nA()", f"a hostile repr: {body}", shared=True)
      for body in ("raise SystemExit", "return 5", "return 'x' * 10**8", "raise KeyboardInterrupt", "return self.x", "return repr(self)",
                   "import sys; sys.exit()", "return type('S', (str,), {'__getitem__': lambda *a: 5, '__len__': lambda s: -1})('x')")),
    held("class A:\n    def __repr__(self): import os; os._exit(1)\nA()", "a repr that ends its interpreter"),
    held("class A:\n    def __repr__(self):\n        while True: pass\nA()", "a repr without end"),
    opaque("class A:\n    def __reduce__(self): return (print, ('ESCAPED',))\nA()", "a pickle is never read on our side"),
    opaque("'x' * 50_000_000", "a giant text"),
    opaque("1 << 10_000_000", "a giant integer"),
    opaque("list(range(10**6))", "a giant list"),
    opaque("from fractions import Fraction\nFraction(1, 3 ** 10**5)", "a giant fraction"),
    opaque("import numpy\nnumpy.zeros((10**4, 10**3))", "a giant array"),
    held("import numpy\n[numpy.array([object()]), numpy.zeros(1, dtype=[('a', 'i4')]), numpy.datetime64('nat'), numpy.float128(1) if hasattr(numpy, 'float128') else 0, numpy.ma.array([1])]",
         "odd arrays"),
    held("x = []\nfor _ in range(100_000): x = [x]\nx", "a deeply nested value"),
    held("x = []\nx.append(x)\nx", "a value that contains itself"),
    held("x = {}\nx[1] = (x, [x])\nfinal_answer(x)", "a final answer that contains itself"),
    held("class L(list): pass\nx = L()\nx.append(x)\n{'a': x}", "a subclass that contains itself"),
    held("x = [0] * 1000\nfor _ in range(5): x = [x] * 1000\nx", "a value small here and giant when written"),
    held("""
    import datetime
    class Z(datetime.tzinfo):
        def utcoffset(self, when):
            while True: pass
    datetime.datetime.now(Z())
    """, "a time zone without end"),
    held("class L(list):\n    def __iter__(self):\n        while True: yield 1\nL([1])", "an iterator without end"),
    held("import threading\nx = {}\ndef grow():\n    i = 0\n    while True: x[i] = i; i += 1\nthreading.Thread(target=grow, daemon=True).start()\nx",
         "a dict that grows while it is written"),
    held("type('x' * 10**7, (), {})()", "a type's giant name"),
    held("class M(type):\n    __module__ = property(lambda s: 1 / 0)\nclass A(metaclass=M): pass\nA()", "a type's name that fails"),
    held("import decimal\nclass D(decimal.Decimal):\n    def __str__(self): raise SystemExit\n[D(1), decimal.Decimal('sNaN'), decimal.Decimal('1e999999')]", "odd decimals"),
    held("[float('nan')] * 5 + [-0.0, 5e-324, 1.7e308, complex('nan'), 2**63, -2**64]", "odd numbers"),
    held("'\\ud800' + chr(0) + chr(0x10ffff)", "odd characters"),
    held("import sys\nsys.set_int_max_str_digits(0)\n10**12_050", "a number of many digits"),
    held("final_answer(final_answer)", "final_answer as the answer"),
    held("while True:\n    try: final_answer(1)\n    except BaseException: break", "a final answer that is caught"),
    ends("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "exception", name="an error whose text can't be read"),
    ends("class E(BaseException):\n    __class__ = property(lambda s: 1 / 0)\nraise E", "exception", "died", name="an error that hides its class"),
    held("class M(type):\n    __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E", "an error whose type has no name"),
    ends("e = SyntaxError('x', ('f', 1, 1, 't'))\ne.filename = []\ne.lineno = 'y'\nraise e", "exception", name="a syntax error with odd attributes"),
    held("e = SyntaxError()\ne.msg = type('S', (str,), {'__format__': lambda *a: 5})('x')\ne.filename = '<code 1>'\ne.lineno = 10**30\nraise e", "a syntax error that lies"),
    held("class E(MemoryError):\n    pass\nraise E('not true')", "an error that says memory"),
    held("def f(): raise f.e\nf.e = ValueError()\nf.e.__traceback__ = None\nimport types\nf()", "an error with a made-up traceback"),
    held("x = (i for i in iter(int, 1))\nx.throw(GeneratorExit)", "an odd exit"),
    held("async def f(): pass\nf()", "a coroutine that nobody awaits"),
    held("\x00", "a zero byte"),
    held("# -*- coding: utf-7 -*-\n+AHg-", "another encoding"),
    held("if True:\n" + "\n".join(" " * i + "if 1:" for i in range(1, 150)), "deep indentation"),
    held("x = " + "+".join(["1"] * 50_000), "a long expression"),
    held("(" * 10_000, "brackets that aren't closed"),
    held("return 5\nyield 6\nawait x", "statements out of place"),
    held("__import__('os').system('true') == 0 and print('ran')", "os.system"),
    held("import sympy\nfor text in (\"open(host['secret']).read()\", \"__import__('pathlib').Path(host['secret']).read_text()\"):\n"
         "    try: print(sympy.sympify(text, locals={'host': host}))\n    except Exception as e: print('refused', str(e)[:100])",
         "sympy's sympify", preload=SYMPY),
    held("from sympy.parsing.sympy_parser import parse_expr\nparse_expr(f\"print(open({host['secret']!r}).read())\", global_dict={**globals(), **__import__('sympy').__dict__})",
         "sympy's parser", preload=SYMPY),
    held("import sympy\nf = sympy.lambdify('x', \"open(x).read()\", modules=[{'open': open}])\nprint(f(host['secret']))", "sympy's lambdify", preload=SYMPY),
    held("from sympy.utilities.autowrap import autowrap\nfrom sympy.abc import x\nautowrap(x ** 2)", "sympy's compiler", preload=SYMPY),
    held("import sympy\nsympy.preview('x', viewer='file', filename='x.png')", "sympy's preview", preload=SYMPY),
    held("import sympy\nsympy.factorint(2**400 + 1)", "sympy without end", preload=SYMPY),
    held("""
    import io, numpy, pickle
    class P:
        def __reduce__(self): return (eval, ("print(open(host['secret']).read())", globals()))
    with open('a.npy', 'wb') as f: numpy.save(f, numpy.array([P()], dtype=object), allow_pickle=True)
    numpy.load('a.npy', allow_pickle=True)
    """, "numpy's pickles"),
    held("import numpy\nnumpy.save(host['drop'] + '/x', numpy.zeros(3))\nprint('ESCAPED')", "numpy.save outside"),
    held("import numpy\nnumpy.zeros(5).tofile(host['drop'] + '/x')\nprint('ESCAPED')", "numpy's tofile outside"),
    held("import numpy\nx = numpy.lib.stride_tricks.as_strided(numpy.zeros(1), (10**9,), (8,))\nx[10**8] = 1", "numpy beyond its memory"),
    held("import ctypes, os\nctypes.pythonapi.PyRun_SimpleString(b\"print(open(host['secret']).read())\")", "the C API"),
    held("import ctypes\nctypes.CDLL(host['secret'])", "a file of the host as a library"),
    held("import code, types\nf = types.FunctionType((lambda: 0).__code__.replace(co_code=b'\\xff' * 100), {})\nf()", "broken byte code"),
    held("import pickle\npickle.loads(b'cos\\nsystem\\n(S\"true\"\\ntR.')", "a pickle of its own"),
    held("import multiprocessing as m\nm.get_context('fork').Pool(2).map(abs, [1])", "multiprocessing"),
    held("import multiprocessing.shared_memory as s\nm = s.SharedMemory('hostile', create=True, size=100)\nprint('ESCAPED', m)", "shared memory with a name"),
]  # fmt: skip


@played("final_answer of an object that lies about being equal")
def equal_to_all(attack: Attack) -> None:
    execution = attack.one(
        "class Y(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\nfinal_answer(Y('mine'))"
    )
    assert type(execution.value) is str and execution.value == "mine", execution


PROGRAMS += [equal_to_all]
PROGRAMS = [replace(program, shared=not program.preload) for program in PROGRAMS]
