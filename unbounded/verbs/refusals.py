"""Which LazyFrame verbs does a StreamFrame refuse, why, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from unbounded.errors import UnsupportedOperationError

__all__ = ["REFUSED", "REFUSED_OF_GROUPS", "refusal"]

_ENDLESS = "the table never ends, so there is no answer to wait for"
_LOOK = "frame.snapshot().{} over what is there now, or write the answer to a sink and read it with query.read()"
_FUTURE = "it needs rows that have not come yet"
_POSITION = "an endless table has no last row to count from"
_LATER = "it is not built yet"

REFUSED: Final[dict[str, tuple[str, str]]] = {
    "collect": (_ENDLESS, _LOOK.format("collect()")),
    "collect_async": (_ENDLESS, _LOOK.format("collect_async()")),
    "describe": (_ENDLESS, _LOOK.format("describe()")),
    "deserialize": (
        "a plan holds sources, which are objects of this process",
        "build the frame with the same function",
    ),
    "execute": (_ENDLESS, _LOOK.format("collect()")),
    "from_lazyframe_resolver": ("it makes bounded frames", "ub.scan(source)"),
    "gather": (_POSITION, "filter(...) on a column of your own"),
    "interpolate": (_FUTURE, "interpolate in query.read() or snapshot()"),
    "remote": ("a query runs in this process", "a sink"),
    "serialize": ("a plan holds sources, which are objects of this process", "build the frame with the same function"),
    "shift": (
        "rows of a stream have no order but that of event time",
        'with_columns(pl.all().shift(n).over(order_by="time"))',
    ),
    "show_graph": (_LATER, "explain()"),
    "sink_delta": (_LATER, "sink_parquet(path, checkpoint=...)"),
    "sink_iceberg": (_LATER, "sink_parquet(path, checkpoint=...)"),
    "sql": (_LATER, "the same query with verbs"),
}


REFUSED_OF_GROUPS: Final[dict[str, tuple[str, str]]] = {
    "map_groups": ("a function of whole groups needs every row of them", "agg(...) of aggregates"),
}


def refusal(name: str, table: Mapping[str, tuple[str, str]]) -> Callable[..., NoReturn]:
    """A method that raises UnsupportedOperationError for the verb `name` of a table of refusals."""
    because, instead = table[name]

    def refuse(self: object, *args: Any, **options: Any) -> NoReturn:
        raise UnsupportedOperationError(f"{name}()", because=because, instead=instead)

    refuse.__name__ = name
    refuse.__doc__ = f"Refused, because {because}. Instead: {instead}."
    return refuse
