"""What does one write here for a name of PySpark's DataFrame? Each says its line, in the error that it raises.

The names are those of `pyspark.sql.DataFrame` and `GroupedData` in Spark 4.3 that a frame does not have; PySpark
itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

__all__ = ["LINES_OF_FRAMES", "LINES_OF_GROUPS", "NOTHING_LIKE_IT", "NamesOfFrames", "NamesOfGroups"]

_SNAPSHOT: Final = "frame.snapshot().collect()"
_CONCAT: Final = "ub.concat([frame, other])"
_UNIQUE: Final = "frame.unique(['k'])"
_UNIQUE_TIMED: Final = "frame.with_watermark('time', '10m').unique_within_watermark(['k'])"

LINES_OF_FRAMES: Final[Mapping[str, str]] = {
    "agg": "frame.select(pl.len(), pl.col('v').sum())",
    "alias": "frame.join(lookup, on='k', suffix='_of_lookup')",
    "approxQuantile": "frame.snapshot().select(pl.col('v').quantile(0.5))",
    "asTable": "frame.pipe(lambda rows: rows.filter(pl.col('v') > 0))",
    "colRegex": "frame.select(pl.col('^v.*$'))",
    "corr": "frame.select(pl.corr('v', 'w'))",
    "cov": "frame.select(pl.cov('v', 'w'))",
    "createGlobalTempView": "pl.SQLContext(rows=frame.snapshot())",
    "createOrReplaceGlobalTempView": "pl.SQLContext(rows=frame.snapshot())",
    "createOrReplaceTempView": "pl.SQLContext(rows=frame.snapshot())",
    "createTempView": "pl.SQLContext(rows=frame.snapshot())",
    "crossJoin": "frame.with_columns(one=1).join(lookup.with_columns(one=1), on='one')",
    "crosstab": "frame.group_by('k', 'v').len()",
    "cube": "frame.group_by('k', 'v').agg(pl.len())",
    "distinct": "frame.unique()",
    "dropDuplicates": _UNIQUE,
    "dropDuplicatesWithinWatermark": _UNIQUE_TIMED,
    "drop_duplicates": _UNIQUE,
    "dropna": "frame.drop_nulls()",
    "exceptAll": "frame.join(lookup, on='k', how='anti')",
    "exists": "frame.join(lookup, on='k', how='semi')",
    "fillna": "frame.fill_null(0)",
    "foreach": "frame.foreach_batch(f, checkpoint='ckpt/')",
    "foreachPartition": "frame.foreach_batch(f, checkpoint='ckpt/')",
    "freqItems": "frame.group_by('k').len()",
    "groupBy": "frame.group_by('k').agg(pl.len())",
    "groupby": "frame.group_by('k').agg(pl.len())",
    "groupingSets": "frame.group_by('k', 'v').agg(pl.len())",
    "intersect": "frame.join(lookup, on='k', how='semi')",
    "intersectAll": "frame.join(lookup, on='k', how='semi')",
    "isEmpty": "frame.snapshot().head(1).collect().is_empty()",
    "lateralJoin": "frame.explode('tags')",
    "mapInArrow": "frame.with_columns(pl.col('v').map_elements(abs, return_dtype=pl.Int64))",
    "mapInPandas": "frame.with_columns(pl.col('v').map_elements(abs, return_dtype=pl.Int64))",
    "melt": "frame.unpivot(['v', 'w'], index='k')",
    "na": "frame.drop_nulls().fill_nan(0)",
    "nearestByJoin": "frame.join_asof(lookup, on='time', by='k')",
    "observe": "frame.group_by_dynamic('time', every='1h').agg(pl.len())",
    "offset": "frame.slice(5)",
    "orderBy": "frame.group_by('k').len().sort('len')",
    "pandas_api": "frame.snapshot().collect().to_pandas()",
    "printSchema": "print(frame.collect_schema())",
    "replace": "frame.with_columns(pl.col('k').replace({'old': 'new'}))",
    "rollup": "frame.group_by('k', 'v').agg(pl.len())",
    "sample": "frame.filter(pl.col('k').hash(seed=1) % 10 == 0)",
    "sampleBy": "frame.filter(pl.col('k').hash(seed=1) % 10 == 0)",
    "selectExpr": "frame.select(pl.sql_expr('v * 2 AS twice'))",
    "subtract": "frame.join(lookup, on='k', how='anti')",
    "summary": "frame.snapshot().describe()",
    "take": "frame.snapshot().head(5).collect()",
    "to": "frame.match_to_schema(frame.collect_schema())",
    "toArrow": "frame.snapshot().collect().to_arrow()",
    "toDF": "frame.rename({'k': 'key'})",
    "toJSON": "frame.select(pl.struct(pl.all()).struct.json_encode())",
    "toLocalIterator": "[rows.height for rows in frame.collect_batches()]",
    "toPandas": "frame.snapshot().collect().to_pandas()",
    "transform": "frame.pipe(lambda rows: rows.filter(pl.col('v') > 0))",
    "union": _CONCAT,
    "unionAll": _CONCAT,
    "unionByName": "ub.concat([frame, other], how='diagonal')",
    "where": "frame.filter(pl.col('v') > 0)",
    "withColumn": "frame.with_columns((pl.col('v') * 2).alias('twice'))",
    "withColumnRenamed": "frame.rename({'v': 'value'})",
    "withColumns": "frame.with_columns(twice=pl.col('v') * 2)",
    "withColumnsRenamed": "frame.rename({'v': 'value', 'w': 'weight'})",
    "withWatermark": "frame.with_watermark('time', '10 minutes')",
    "write": "frame.write_stream.format('parquet')",
    "writeTo": "frame.write_stream.format('parquet')",
    "zipWithIndex": "frame.with_row_index()",
}
"""A name, and a line that does the like on a frame of columns k, v, w, time and tags; `f(rows, batch_id)`."""

_PLACES: Final = "rows have no partitions here; Polars uses all cores by itself, so leave the call out"
_KEPT: Final = "nothing is computed twice here, so leave the call out"
_CATALOG: Final = "there is no catalogue of tables; frame.sink_parquet(path, checkpoint=...) writes files"

NOTHING_LIKE_IT: Final[Mapping[str, str]] = {
    "checkpoint": "the checkpoint is named where the query starts: frame.sink_parquet(path, checkpoint=...)",
    "coalesce": _PLACES,
    "executionInfo": "query.last_progress says how long each phase of a batch took",
    "hint": "Polars plans by itself, so leave the call out",
    "inputFiles": "query.last_progress counts them; include_file_paths='path' of a scan makes a column of them",
    "isLocal": "every query runs in this process",
    "localCheckpoint": "the checkpoint is named where the query starts: frame.sink_parquet(path, checkpoint=...)",
    "mergeInto": "frame.sink_parquet(path, checkpoint=..., output_mode='update') keeps one row per key",
    "metadataColumn": "include_file_paths='path' of a scan makes a column of the paths",
    "persist": _KEPT,
    "plot": "query.read().collect().plot shows what was written so far",
    "randomSplit": "write one frame.filter(...) for each part, by a hash of a key",
    "rdd": "there are no rows to reach one by one; frame.foreach_batch(f) gives each batch as a pl.DataFrame",
    "registerTempTable": "pl.SQLContext(rows=frame.snapshot()) asks in SQL over what is there now",
    "repartition": _PLACES,
    "repartitionById": _PLACES,
    "repartitionByRange": _PLACES,
    "sameSemantics": "frame.explain() shows the plan",
    "scalar": "join with the bounded frame that holds the value",
    "semanticHash": "frame.explain() shows the plan",
    "sortWithinPartitions": _PLACES,
    "sparkSession": "there is no session: ub.scan_parquet(path) begins, ub.streams knows the queries",
    "stat": "frame.snapshot() is a pl.LazyFrame over what is there now, to be looked at in any way",
    "storageLevel": _KEPT,
    "transpose": "the rows of a stream never end, so they cannot become columns; query.read().collect().transpose()",
    "unpersist": _KEPT,
    "withMetadata": "keep it beside the frame; columns have names and types only",
    "zip": "rows of two streams have no places to pair them by; join on a key instead",
}
"""A name for which there is no line, and why that is."""

LINES_OF_GROUPS: Final[Mapping[str, str]] = {
    "apply": "frame.foreach_batch(f, checkpoint='ckpt/')",
    "applyInArrow": "frame.group_by('k').agg(pl.col('v').sum())",
    "applyInPandas": "frame.group_by('k').agg(pl.col('v').sum())",
    "applyInPandasWithState": "frame.group_by('k').agg(pl.col('v').last())",
    "avg": "frame.group_by('k').agg(pl.col('v').mean())",
    "cogroup": "ub.concat([frame, other], how='diagonal').group_by('k').agg(pl.len())",
    "count": "frame.group_by('k').len()",
    "pivot": "frame.pivot('k', on_columns=['a', 'b'], index='w', values='v', aggregate_function='sum')",
    "transformWithState": "frame.group_by('k').agg(pl.col('v').last())",
    "transformWithStateInPandas": "frame.group_by('k').agg(pl.col('v').last())",
}


class _Names:
    """Answers a name of PySpark's with the line to write."""

    _lines: ClassVar[Mapping[str, str]]

    if not TYPE_CHECKING:  # for a type checker there is no such attribute

        def __getattr__(self, name: str) -> NoReturn:
            if name in self._lines:
                raise AttributeError(f"{name} is PySpark's: write {self._lines[name]}", name=name, obj=self)
            if name in NOTHING_LIKE_IT:
                raise AttributeError(f"{name} is PySpark's: {NOTHING_LIKE_IT[name]}", name=name, obj=self)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


class NamesOfFrames(_Names):
    """What those who come from Spark look for on a frame."""

    _lines = LINES_OF_FRAMES

    isStreaming = True


class NamesOfGroups(_Names):
    """What those who come from Spark look for on a grouped frame."""

    _lines = LINES_OF_GROUPS
