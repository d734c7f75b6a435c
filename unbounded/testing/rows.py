"""When do two tables hold the same rows, and how do they differ?"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import polars.selectors as cs
from polars.testing import assert_frame_equal

__all__ = ["difference", "same_rows"]

_DIGITS = 9
_SHOWN = 20


def same_rows(found: pl.DataFrame, expected: pl.DataFrame, *, key: Sequence[str] = ()) -> None:
    """Assert equal columns and equal rows in any order; floats to nine digits, for sums depend on the order of rows.

    Rows are compared in the order of `key`, where it names the columns by which each row is known.

    >>> same_rows(pl.DataFrame({"x": [0.3, 1.0]}), pl.DataFrame({"x": [1.0, 0.1 + 0.2]}))
    """
    if found.schema != expected.schema:
        raise AssertionError(f"the columns differ: {found.schema} is not {expected.schema}")
    order = [*key, *_sortable(expected, without=key)]
    if order:  # floats last: noise in one must not reorder rows
        found, expected = found.sort(order), expected.sort(order)
    assert_frame_equal(found, expected, rel_tol=10**-_DIGITS, abs_tol=10**-_DIGITS)


def _sortable(rows: pl.DataFrame, *, without: Sequence[str]) -> list[str]:
    names = [name for name, dtype in rows.schema.items() if name not in without and dtype != pl.Object]
    return sorted(names, key=lambda name: rows.schema[name].is_float())


def difference(found: pl.DataFrame, expected: pl.DataFrame) -> str:
    """For people: the rows that only one of two tables of the same columns holds, with how often where it is not once.

    >>> print(difference(pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": [2, 2]})))
    missing:
    ┌─────┐
    │ x   │
    │ --- │
    │ i64 │
    ╞═════╡
    │ 2   │
    └─────┘
    too many:
    ┌─────┐
    │ x   │
    │ --- │
    │ i64 │
    ╞═════╡
    │ 1   │
    └─────┘
    """
    rounded = cs.float().round_sig_figs(_DIGITS)
    signed = [rows.with_columns(rounded).with_columns(times=sign) for rows, sign in ((found, 1), (expected, -1))]
    counted = pl.concat(signed).group_by(expected.columns, maintain_order=True).agg(pl.col("times").sum())
    missing = counted.filter(pl.col("times") < 0).with_columns(-pl.col("times"))
    spare = counted.filter(pl.col("times") > 0)
    with pl.Config(tbl_rows=_SHOWN, tbl_cols=-1, tbl_width_chars=120, tbl_hide_dataframe_shape=True):
        return "\n".join(
            f"{label}:\n{rows.drop('times') if (rows['times'] == 1).all() else rows}"
            for label, rows in (("missing", missing), ("too many", spare))
            if rows.height
        )
