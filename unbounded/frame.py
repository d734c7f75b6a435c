"""The user's verbs: each returns a frame around a bigger plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import polars as pl
from polars._typing import ColumnNameOrSelector, IntoExpr

from unbounded.aggregates import cut
from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import expand, passes, why_not_rowwise
from unbounded.plan import Aggregate, Join, Node, Static, Step, watermarked
from unbounded.reductions import Reducible
from unbounded.refusals import REFUSED, REFUSED_OF_GROUPS, refusal
from unbounded.viewing import Viewable
from unbounded.windows import LABEL, Closed, windows_of
from unbounded.writing import Writable

__all__ = ["StreamFrame", "StreamGroupBy"]

P = ParamSpec("P")
T = TypeVar("T")
_RESERVED = re.compile(r"__(\w+__|\d+|key_\d+.*)")


class StreamFrame(Reducible, Viewable, Writable):
    """A lazy query over tables that keep growing. Verbs have the names and arguments of `pl.LazyFrame`.

    Nothing runs before a sink is named. Frames are immutable and may be used in several queries.
    """

    is_streaming = True

    def __init__(self, plan: Node) -> None:
        self._plan = plan
        # Polars' own errors belong to the line that made them, and so does this one.
        if taken := [name for name in plan.schema if _RESERVED.fullmatch(name)]:
            raise PlanError(
                f"the column name {taken[0]!r} is one the engine uses for itself. Give the column another name"
            )

    # Rows ---------------------------------------------------------------------------------------
    def filter(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Keep the rows for which every predicate is true."""
        return self._step("filter", self._predicates(predicates, constraints))

    def remove(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Leave out the rows for which every predicate is true."""
        return self._step("remove", self._predicates(predicates, constraints))

    def select(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> StreamFrame:
        """Columns computed row by row; or, if every expression is an aggregate, one row over the whole stream."""
        found = expand(self._plan.schema, exprs, named_exprs)
        reasons = {expr.meta.output_name(): why_not_rowwise(expr, self._plan.schema) for expr in found}
        literal = {expr.meta.output_name() for expr in found if not expr.meta.root_names()}
        rowwise = [name for name, reason in reasons.items() if reason is None and name not in literal]
        aggregated = [name for name, reason in reasons.items() if reason is not None]
        if aggregated and rowwise:
            why = reasons[aggregated[0]]
            raise UnsupportedOperationError(
                f"select() of {rowwise[0]!r} beside {aggregated[0]!r}",
                because=f"{why}, and every row would change again with each later one",
                instead="aggregate in one frame and keep the rows in another",
            )
        if aggregated:
            cut(found, self._plan.schema)
            return StreamFrame(Aggregate(self._plan, (), found))
        if not rowwise:
            raise UnsupportedOperationError(
                "select() of literals alone", because="it has one row, whatever comes", instead="with_columns(...)"
            )
        return self._step("select", found)

    def with_columns(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> StreamFrame:
        """Add or replace columns, each computed from its row alone."""
        return self._step("with_columns", expand(self._plan.schema, exprs, named_exprs))

    select_seq, with_columns_seq = select, with_columns

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str], *, strict: bool = True) -> StreamFrame:
        """Rename columns; event time and keys stay what they are."""
        names = self.columns
        pairs = {name: mapping(name) for name in names} if callable(mapping) else dict(mapping)
        return self._step("rename", mapping=pairs, strict=strict)

    def drop(self, *columns: ColumnNameOrSelector | Iterable[ColumnNameOrSelector], strict: bool = True) -> StreamFrame:
        """Leave out columns."""
        gone = pl.LazyFrame(schema=self._plan.schema).drop(*columns, strict=strict).collect_schema().names()
        return self._step("select", tuple(pl.col(name) for name in gone))

    def cast(self, dtypes: Any, *, strict: bool = True) -> StreamFrame:
        """Change the types of columns."""
        return self._step("cast", dtypes=dtypes, strict=strict)

    def explode(
        self,
        columns: ColumnNameOrSelector | Iterable[ColumnNameOrSelector],
        *more_columns: ColumnNameOrSelector,
        empty_as_null: bool = False,
        keep_nulls: bool = True,
    ) -> StreamFrame:
        """One row per element of list columns."""
        exploded = [columns] if isinstance(columns, str) or not isinstance(columns, Iterable) else list(columns)
        return self._step(
            "explode", columns=[*exploded, *more_columns], empty_as_null=empty_as_null, keep_nulls=keep_nulls
        )

    def unnest(
        self, columns: Any = None, *more_columns: ColumnNameOrSelector, separator: str | None = None
    ) -> StreamFrame:
        """The fields of struct columns as columns."""
        wanted = columns if not more_columns else [columns, *more_columns]
        return self._step("unnest", columns=wanted, separator=separator)

    def unpivot(
        self, on: Any = None, *, index: Any = None, variable_name: str | None = None, value_name: str | None = None
    ) -> StreamFrame:
        """One row per row and column of `on`."""
        return self._step("unpivot", on=on, index=index, variable_name=variable_name, value_name=value_name)

    def drop_nulls(self, subset: Any = None) -> StreamFrame:
        """Leave out the rows with a null in `subset` (by default in any column)."""
        return self._step("drop_nulls", subset=subset)

    def drop_nans(self, subset: Any = None) -> StreamFrame:
        """Leave out the rows with a NaN in `subset` (by default in any float column)."""
        return self._step("drop_nans", subset=subset)

    def fill_null(
        self,
        value: Any = None,
        strategy: str | None = None,
        limit: int | None = None,
        *,
        matches_supertype: bool = True,
    ) -> StreamFrame:
        """Replace nulls by a value or a row-wise expression."""
        if strategy is not None or limit is not None:
            raise UnsupportedOperationError(
                f"fill_null(strategy={strategy!r})",
                because="it looks at other rows than the one it fills",
                instead="fill_null(value), or fill in query.read()",
            )
        if isinstance(value, pl.Expr):
            self._refuse_others("fill_null", [value])
        return self._step("fill_null", value=value, matches_supertype=matches_supertype)

    def fill_nan(self, value: int | float | pl.Expr | None) -> StreamFrame:
        """Replace NaN by a value or a row-wise expression."""
        if isinstance(value, pl.Expr):
            self._refuse_others("fill_nan", [value])
        return self._step("fill_nan", value=value)

    def pipe(self, function: Callable[Concatenate[StreamFrame, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(self, ...)`: how one function serves bounded and unbounded frames."""
        return function(self, *args, **kwargs)

    def pipe_with_schema(self, function: Callable[[StreamFrame, pl.Schema], T]) -> T:
        """`function(self, schema)`."""
        return function(self, self.collect_schema())

    def lazy(self) -> StreamFrame:
        """The frame itself."""
        return self

    clone = cache = lazy

    def set_sorted(self, column: str | list[str], *more_columns: str, **options: Any) -> StreamFrame:
        """The frame itself: rows of a stream come in any order, and nothing here relies on it."""
        return self

    def inspect(self, fmt: str = "{}") -> StreamFrame:
        """Print the rows of each batch as they pass."""
        return self._step("inspect", fmt=fmt)

    def _predicates(self, predicates: Sequence[Any], constraints: Mapping[str, Any]) -> tuple[pl.Expr, ...]:
        named = [pl.col(name).eq(value) for name, value in constraints.items()]
        flat = [one for item in predicates for one in (item if isinstance(item, list | tuple) else [item])]
        exprs = [pl.lit(one) if isinstance(one, bool) else one for one in flat]
        return expand(self._plan.schema, [*exprs, *named], {}, unnamed=True)

    def _step(self, verb: str, exprs: tuple[pl.Expr, ...] = (), **options: Any) -> StreamFrame:
        frame = StreamFrame(Step(self._plan, verb, exprs, options))
        self._refuse_others(verb, exprs)
        return frame

    def _refuse_others(self, verb: str, exprs: Iterable[pl.Expr]) -> None:
        """Raise for the expressions that are not row-wise, all at once."""
        reasons = [reason for expr in exprs if (reason := why_not_rowwise(expr, self._plan.schema)) is not None]
        if reasons:
            raise UnsupportedOperationError(
                f"{verb}() with such an expression",
                because="; and ".join(reasons),
                instead="compute it in group_by(...).agg(...), or over the bounded answer with query.read()",
            )

    # Time ---------------------------------------------------------------------------------------
    def with_watermark(self, column: str, delay: str | timedelta) -> StreamFrame:
        """Declare event time: rows may come up to `delay` behind the newest `column` seen; see `ub.with_watermark`."""
        return StreamFrame(watermarked(self._plan, column, delay))

    @property
    def ub(self) -> StreamNamespace:
        """The verbs that Polars lacks, as on `pl.LazyFrame.ub`."""
        return StreamNamespace(self)

    # Tables -------------------------------------------------------------------------------------
    def join(
        self,
        other: pl.LazyFrame | pl.DataFrame,
        on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        how: str = "inner",
        *,
        left_on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        right_on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        suffix: str = "_right",
        validate: str = "m:m",
        nulls_equal: bool = False,
        coalesce: bool | None = None,
        maintain_order: Literal["none", "left"] | None = None,
    ) -> StreamFrame:
        """Join with a bounded frame: inner, left, semi or anti.

        A DataFrame never changes; a LazyFrame is read once at each start. NaN keys match, nulls only with
        `nulls_equal`. Rows of the stream keep their columns' names.
        """
        if isinstance(other, StreamFrame):
            raise UnsupportedOperationError(
                "join() of two streams", because="it is not built yet", instead="join with a bounded pl.LazyFrame"
            )
        if how not in ("inner", "left", "semi", "anti"):
            raise UnsupportedOperationError(
                f"join(how={how!r}) with a bounded frame",
                because="a row of the bounded side that found no match yet could find one in any later batch",
                instead='how="inner", "left", "semi" or "anti"',
            )
        right = Static(other.lazy() if isinstance(other, pl.DataFrame) else other)
        lefts, rights = (
            (_names(on, "on"),) * 2 if on is not None else (_names(left_on, "left_on"), _names(right_on, "right_on"))
        )
        options = {"suffix": suffix, "validate": validate, "nulls_equal": nulls_equal, "coalesce": coalesce}
        options["maintain_order"] = maintain_order
        how_ = cast('Literal["inner", "left", "semi", "anti"]', how)
        return StreamFrame(Join(self._plan, right, how_, lefts, rights, options))

    def group_by(
        self, *by: IntoExpr | Iterable[IntoExpr], maintain_order: bool = False, **named_by: IntoExpr
    ) -> StreamGroupBy:
        """Group by any row-wise expressions; by `dt.truncate` of a watermarked column, groups close."""
        if maintain_order:
            raise UnsupportedOperationError(
                "group_by(maintain_order=True)",
                because="groups of an endless table come out when they change or close",
                instead="sort the answer: query.read().sort(...)",
            )
        keys = expand(self._plan.schema, by, named_by)
        if not keys:
            raise PlanError("group_by() has no key. Name one, or write select(...) of aggregates over the whole stream")
        self._refuse_others("group_by", keys)
        return StreamGroupBy(self._plan, keys)

    def group_by_dynamic(
        self,
        index_column: str | pl.Expr,
        *,
        every: str | timedelta,
        period: str | timedelta | None = None,
        offset: str | timedelta | None = None,
        include_boundaries: bool = False,
        closed: Closed = "left",
        label: Literal["left", "right", "datapoint"] = "left",
        group_by: IntoExpr | Iterable[IntoExpr] | None = None,
        start_by: str = "window",
    ) -> StreamGroupBy:
        """Group by time windows; the input may come in any order.

        Windows start at `dt.truncate(every)` plus `offset`. A row is in every window that contains its
        time. Columns of the answer: the `group_by` keys, the boundaries if included, `index_column` (the
        window's label), then the aggregates. Groups close where `index_column` has a watermark.
        """
        window = windows_of(
            self._plan,
            index_column,
            every=every,
            period=period,
            offset=offset,
            closed=closed,
            label=label,
            boundaries=include_boundaries,
            start_by=start_by,
        )
        by = () if group_by is None else expand(self._plan.schema, [group_by], {})
        self._refuse_others("group_by_dynamic", by)
        boundaries = ("_lower_boundary", "_upper_boundary") if include_boundaries else ()
        keys = (*by, *(pl.col(name) for name in (*boundaries, LABEL)))
        return StreamGroupBy(window, keys, label=window.column)


class StreamGroupBy:
    """A grouped frame: say what to aggregate. `label` names the window column in the answer."""

    def __init__(self, plan: Node, keys: tuple[pl.Expr, ...], *, label: str | None = None) -> None:
        self._plan, self._keys, self._label = plan, keys, label

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> StreamFrame:
        """One row per group: the keys, then any expressions over aggregates of the other columns."""
        taken = {key.meta.output_name() for key in self._keys} | ({self._label} if self._label else set())
        found = expand(self._plan.schema, aggs, named_aggs, without=taken)
        cut(found, self._plan.schema)  # an aggregate that cannot be kept is refused where it is written
        answer: Node = Aggregate(self._plan, self._keys, found)
        if self._label is not None:
            answer = Step(answer, "rename", options={"mapping": {LABEL: self._label}, "strict": True})
        return StreamFrame(answer)

    def len(self, name: str | None = None) -> StreamFrame:
        """The number of rows per group, in the column `name` ("len")."""
        return self.agg(pl.len().alias(name or "len"))

    def sum(self) -> StreamFrame:
        """The sum of every other column per group."""
        return self.agg(pl.all().sum())

    def mean(self) -> StreamFrame:
        """The mean of every other column per group."""
        return self.agg(pl.all().mean())

    def min(self) -> StreamFrame:
        """The least value of every other column per group."""
        return self.agg(pl.all().min())

    def max(self) -> StreamFrame:
        """The greatest value of every other column per group."""
        return self.agg(pl.all().max())

    def n_unique(self) -> StreamFrame:
        """The number of distinct values of every other column per group."""
        return self.agg(pl.all().n_unique())

    def first(self, *, ignore_nulls: bool = False) -> StreamFrame:
        """The first value of every other column per group, in order of arrival."""
        return self.agg(pl.all().first(ignore_nulls=ignore_nulls))

    def last(self, *, ignore_nulls: bool = False) -> StreamFrame:
        """The last value of every other column per group, in order of arrival."""
        return self.agg(pl.all().last(ignore_nulls=ignore_nulls))


for _class, _refused in ((StreamFrame, REFUSED), (StreamGroupBy, REFUSED_OF_GROUPS)):
    for _name in _refused:
        setattr(_class, _name, refusal(_name, _refused))


class StreamNamespace:
    """`frame.ub`: the verbs that Polars lacks, spelt alike on bounded and unbounded frames."""

    def __init__(self, frame: StreamFrame) -> None:
        self._frame = frame

    def with_watermark(self, column: str, delay: str | timedelta) -> StreamFrame:
        """See `ub.with_watermark`."""
        return self._frame.with_watermark(column, delay)


def _names(columns: Any, argument: str) -> tuple[str, ...]:
    found = [columns] if isinstance(columns, str | pl.Expr) else list(columns or [])
    names = [one if isinstance(one, str) else passes(one) for one in found]
    if not names or any(name is None for name in names):
        raise PlanError(
            f"join({argument}={columns!r}): write the names of columns; compute an expression in with_columns first"
        )
    return tuple(cast("list[str]", names))
