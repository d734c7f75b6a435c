"""The user's verbs: each returns a frame around a bigger plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import polars as pl
from polars._typing import ColumnNameOrSelector, IntoExpr, PivotAgg

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import GUESSES, expand, python_function, why_not_rowwise
from unbounded.expressions.looking import looks_along_time
from unbounded.plan import Aggregate, Node, Step
from unbounded.plan.windows import LABEL, Closed, windows_of
from unbounded.spark.names import NamesOfFrames
from unbounded.spark.writing import SparkWritable
from unbounded.verbs.around import LooksAround
from unbounded.verbs.grouping import StreamGroupBy, pivoted, sessions_of
from unbounded.verbs.joins import Joinable
from unbounded.verbs.positions import Positional
from unbounded.verbs.reductions import Reducible
from unbounded.verbs.refusals import REFUSED, refusal
from unbounded.verbs.viewing import Viewable
from unbounded.verbs.writing import Writable
from unbounded.watermarks import watermarked

__all__ = ["StreamFrame"]

P = ParamSpec("P")
T = TypeVar("T")
_PATTERN = re.compile(r"\*|\^.*\$", re.DOTALL)
_RESERVED = re.compile(r"__(\w+__|\d+|key_\d+.*)")


class StreamFrame(Joinable, LooksAround, NamesOfFrames, Positional, Reducible, SparkWritable, Viewable, Writable):
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
        if patterns := [name for name in plan.schema if _PATTERN.fullmatch(name)]:
            raise PlanError(
                f"the column name {patterns[0]!r} stands for all columns, or those of a pattern, wherever Polars is "
                "asked for a column. Rename it where the rows come from"
            )

    def _around(self, node: Node) -> StreamFrame:
        return StreamFrame(node)

    # Rows ---------------------------------------------------------------------------------------
    def filter(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Keep the rows for which every predicate is true."""
        return self._around_or_alone("filter", self._predicates(predicates, constraints))

    def remove(self, *predicates: Any, **constraints: Any) -> StreamFrame:
        """Leave out the rows for which every predicate is true."""
        return self._around_or_alone("remove", self._predicates(predicates, constraints))

    def select(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> StreamFrame:
        """Columns as in `with_columns`; or, if every expression is an aggregate, one row over the whole stream."""
        found = expand(self._plan.schema, exprs, named_exprs)
        if any(map(looks_along_time, found)):
            return self._around_or_alone("select", found)
        reasons = {expr.meta.output_name(): why_not_rowwise(expr, self._plan.schema) for expr in found}
        literal = {expr.meta.output_name() for expr in found if not expr.meta.root_names()}
        rowwise = [name for name, reason in reasons.items() if reason is None and name not in literal]
        aggregated = [name for name, reason in reasons.items() if reason is not None]
        if any(GUESSES in (reason or "") for reason in reasons.values()):
            self._refuse_others("select", found)
        if aggregated and rowwise:
            why = reasons[aggregated[0]]
            raise UnsupportedOperationError(
                f"select() of {rowwise[0]!r} beside {aggregated[0]!r}",
                because=f"{why}, and every row would change again with each later one",
                instead="aggregate in one frame and keep the rows in another",
            )
        if aggregated:
            node = Aggregate(self._plan, (), found)
            node.cut  # noqa: B018  # refuses what cannot be kept
            return StreamFrame(node)
        if not rowwise:
            raise UnsupportedOperationError(
                "select() of literals alone", because="it has one row, whatever comes", instead="with_columns(...)"
            )
        return self._step("select", found)

    select_seq = select

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str], *, strict: bool = True) -> StreamFrame:
        """Rename columns; event time and keys stay what they are."""
        names = self.columns
        pairs = {name: mapping(name) for name in names} if callable(mapping) else dict(mapping)
        return self._step("rename", mapping=pairs, strict=strict)

    def drop(self, *columns: ColumnNameOrSelector | Iterable[ColumnNameOrSelector], strict: bool = True) -> StreamFrame:
        """Leave out columns."""
        kept = pl.LazyFrame(schema=self._plan.schema).drop(*columns, strict=strict).collect_schema().names()
        return self._step("select", tuple(pl.col(name) for name in kept))

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
        if strategy in ("zero", "one") and limit is None and value is None:
            return self._step("fill_null", strategy=strategy)
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

    def match_to_schema(
        self,
        schema: Any,
        *,
        missing_columns: Any = "raise",
        missing_struct_fields: Any = "raise",
        extra_columns: Literal["ignore", "raise"] = "raise",
        extra_struct_fields: Any = "raise",
        integer_cast: Any = "forbid",
        float_cast: Any = "forbid",
    ) -> StreamFrame:
        """The columns of `schema`, in its order; the options say what becomes of missing and extra ones."""
        return self._step(
            "match_to_schema",
            schema=schema,
            missing_columns=missing_columns,
            missing_struct_fields=missing_struct_fields,
            extra_columns=extra_columns,
            extra_struct_fields=extra_struct_fields,
            integer_cast=integer_cast,
            float_cast=float_cast,
        )

    def map_batches(
        self,
        function: Callable[[pl.DataFrame], pl.DataFrame],
        *,
        predicate_pushdown: bool = False,
        projection_pushdown: bool = False,
        slice_pushdown: bool = False,
        schema: Any = None,
        validate_output_schema: bool = True,
        streamable: bool = False,
    ) -> StreamFrame:
        """Apply a function to frames of any number of rows; `streamable=True` declares that it treats each row alone.

        It must give the same rows for the same rows, for a batch may run again after a crash.
        """
        if not streamable:
            raise UnsupportedOperationError(
                "map_batches()",
                because="a function of whole frames cannot be told to treat each row alone",
                instead="map_batches(function, streamable=True) to declare that it does, or foreach_batch(function)",
            )
        return self._step(
            "map_batches",
            function=function,
            predicate_pushdown=predicate_pushdown,
            projection_pushdown=projection_pushdown,
            slice_pushdown=slice_pushdown,
            schema=schema,
            validate_output_schema=validate_output_schema,
            streamable=True,
        )

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

    def set_sorted(
        self,
        column: str | list[str],
        *more_columns: str,
        descending: bool | list[bool] = False,
        nulls_last: bool | list[bool] = False,
    ) -> StreamFrame:
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
        # Some mistakes Polars finds only when it computes: a time with a zone beside one without, text beside a number.
        if exprs and not any(map(python_function, exprs)):
            frame._plan.apply(pl.LazyFrame(schema=self._plan.schema)).collect()
        return frame

    # Time ---------------------------------------------------------------------------------------
    def with_watermark(self, column: str | pl.Expr, delay: str | timedelta) -> StreamFrame:
        """Declare event time: rows may come up to `delay` behind the newest `column` seen; see `ub.with_watermark`."""
        return StreamFrame(watermarked(self._plan, column, delay))

    @property
    def ub(self) -> StreamNamespace:
        """The verbs that Polars lacks, as on `pl.LazyFrame.ub`."""
        return StreamNamespace(self)

    # Groups -------------------------------------------------------------------------------------
    def group_by(
        self, *by: IntoExpr | Iterable[IntoExpr], maintain_order: bool = False, **named_by: IntoExpr
    ) -> StreamGroupBy[StreamFrame]:
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
        return StreamGroupBy(self._plan, keys, StreamFrame)

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
    ) -> StreamGroupBy[StreamFrame]:
        """Group by time windows; the input may come in any order.

        Windows start at `dt.truncate(every)` plus `offset`. A row is in every window that contains its time; also in
        one that begins before the first row of all, which Polars leaves out. Columns of the answer: the `group_by`
        keys, the boundaries if included, `index_column` (the window's label), then the aggregates. Groups close where
        `index_column` has a watermark.
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
        return StreamGroupBy(window, keys, StreamFrame, label=window.column)

    def group_by_session(
        self,
        index_column: str | pl.Expr,
        *,
        gap: str | timedelta | pl.Expr,
        include_boundaries: bool = False,
        group_by: IntoExpr | Iterable[IntoExpr] | None = None,
    ) -> StreamGroupBy[StreamFrame]:
        """Group rows of a key that follow each other within `gap`; see `ub.group_by_session`."""
        by = () if group_by is None else expand(self._plan.schema, [group_by], {})
        self._refuse_others("group_by_session", [*by, *([gap] if isinstance(gap, pl.Expr) else [])])
        return sessions_of(self._plan, StreamFrame, index_column, gap=gap, boundaries=include_boundaries, by=by)

    def pivot(
        self,
        on: ColumnNameOrSelector | Sequence[ColumnNameOrSelector],
        on_columns: Sequence[Any] | pl.Series | pl.DataFrame,
        *,
        index: ColumnNameOrSelector | Sequence[ColumnNameOrSelector] | None = None,
        values: ColumnNameOrSelector | Sequence[ColumnNameOrSelector] | None = None,
        aggregate_function: PivotAgg | pl.Expr | None = None,
        maintain_order: bool = False,
        separator: str = "_",
        column_naming: Literal["auto", "combine"] = "auto",
    ) -> StreamFrame:
        """One row per value of `index`, one column per value of `on` given in `on_columns`: a group_by of `index`."""
        asked = {
            "on": on,
            "on_columns": on_columns,
            "index": index,
            "values": values,
            "aggregate_function": aggregate_function,
            "maintain_order": maintain_order,
            "separator": separator,
            "column_naming": column_naming,
        }
        return StreamFrame(pivoted(self._plan, asked))


for _name in REFUSED:
    setattr(StreamFrame, _name, refusal(_name, REFUSED))


class StreamNamespace:
    """`frame.ub`: the verbs that Polars lacks, spelt alike on bounded and unbounded frames."""

    def __init__(self, frame: StreamFrame) -> None:
        self.with_watermark, self.unique_within_watermark = frame.with_watermark, frame.unique_within_watermark
        self.group_by_session, self.join_where = frame.group_by_session, frame.join_where
