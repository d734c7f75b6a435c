"""What does an expression of a case mean in Polars, spelt as one who moves from Spark and wants Spark's answer would?

A window of Spark is a struct; here it is two columns, `w.start` and `w.end`, so that each stays what it is to Polars
(a time, a key) until the answer is compared.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import reduce
from typing import Any, Final, TypeAlias

import polars as pl

import unbounded as ub

__all__ = [
    "DTYPES",
    "Json",
    "UntranslatedError",
    "Window",
    "aggregated",
    "call",
    "columns",
    "conjuncts",
    "delay",
    "gap",
    "is_window",
    "public",
    "translated",
    "value",
    "window",
]

Json: TypeAlias = Any
"""A part of a case, as `json.loads` gives it; its shape is described beside the cases."""

TIME: Final = pl.Datetime("us", "UTC")
DTYPES: Final[Mapping[str, Any]] = {
    "int": pl.Int32,
    "long": pl.Int64,
    "bigint": pl.Int64,
    "double": pl.Float64,
    "string": pl.String,
    "bool": pl.Boolean,
    "boolean": pl.Boolean,
    "timestamp": TIME,
    "date": pl.Date,
}
MICROSECOND: Final = timedelta(microseconds=1)


class UntranslatedError(Exception):
    """The adapter has no Polars spelling for this; nothing is said of the engine."""


class NotBuiltError(Exception):
    """The engine says that it cannot do this yet."""


def public(name: str) -> Any:
    """A function of `unbounded` that may not be there yet."""
    found = getattr(ub, name, None)
    if found is None:
        raise NotBuiltError(f"ub.{name}")
    return found


# ------------------------------------------------------------------------------------------- values
def value(raw: Json, kind: str) -> Any:
    """A value of a case as Python's own."""
    if raw is None:
        return None
    match kind:
        case "timestamp":
            return datetime.fromisoformat(raw)
        case "date":
            return date.fromisoformat(raw)
        case "double":
            return float(raw)
    return raw


