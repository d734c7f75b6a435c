"""What stands inside a Polars expression: its tree as plain Python values, and back.

The tree is what `Expr.meta.serialize()` writes, a public door: nested dicts with one key (the kind of
node), lists and scalars. It is read from the binary form, which is MessagePack, because the JSON form
writes NaN and the infinities as null and cannot be read back then. `tests/test_expressions.py` pins
the shapes that the library relies on.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import polars as pl

__all__ = [
    "Tree",
    "children",
    "expression",
    "kind",
    "nodes",
    "parsed",
    "rewrite",
    "tree_of",
    "unaliased",
    "with_children",
]

Tree: TypeAlias = Any
"""A node: `{kind: body}`, or a bare kind such as "Len"; integers of 128 bits and Arrow data are bytes."""

_PARTS = {
    "BinaryExpr": ("left", "right"),
    "Cast": ("expr",),
    "Eval": ("expr",),
    "Explode": ("input",),
    "Filter": ("input", "by"),
    "Function": ("input",),
    "Gather": ("expr", "idx"),
    "Over": ("function", "partition_by"),
    "RenameAlias": ("expr",),
    "Rolling": ("function", "index_column"),
    "Slice": ("input", "offset", "length"),
    "Sort": ("expr",),
    "SortBy": ("expr", "by"),
    "StructEval": ("expr", "evaluation"),
    "Ternary": ("predicate", "truthy", "falsy"),
}
"""Where a kind of node keeps its parts: each field holds one node, or a list of them."""


def tree_of(expr: pl.Expr) -> Tree:
    """The tree of an expression. ComputeError if it holds a Python function, which cannot be read."""
    return parsed(expr.meta.serialize())


def parsed(data: bytes) -> Tree:
    """The tree in the bytes of `Expr.meta.serialize()`; nothing in them is run. Never change it: others may have it."""
    return _remembered(data) if len(data) < _LARGE else _read(io.BytesIO(data))


_LARGE = 10_000  # bytes; a larger one holds rows of its own, which should go with the expression


@lru_cache(maxsize=1_000)  # the same expressions are read again where a plan is checked, run, and started again
def _remembered(data: bytes) -> Tree:
    return _read(io.BytesIO(data))


def expression(tree: Tree) -> pl.Expr:
    """The expression of a tree."""
    return pl.Expr.deserialize(_written(tree))


def kind(tree: Tree) -> str:
    """What a node is: "Column", "Literal", "Agg", "Function", ..."""
    return tree if isinstance(tree, str) else next(iter(tree))


def unaliased(tree: Tree) -> Tree:
    """What a node computes, whatever it is called."""
    while kind(tree) in ("Alias", "RenameAlias", "KeepName"):
        (tree,) = children(tree)
    return tree


def rewrite(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """The same node over changed parts, which are visited from left to right."""
    match tree:
        case {"KeepName": part}:
            return {"KeepName": change(part)}
        case {"Alias": [part, name]}:
            return {"Alias": [change(part), name]}
        case {"Agg": aggregate}:
            ((name, body),) = aggregate.items()
            return {"Agg": {name: _rewrite_aggregated(body, change)}}
        case dict() if fields := _PARTS.get(kind(tree)):
            ((name, body),) = tree.items()
            return {name: {key: _each(value, change) if key in fields else value for key, value in body.items()}}
        case _:
            return tree


def _rewrite_aggregated(body: Tree, change: Callable[[Tree], Tree]) -> Tree:
    match body:
        case [part, *options]:
            return [change(part), *options]
        case {"input": part}:
            return {**body, "input": change(part)}
        case _:
            return change(body)


def _each(value: Tree, change: Callable[[Tree], Tree]) -> Tree:
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def children(tree: Tree) -> list[Tree]:
    """The parts of a node, from left to right."""
    found: list[Tree] = []

    def note(part: Tree) -> Tree:
        found.append(part)
        return part

    rewrite(tree, note)
    return found


def with_children(tree: Tree, parts: Sequence[Tree]) -> Tree:
    """The same node over as many other parts."""
    following = iter(parts)
    return rewrite(tree, lambda _: next(following))


def nodes(tree: Tree) -> list[Tree]:
    """A node and everything below it, parents first."""
    return [tree, *(node for part in children(tree) for node in nodes(part))]


# ------------------------------------------------------------------------------------ MessagePack
# https://github.com/msgpack/msgpack/blob/master/spec.md; extension types do not occur.
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    mark: struct.Struct(form)
    for mark, form in zip(range(0xCA, 0xD4), (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), strict=True)
}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _read(stream: io.BytesIO) -> Tree:
    mark = stream.read(1)[0]
    if mark <= 0x7F or mark >= 0xE0:
        return mark if mark <= 0x7F else mark - 0x100
    if mark in _CONSTANTS:
        return _CONSTANTS[mark]
    if number := _NUMBERS.get(mark):
        return number.unpack(stream.read(number.size))[0]
    if mark < 0xC0:
        size = mark & (0x1F if mark >= 0xA0 else 0x0F)
    else:
        size = int.from_bytes(stream.read(_SIZED[mark]), "big")
    if mark <= 0x8F or mark >= 0xDE:
        return {_read(stream): _read(stream) for _ in range(size)}
    if mark <= 0x9F or mark >= 0xDC:
        return [_read(stream) for _ in range(size)]
    data = stream.read(size)
    return data if 0xC4 <= mark <= 0xC6 else data.decode()


def _written(value: Tree) -> bytes:
    match value:
        case None | bool():
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case int():
            return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str():
            data = value.encode()
            return struct.pack(">BI", 0xDB, len(data)) + data
        case bytes():
            # Polars reads integers of 128 bits from the shortest form only.
            small = len(value) < 0x100
            return struct.pack(">BB" if small else ">BI", 0xC4 if small else 0xC6, len(value)) + value
        case list():
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(_written, value))
        case dict():
            pairs = (_written(part) for pair in value.items() for part in pair)
            return struct.pack(">BI", 0xDF, len(value)) + b"".join(pairs)
    raise TypeError(f"{type(value).__name__} does not occur in a tree")
