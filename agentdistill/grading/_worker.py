"""A process that compares answers as mathematics. Started by `Grader`, killed by it when it takes too long.

It reads `{"job", "answer", "gold", "seconds"}` and writes `{"job", "correct", "method", "detail"}`, one JSON
object a line. The comparing is done by a fork, whose pid it tells with `{"ready": PID}`; a fork that is
killed is replaced by the next in milliseconds, where a new process would take seconds to import sympy.
Guaranteed: no text of an answer reaches `eval`. LaTeX goes through math-verify's grammar; Python-like text
goes through `ast` and a list of allowed names; sympy's own parser, which evaluates what it is given, is
never called (math-verify's extraction of plain expressions, which uses it, is off, and so is its hunt for
the last number of a sentence). The process cannot write files, has a memory limit, and a limit of processor
time that ends it even when nobody is left to kill it. Not guaranteed: an answer in finite time; that is
what the Grader's clock is for.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import resource
from fractions import Fraction
from typing import Any, TextIO

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from agentdistill.grading.math import same_number, strip

_MEMORY = 3 * 1024**3
_LATEX = [LatexExtractionConfig()]
_FUNCTIONS = {
    name: getattr(sympy, name)
    for name in (
        *("sqrt", "cbrt", "log", "exp", "Abs", "Rational"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    )
} | {"ln": sympy.log, "abs": sympy.Abs, "Fraction": sympy.Rational, "Integer": sympy.Integer}
_WARMING = (
    ("1/2 + x", "x + \\frac{1}{2}"),
    ("2", "\\frac{\\sqrt{3}}{2}"),
    ("x^2 + 1", "(x+1)^2"),
    ("(1, 2)", "(1, 3)"),
    ("\\sin x", "\\cos x"),
    ("[1, 2]", "3, 1"),
    ("(-\\infty, 3]", "[3, \\infty)"),
)
"""Compared before any clock runs: the grammar's tables are built then, and the parts of sympy imported that
are imported when they are first needed. A fork without them takes four times as long for its first
comparison."""
_CONSTANTS = {"pi": sympy.pi, "E": sympy.E, "I": sympy.I, "oo": sympy.oo}


def compare(answer: str, gold: str) -> tuple[bool, str, str]:
    found, wanted = strip(answer), strip(gold)
    golds = _latex(wanted)
    if not golds:
        golds = _python(wanted)
    if not golds:
        return False, "math", "the gold answer cannot be read as mathematics"
    answers = _python(found) + _latex(found)
    if wanted.startswith(("(", "[")):  # ordered: a point or an interval, which no set may stand for
        answers = [answer for answer in answers if not isinstance(answer, sympy.FiniteSet)]
    if wanted.startswith("(") and found.startswith("["):  # [1, 2] may be a point, or the wrong interval
        answers = [answer for answer in answers if not (isinstance(answer, sympy.Tuple) and len(answer) == 2)]
    if not answers:
        return False, "math", "the answer cannot be read as mathematics"
    if any(_close(a, g) for g in golds for a in answers):
        return True, "math", "numerically"
    # Timeouts of math-verify's own are signals that sympy may swallow: ours is a kill from outside.
    if verify(golds, answers, timeout_seconds=None):
        return True, "math", ""
    return False, "math", "not equal"


def _latex(text: str) -> list[Any]:
    found = parse(f"${text}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    return [_same_symbols(expression) for expression in found if not isinstance(expression, str)]


def _same_symbols(expression: Any) -> Any:
    """One symbol for one letter: the grammar makes real and complex ones, and takes i for a letter."""
    changes: dict[Any, Any] = {}
    for symbol in expression.free_symbols:
        wanted = sympy.I if symbol.name in ("i", "imath") else sympy.Symbol(symbol.name, real=True)
        if symbol != wanted:
            changes[symbol] = wanted
    # Without a change it must stay as it is: rebuilding evaluates what the grammar left alone.
    return expression.xreplace(changes) if changes else expression


def _close(answer: Any, gold: Any) -> bool:
    """A decimal may stand for an exact number: 1.41421 for sqrt(2)."""
    if not (isinstance(answer, sympy.Expr) and isinstance(gold, sympy.Expr)):
        return False
    if not (answer.is_number and gold.is_number and (answer.has(sympy.Float) or gold.has(sympy.Float))):
        return False
    x, y = sympy.N(answer, 20), sympy.N(gold, 20)
    if not (x.is_Float and y.is_Float):  # complex, infinite
        return False
    exact = Fraction(int(gold)) if gold.is_Integer else Fraction(str(y))
    return same_number(Fraction(str(x)), exact, inexact=True)


def _python(text: str) -> list[Any]:
    """The readings of Python-like text: none if it is something else. A list may stand for a tuple, a set
    or a matrix, as answers that come out of code do."""
    try:
        node = ast.parse(text.strip().replace("^", "**").replace("\u2212", "-"), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Matrix":
            node = node.args[0]
        if isinstance(node, (ast.List, ast.Tuple)):
            items = node.elts
            if items and all(isinstance(item, (ast.List, ast.Tuple)) for item in items):
                rows = [[_value(cell) for cell in item.elts] for item in items if hasattr(item, "elts")]
                return [sympy.Matrix(rows), sympy.FiniteSet(*(sympy.Tuple(*row) for row in rows))]
            values = [_value(item) for item in items]
            return [sympy.Tuple(*values), sympy.FiniteSet(*values)]
        if isinstance(node, ast.Set):
            return [sympy.FiniteSet(*(_value(item) for item in node.elts))]
        return [_value(node)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, ArithmeticError):
        return []


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError("a truth value is no number")
        case ast.Constant(value=int() as number):
            return sympy.Integer(number)
        case ast.Constant(value=float() as number):
            return sympy.Float(str(number))
        case ast.Constant(value=complex() as number):
            return sympy.Float(str(number.imag)) * sympy.I
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Name(id=name) if len(name) == 1:
            return sympy.Symbol(name, real=True)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(_value(left), op, _value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(arg) for arg in args))
    raise ValueError(f"{type(node).__name__} is not allowed")


def _binary(left: Any, op: ast.operator, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            return left**right
    raise ValueError(f"{type(op).__name__} is not allowed")


def _limit_process() -> None:
    # Growth from here on: what the libraries reserved for themselves differs between machines.
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_job(seconds: float) -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(spent.ru_utime + spent.ru_stime + 2 * seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    logging.disable(logging.CRITICAL)
    # Replies go out on a descriptor of their own: what a library prints must not look like one.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_process()
    for answer, gold in _WARMING:
        compare(answer, gold)
    while True:
        fork = os.fork()
        if fork == 0:
            _serve(replies)
            os._exit(0)
        _, status = os.waitpid(fork, 0)
        if status == 0:
            return  # no more jobs


def _serve(replies: TextIO) -> None:
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    # Unbuffered: a fork must not take more than its job out of the pipe.
    for line in os.fdopen(os.dup(0), "rb", buffering=0):
        try:
            job = json.loads(line)
        except ValueError:
            continue  # the rest of a job that a fork was reading when it was killed
        _limit_job(job["seconds"])
        try:
            correct, method, detail = compare(job["answer"], job["gold"])
        except MemoryError:
            correct, method, detail = False, "memory", "comparing took too much memory"
        except Exception as error:
            correct, method, detail = False, "math", f"cannot be compared: {type(error).__name__}"
        reply = {"job": job["job"], "correct": bool(correct), "method": method, "detail": detail}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
