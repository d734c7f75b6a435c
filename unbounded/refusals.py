"""Which LazyFrame verbs does a StreamFrame refuse, why, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from unbounded.errors import UnsupportedOperationError

__all__ = ["REFUSED", "REFUSED_OF_GROUPS", "refusal"]

_ENDLESS = "the table never ends, so there is no answer to wait for"
_LOOK = "frame.snapshot().{} over what is there now, or write the answer to a sink and read it with query.read()"
_ROWS_LEAVE = "a row of the answer would have to leave it again when a later row comes"
_FUTURE = "it needs rows that have not come yet"
_POSITION = "an endless table has no last row to count from"
_LATER = "it is not built yet"
_EACH_BATCH = "frame.foreach_batch(f), where f gets each batch as a pl.DataFrame"

REFUSED: Final[dict[str, tuple[str, str]]] = {
    "bottom_k": (_ROWS_LEAVE, "query.read().bottom_k(...) on the sink's table"),
    "collect": (_ENDLESS, _LOOK.format("collect()")),
    "collect_async": (_ENDLESS, _LOOK.format("collect_async()")),
    "collect_batches": (_LATER, _EACH_BATCH),
    "describe": (_ENDLESS, _LOOK.format("describe()")),
    "deserialize": (
        "a plan holds sources, which are objects of this process",
        "build the frame with the same function",
    ),
    "execute": (_ENDLESS, _LOOK.format("collect()")),
    "first": (_LATER, "select(pl.all().first()) with output_mode='update'"),
    "from_lazyframe_resolver": ("it makes bounded frames", "ub.scan(source)"),
    "gather": (_POSITION, "filter(...) on a column of your own"),
    "gather_every": (_LATER, "filter(...) on a column of your own"),
    "head": (_LATER, _LOOK.format("head(n).collect()")),
    "interpolate": (_FUTURE, "interpolate in query.read() or snapshot()"),
    "join_asof": (_LATER, "join(bounded, on=...) on an exact key, or join_asof in foreach_batch"),
    "join_where": (_LATER, "join(bounded, on=...) and a filter(...)"),
    "last": (_LATER, "select(pl.all().last()) with output_mode='update'"),
    "limit": (_LATER, _LOOK.format("limit(n).collect()")),
    "map_batches": ("a function of whole frames cannot be told to be row-wise", _EACH_BATCH),
    "match_to_schema": (_LATER, "select(...) and cast(...)"),
    "median": ("it needs every value ever seen, and is not built yet", "mean(), or query.read() on the sink's rows"),
    "merge_sorted": (_LATER, "ub.concat([...])"),
    "pivot": (_LATER, "group_by(...).agg(pl.col(x).filter(pl.col(y) == value).sum().alias(value), ...)"),
    "quantile": ("it needs every value ever seen, and is not built yet", "min(), max() or mean()"),
    "remote": ("a query runs in this process", "a sink"),
    "reverse": (_POSITION, "query.read().reverse()"),
    "rolling": (_LATER, "group_by_dynamic(..., every=, period=) with a watermark"),
    "serialize": ("a plan holds sources, which are objects of this process", "build the frame with the same function"),
    "shift": ("it needs the order of rows over batches, and is not built yet", _EACH_BATCH),
    "show_graph": (_LATER, "explain()"),
    "sink_batches": ("batches have numbers here, by which a repeated one is known", "foreach_batch(f)"),
    "sink_delta": (_LATER, "sink_parquet(path, checkpoint=...)"),
    "sink_iceberg": (_LATER, "sink_parquet(path, checkpoint=...)"),
    "slice": (_LATER, "filter(...) on a column of your own"),
    "sort": (_ROWS_LEAVE, "query.read().sort(...) on the sink's table"),
    "sql": (_LATER, "the same query with verbs"),
    "tail": (_ROWS_LEAVE, "query.read().tail(n)"),
    "top_k": (_ROWS_LEAVE, "query.read().top_k(...) on the sink's table"),
    "unique": (_LATER, "group_by(...).len() in update mode, or unique() on query.read()"),
    "update": (_LATER, "join(bounded, on=..., how='left') and pl.coalesce(...)"),
    "with_row_index": (_LATER, "a number that the producer writes"),
}


REFUSED_OF_GROUPS: Final[dict[str, tuple[str, str]]] = {
    "all": ("it collects every row of a group into lists", "agg(...) of aggregates, e.g. pl.len()"),
    "having": (_LATER, "agg(..., n=pl.len()).filter(pl.col('n') > 2)"),
    "head": (_LATER, "agg(pl.all().first())"),
    "map_groups": ("a function of whole groups needs every row of them", "agg(...) of aggregates"),
    "median": ("it needs every value ever seen, and is not built yet", "mean(), or median() on query.read()"),
    "quantile": ("it needs every value ever seen, and is not built yet", "min(), max() or mean()"),
    "tail": (_LATER, "agg(pl.all().last())"),
}


def refusal(name: str, table: Mapping[str, tuple[str, str]]) -> Callable[..., NoReturn]:
    """A method that raises UnsupportedOperationError for the verb `name` of a table of refusals."""
    because, instead = table[name]

    def refuse(self: object, *args: Any, **options: Any) -> NoReturn:
        raise UnsupportedOperationError(f"{name}()", because=because, instead=instead)

    refuse.__name__ = name
    refuse.__doc__ = f"Refused, because {because}. Instead: {instead}."
    return refuse
