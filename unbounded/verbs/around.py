"""Which verbs look at the rows around each row, in the order of event time?"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Self, get_args

import polars as pl
from polars._typing import IntoExpr

from unbounded.durations import is_positive, polars_duration
from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import GUESSES, expand, why_not_rowwise
from unbounded.expressions.looking import looks_along_time
from unbounded.plan import Node
from unbounded.plan.lineage import clocks
from unbounded.plan.ordered import Rolling, kept, ordered, refuse_order
from unbounded.plan.windows import Closed, time_column
from unbounded.verbs.grouping import StreamGroupBy

__all__ = ["LooksAround"]

_NAMING = ("group_by", "select", "with_columns")  # verbs whose expressions have names that the user knows
_FORMAT = 'the format in it, such as str.to_datetime("%Y-%m-%d %H:%M:%S")'


class LooksAround:
    """The verbs of `pl.LazyFrame` in which a row meets those around it: `rolling`, `with_columns`, `select`, `filter`.

    In expressions a row looks at a stretch of time with `rolling_*_by("time", window_size=...)` or `rolling("time",
    period=...)`, per key with `over("key")` behind it; and at rows before it with `over("key", order_by="time")` behind
    `shift(n)`, `diff(n)`, `pct_change(n)`, `forward_fill()`, `cum_sum()`, `rolling_sum(n)` and their like. These may
    stand in, and around, any expression of single rows.

    "time" must have a watermark. Rows come out in its order, equal times as they arrived, each once, when the watermark
    says that all they look at have come: when it reaches their time, or the end of a window that ends behind them. Rows
    behind it are late, and rows without a time have no place in the order: both are left out, and counted.
    """

    _plan: Node

    def _around(self, node: Node) -> Self:
        """The frame of a bigger plan."""
        raise NotImplementedError

    def _step(self, verb: str, exprs: tuple[pl.Expr, ...] = (), **options: Any) -> Self:
        """The frame of a verb in which each row stands alone. UnsupportedOperationError if it does not."""
        raise NotImplementedError

    def with_columns(self, *exprs: IntoExpr | Iterable[IntoExpr], **named_exprs: IntoExpr) -> Self:
        """Add or replace columns, each computed from its row, or from those around it in the order of event time."""
        return self._around_or_alone("with_columns", expand(self._plan.schema, exprs, named_exprs))

    with_columns_seq = with_columns

    def _around_or_alone(self, verb: str, exprs: tuple[pl.Expr, ...]) -> Self:
        """A verb of expressions, of which some may look along time."""
        if not any(map(looks_along_time, exprs)):
            return self._step(verb, exprs)
        return self._around(ordered(self._plan, verb, exprs, self._times))

    def _refuse_others(self, verb: str, exprs: Iterable[pl.Expr]) -> None:
        """Raise for the expressions that are not row-wise, all at once."""
        why = [(expr, reason) for expr in exprs if (reason := why_not_rowwise(expr, self._plan.schema)) is not None]
        if not why:
            return
        names = " and ".join(repr(expr.meta.output_name()) for expr, _ in why)
        time = next(map(repr, sorted(self._times)), "time")
        back = f"group_by(...).agg(...), or with_columns(...) of what looks back with over(key, order_by={time})"
        found = [_FORMAT if GUESSES in reason else back for _, reason in why]
        raise UnsupportedOperationError(
            f"{verb}() {f'of {names}' if verb in _NAMING else 'with such an expression'}",
            because="; and ".join(dict.fromkeys(reason for _, reason in why)),
            instead="; or ".join(dict.fromkeys(found)),
        )

    @property
    def _times(self) -> set[str]:
        """The columns that tell event time, and no window of it."""
        return {name for name, clock in clocks(self._plan).items() if clock.lasts is None}

    def rolling(
        self,
        index_column: str | pl.Expr,
        *,
        period: str | timedelta,
        offset: str | timedelta | None = None,
        closed: Closed = "right",
        group_by: IntoExpr | Iterable[IntoExpr] | None = None,
    ) -> StreamGroupBy[Self]:
        """For each row, aggregate the rows of its group in a window of time around it; input may come in any order.

        The window of a row at time t is (t + offset, t + offset + period], with the bounds that `closed` says; without
        `offset` the period that ends with the row. Columns of the answer: the `group_by` keys, `index_column`, then the
        aggregates, any that Polars has. Rows of equal times see each other.

        `index_column` must have a watermark. A row comes out, once, when that reaches its time, or the end of its
        window where that is later. What came out is remembered as long as a later window can reach it.

        >>> from datetime import datetime
        >>> import polars as pl, unbounded as ub
        >>> feed = ub.MemorySource({"key": pl.String, "time": pl.Datetime("us"), "value": pl.Int64})
        >>> frame = ub.scan_memory(feed, watermark=("time", "1m"))
        >>> query = frame.rolling("time", period="5m", group_by="key").agg(pl.col("value").sum()).sink_memory()
        >>> times = [datetime(2026, 3, 1, 8, minute) for minute in (0, 4, 5, 20)]
        >>> feed.add({"key": ["a"] * 4, "time": times, "value": [1] * 4})
        >>> query.process_all_available()
        >>> query.read().select(pl.col("time").dt.minute(), "value").collect().rows()
        [(0, 1), (4, 2), (5, 2)]
        >>> query.stop()
        """
        column = time_column(self._plan, index_column, "rolling", "windows need")
        asked = f"rolling({column!r}, period={str(period)!r})"
        if closed not in get_args(Closed):
            words = ", ".join(map(repr, get_args(Closed)))
            raise PlanError(f"{asked}: closed={closed!r} is none of {words}. Write one of these")
        length = polars_duration(period, "period")
        if not is_positive(length):
            raise PlanError(f'{asked}: a window holds some time. Write a period above zero, "10m"')
        if column not in self._times:
            refuse_order(asked, column, self._times)
        start = None if offset is None else polars_duration(offset, "offset")
        by = () if group_by is None else expand(self._plan.schema, [group_by], {})
        if reasons := [why for key in by if (why := why_not_rowwise(key, self._plan.schema)) is not None]:
            raise UnsupportedOperationError(
                f"{asked} by such a key", because="; and ".join(reasons), instead="a key of single rows"
            )

        def rolled(plan: Node, keys: tuple[pl.Expr, ...], aggregates: tuple[pl.Expr, ...]) -> Node:
            return kept(Rolling(plan, keys, aggregates, column, length, start, closed))

        return StreamGroupBy(self._plan, by, self._around, label=column, grouped=rolled)
