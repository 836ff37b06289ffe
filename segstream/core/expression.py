"""The small safe language of features: `log1p(spend[90d] / orders[90d])`.

An expression is parsed once into a tree; its leaves are **terms**, values that the state
provides per row. Evaluation is float64, in the order written; NaN stands for missing.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MINUTE = 60_000
_UNITS = {"s": 1_000, "m": MINUTE, "h": 60 * MINUTE, "d": 1_440 * MINUTE}
_DURATION = re.compile(r"([1-9]\d{0,8})([smhd])")
# `orders[90d]` is not Python; quoting the duration makes it so, and ast does the rest.
_WINDOW = re.compile(r"\[\s*(\w+)\s*\]")


@lru_cache
def parse_duration(text: str) -> int:
    """`30s`, `15m`, `6h`, `90d` in milliseconds; ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a whole number and s, m, h or d: 90d")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Window:
    """Count, sum (in units) or number of distinct values of a measure in the last `length` ms."""

    measure: str
    length: int


@dataclass(frozen=True)
class Recency:
    """Days since the latest event of a measure."""

    measure: str


@dataclass(frozen=True)
class Value:
    """The kept value of a `last` measure or a trait."""

    name: str


@dataclass(frozen=True)
class Is:
    """1 if the trait has this declared value, 0 if another, missing if none."""

    trait: str
    value: str


Term = Window | Recency | Value | Is


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Operation:
    name: str
    arguments: tuple["Node", ...]


Node = Term | Number | Operation

_BINARY = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
LONGEST = 200
"""Characters; so deep an expression may be nested, and recursion holds that."""
_FUNCTIONS = {"min": 2, "max": 2, "log1p": 1}


def parse(text: str) -> Node:
    """The tree of an expression; ValueError says what is wrong with it.

    It is never executed, whoever wrote it: the models' expressions come from a topic.
    """
    if len(text) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters, not {len(text)}")
    try:
        tree = ast.parse(_WINDOW.sub(r"['\1']", text.strip()), mode="eval")
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ValueError(f"{text!r} is not an expression") from error
    return _node(tree.body)


def _node(node: ast.expr) -> Node:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return Number(float(number))
        case ast.Name(id=name):
            return Value(name)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as length)):
            return Window(name, parse_duration(length))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Operation("subtract", (Number(0.0), _node(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return Operation(_BINARY[type(op)], (_node(left), _node(right)))
        case ast.Call(func=ast.Name(id="recency"), args=[ast.Name(id=name)], keywords=[]):
            return Recency(name)
        case ast.Call(
            func=ast.Name(id="is_"),
            args=[ast.Name(id=name), ast.Constant(value=str() as value)],
            keywords=[],
        ):
            return Is(name, value)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if _FUNCTIONS.get(
            name
        ) == len(arguments):
            return Operation(name, tuple(_node(argument) for argument in arguments))
    raise ValueError(
        f"{ast.unparse(node)!r} is not understood; an expression has numbers, + - * /, "
        "measure[90d], recency(measure), traits, is_(trait, 'value'), min(a, b), "
        "max(a, b), log1p(a)"
    )


def terms(node: Node) -> Iterator[Term]:
    """The leaves of a tree that the state provides."""
    if isinstance(node, Operation):
        for argument in node.arguments:
            yield from terms(argument)
    elif not isinstance(node, Number):
        yield node


def named(term: Term) -> str:
    """The measure or trait that a term asks for."""
    match term:
        case Window(name) | Recency(name) | Value(name) | Is(name):
            return name


def evaluate(  # noqa: PLR0911 (one return an operation)
    node: Node, values: Mapping[Term, Floats], rows: int
) -> Floats:
    """Value of the tree per row, float64 [rows]; NaN = missing. numpy is to be told not to warn."""
    if isinstance(node, Number):
        return np.full(rows, node.value)
    if not isinstance(node, Operation):
        return values[node]
    first, *rest = (evaluate(argument, values, rows) for argument in node.arguments)
    match node.name:
        case "add":
            return first + rest[0]
        case "subtract":
            return first - rest[0]
        case "multiply":
            return first * rest[0]
        case "divide":
            return np.where(rest[0] == 0, np.nan, first / rest[0])
        case "min":
            return np.minimum(first, rest[0])
        case "max":
            return np.maximum(first, rest[0])
        case _:
            return np.where(first > -1, np.log1p(first), np.nan)