# ------------------------------------------------------------------------------------------ lengths
_UNITS: Final = {
    "microsecond": MICROSECOND,
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_MONTHS: Final = {"month": 1, "year": 12}
_PART: Final = re.compile(r"([+-]?\d+)\s*([a-z]+?)s?(?=\s|$)")


def _length(text: str) -> tuple[int, timedelta] | None:
    """Months, and the rest, of Spark's text; None for a text that is no length, which the engine is to refuse."""
    found = _PART.findall(text.lower())
    if not found or _PART.sub("", text.lower()).strip() or any(u not in _UNITS | _MONTHS for _, u in found):
        return None
    months = sum(int(n) * _MONTHS[unit] for n, unit in found if unit in _MONTHS)
    return months, sum((int(n) * _UNITS[unit] for n, unit in found if unit in _UNITS), timedelta())


def delay(text: str) -> timedelta | str:
    """The delay of a watermark. A month has no fixed length for Polars; Spark's has 31 days, so write those."""
    found = _length(text)
    return text if found is None else found[1] + found[0] * timedelta(days=31)


def gap(e: Json, schema: pl.Schema) -> timedelta | str | pl.Expr:
    """The gap of a session: a length, or one per row, as Spark writes it in a text such as "5 seconds"."""
    if isinstance(e, str) and e not in schema:
        return delay(e)
    text = translated(e, schema)
    (dtype,) = pl.LazyFrame(schema=schema).select(text).collect_schema().dtypes()
    if isinstance(dtype, pl.Duration):
        return text
    units = {"microsecond": 1, "millisecond": 1_000, "second": 10**6, "minute": 60 * 10**6, "hour": 3600 * 10**6}
    unit = text.str.extract(r"([a-z]+?)s?$").replace_strict(units, default=None, return_dtype=pl.Int64)
    return (text.str.extract(r"^(-?\d+)").cast(pl.Int64) * unit).cast(pl.Duration("us"))


def _period(text: str) -> timedelta | str:
    """The length of a window. A timedelta of whole weeks counts from 1970, as Spark's; Polars' "1w" from a Monday."""
    found = _length(text)
    if found is None:
        return text
    months, rest = found
    return f"{months}mo" if months and not rest else rest


# ------------------------------------------------------------------------------------------ windows
class Window:
    """`window(time, size[, slide[, offset]])` of the cases."""

    def __init__(self, time: Json, size: str, slide: str | None = None, offset: str | None = None) -> None:
        self.time = time
        self.size = _period(size)
        self.slide = self.size if slide is None else _period(slide)
        self.offset = None if offset is None or not _period(offset) else _period(offset)

    def newest(self, time: pl.Expr) -> pl.Expr:
        """The start of the last window that holds a time."""
        if self.offset is None:
            return time.dt.truncate(self.slide)
        offset = pl.lit(self.offset)
        return (time - offset).dt.truncate(self.slide) + offset

    def starts(self, time: pl.Expr) -> list[pl.Expr]:
        """The starts of all windows that can hold a time."""
        if not isinstance(self.size, timedelta) or not isinstance(self.slide, timedelta):
            raise UntranslatedError(f"a window of {self.size} every {self.slide} in a projection")
        count = -(-self.size // self.slide)
        return [self.newest(time) - i * self.slide for i in range(count)]


def call(e: Json, *names: str) -> bool:
    """Whether an expression is a call of one of these operators."""
    return isinstance(e, list) and len(e) > 0 and e[0] in names


def conjuncts(e: Json) -> list[Json]:
    """The conditions that `and` joins."""
    return [one for part in e[1:] for one in conjuncts(part)] if call(e, "and") else [e]


def window(e: Json) -> Window:
    """A window call, taken apart."""
    return Window(*e[1:])


def is_window(e: Json, schema: pl.Schema) -> bool:
    """Whether an expression is a window: a call, or a column that stands for one."""
    return call(e, "window") or (isinstance(e, str) and e not in schema and f"{e}.start" in schema)


def columns(name: str, e: Json, schema: pl.Schema) -> list[pl.Expr]:
    """An expression under a name: one column, or the two of a window that was computed before."""
    if is_window(e, schema):
        return [pl.col(f"{e}.{end}").alias(f"{name}.{end}") for end in ("start", "end")]
    return [translated(e, schema).alias(name)]


# -------------------------------------------------------------------------------------- expressions
def translated(e: Json, schema: pl.Schema) -> pl.Expr:
    """An expression of one column over a frame of this schema."""
    match e:
        case None | bool() | int() | float():
            return pl.lit(e)
        case str():
            return _column(e, schema)
        case {"lit": text}:
            return pl.lit(text)
        case {"ts": text}:
            return pl.lit(value(text, "timestamp"), TIME)
        case ["==" | "<=>" as name, left, right] if is_window(left, schema) and is_window(right, schema):
            ends = ("start", "end")
            return reduce(operator.and_, (translated([name, f"{left}.{x}", f"{right}.{x}"], schema) for x in ends))
        case ["is_null" | "is_not_null" as name, str(column)] if is_window(column, schema):
            return translated([name, f"{column}.start"], schema)
        case ["cast", operand, kind]:
            return _cast(operand, kind, schema)
        case ["field", operand, str(name)]:
            return translated(f"{operand}.{name}" if isinstance(operand, str) else operand, schema)
        case ["window_time", str(column)]:
            end: pl.Expr = public("window_time")(f"{column}.end")
            return end
        case ["ts_add" | "ts_sub" as name, time, text]:
            return _shifted(translated(time, schema), text, 1 if name == "ts_add" else -1)
        case ["concat", *parts]:
            return pl.concat_str(_cast(part, "string", schema) for part in parts)
        case ["random"]:
            # Polars has no random number per row, so it takes a function of the row that does not look at it.
            first = pl.col(schema.names()[0])
            return first.map_elements(lambda _: random.random(), return_dtype=pl.Float64, skip_nulls=False)
        case ["now"]:
            now: pl.Expr = public("current_timestamp")()
            return now
        case [str(name), *parts] if name in _OPERATORS:
            return _OPERATORS[name](*(translated(part, schema) for part in parts))
    raise UntranslatedError(f"the expression {e!r}")


def _column(name: str, schema: pl.Schema) -> pl.Expr:
    if name in schema or "." not in name:
        return pl.col(name)
    first, *fields = name.split(".")
    return reduce(lambda column, field: column.struct.field(field), fields, pl.col(first))


def _shifted(time: pl.Expr, text: str, sign: int) -> pl.Expr:
    found = _length(text)
    if found is None:
        raise UntranslatedError(f"the interval {text!r}")
    months, rest = sign * found[0], sign * found[1]
    if months:
        time = time.dt.offset_by(f"{'-' if months < 0 else ''}{abs(months)}mo")
    return time + rest


def _cast(e: Json, kind: str, schema: pl.Schema) -> pl.Expr:
    operand, wanted = translated(e, schema), DTYPES[kind]
    dtype = pl.LazyFrame(schema=schema).select(operand).collect_schema().dtypes()[0]
    if isinstance(dtype, pl.Datetime) and wanted in (pl.Int32, pl.Int64):
        return operand.dt.epoch("s").cast(wanted)
    if dtype.is_numeric() and wanted == TIME:
        return _from_seconds(operand)
    if dtype == pl.String and wanted != pl.String:
        return operand.str.strip_chars().cast(wanted)
    return operand if dtype == wanted else operand.cast(wanted)


def _from_seconds(seconds: pl.Expr) -> pl.Expr:
    return (seconds * 1_000_000).cast(pl.Int64).cast(TIME)


def _remainder(dividend: pl.Expr, divisor: pl.Expr) -> pl.Expr:
    """With the sign of the dividend, where Polars' `%` has the divisor's."""
    return dividend.sign() * (dividend.abs() % divisor.abs())


_OPERATORS: Final[Mapping[str, Callable[..., pl.Expr]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": _remainder,
    "floor_div": lambda left, right: (left // right).cast(pl.Int64),
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "<=>": lambda left, right: left.eq_missing(right),
    "and": lambda *parts: reduce(operator.and_, parts),
    "or": lambda *parts: reduce(operator.or_, parts),
    "not": operator.invert,
    "is_null": pl.Expr.is_null,
    "is_not_null": pl.Expr.is_not_null,
    "if": lambda condition, then, other: pl.when(condition).then(then).otherwise(other),
    "coalesce": lambda *parts: pl.coalesce(*parts),
    "upper": lambda text: text.str.to_uppercase(),
    "length": lambda text: text.str.len_chars().cast(pl.Int64),
    "from_seconds": _from_seconds,
    "to_seconds": lambda time: time.dt.epoch("s"),
}


# --------------------------------------------------------------------------------------- aggregates
def aggregated(a: Json, schema: pl.Schema) -> pl.Expr:
    """An aggregate of a case, named. Spark's sum and bool_or of nothing are null, Polars' are 0 and false."""
    return _aggregate(a, schema).alias(a["name"])


def _aggregate(a: Json, schema: pl.Schema) -> pl.Expr:
    function, arg = a["fn"], a.get("arg")
    if function == "count" and arg is None:
        return pl.len()
    x = translated(f"{arg}.start" if is_window(arg, schema) else arg, schema)
    dtype = pl.LazyFrame(schema=schema).select(x).collect_schema().dtypes()[0]
    if function in ("sum", "sum_distinct") and dtype.is_integer():
        x = x.cast(pl.Int64)
    if function in ("min_by", "max_by"):
        return _AGGREGATES[function](x, translated(a["by"], schema))
    if function == "max" and dtype.is_float():  # NaN is the greatest number, which Polars' max() leaves out
        return x.nan_max()
    if function in _AGGREGATES:
        return _AGGREGATES[function](x)
    raise UntranslatedError(f"the aggregate {function!r}")


def _unless_nothing(x: pl.Expr, answer: pl.Expr) -> pl.Expr:
    return pl.when(x.count() > 0).then(answer)


_AGGREGATES: Final[Mapping[str, Callable[..., pl.Expr]]] = {
    "count": pl.Expr.count,
    "sum": lambda x: _unless_nothing(x, x.sum()),
    "min": pl.Expr.min,
    "max": pl.Expr.max,
    "mean": pl.Expr.mean,
    "std": pl.Expr.std,
    "var": pl.Expr.var,
    "median": pl.Expr.median,
    "first": pl.Expr.first,
    "last": pl.Expr.last,
    "min_by": lambda x, by: x.min_by(by),
    "max_by": lambda x, by: x.max_by(by),
    "any": lambda x: _unless_nothing(x, x.any()),
    "all": lambda x: _unless_nothing(x, x.all()),
    "collect_list": lambda x: x.drop_nulls().implode().list.sort(),
    "collect_set": lambda x: x.drop_nulls().unique().implode().list.sort(),
    "n_unique_set": lambda x: x.drop_nulls().n_unique(),
    "n_unique_exact": lambda x: x.drop_nulls().n_unique(),
    "n_unique_approx": lambda x: x.drop_nulls().approx_n_unique(),
    "sum_distinct": lambda x: _unless_nothing(x, x.unique().sum()),
}
