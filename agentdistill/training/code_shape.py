"""When two attempts at one task do the same computation: their code has the same shape.

Of several correct samples a student learns from those that differ in how they compute, not in their words
(Yuan et al. 2023, arXiv 2308.01825, keep the samples with distinct lists of equations).

The shape is the syntax tree of all steps' code with these things taken out:
- the names the code itself gives (variables, functions, parameters, `import ... as`): numbered in order of
  appearance, over all steps. Names it only uses (`sum`, `search`, `table`) stay;
- formatting, comments, docstrings, type annotations, `2.0` against `2`;
- the text around the values that `print` shows, which is for the reader.
Other literals stay: within one task, other numbers and other search queries are another computation. So do
the division into steps, the order of statements and temporary variables: code that differs in these is taken
for different, which costs a row that says little new and loses none.

Guaranteed: equal shapes mean equal code up to that list; any text has a shape (code that is no Python: its
words). Code is parsed, never run.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Sequence


def code_shape(codes: Sequence[str]) -> str:
    """SHA-256 of the shape of an attempt's code, step by step, as hex."""
    names: dict[str, str] = {}
    trees = [_parse(code) for code in codes]
    for tree in trees:
        if tree is not None:
            _bind(tree, names)
    shapes = [_dump(tree, names, code) for tree, code in zip(trees, codes, strict=True)]
    text = "\0".join(shapes)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is the model's affair
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # NUL characters, half surrogates and endless nesting too


def _dump(tree: ast.Module | None, names: dict[str, str], code: str) -> str:
    if tree is not None:
        try:
            return ast.dump(_Normalised(names).visit(tree))
        except RecursionError:
            pass  # too deep for the tree's own functions: compare the text
    return "text " + " ".join(code.split())


def _bind(tree: ast.Module, names: dict[str, str]) -> None:
    """Number the names that the code binds, in the order of the source."""
    bound: list[tuple[int, int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                bound.append((node.lineno, node.col_offset, name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.append((node.lineno, node.col_offset, name))
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                bound.append((node.lineno, node.col_offset, name))
    for _, _, name in sorted(bound):
        names.setdefault(name, f"_{len(names)}")


class _Normalised(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self.names.get(node.arg, node.arg), None
        return node

    def visit_alias(self, node: ast.alias) -> ast.AST:
        node.asname = self.names.get(node.asname, node.asname) if node.asname else None
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = self.names.get(node.name, node.name) if node.name else None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self.names.get(node.name, node.name), None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, float) and node.value.is_integer():
            node.value = int(node.value)
        node.kind = None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            values: list[ast.expr] = []
            for value in node.args:
                if isinstance(value, ast.JoinedStr):  # print(f"{a} and {b}") shows what print(a, b) shows
                    values += [part.value for part in value.values if isinstance(part, ast.FormattedValue)]
                elif not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
                    values.append(value)
            node.args, node.keywords = values, []
        return self.generic_visit(node)
