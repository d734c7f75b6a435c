"""What do Spark's options mean here? One table per direction and format: option -> arguments of a scan or a sink.

Names are taken in any case, with or without underscores; values as Spark takes them, also as text ("true", "100").
What a table does not name is an error with the nearest name. Three kinds of entries make a table: `means` (an
argument of ours), `only` (a value that describes what is done here anyway; others are refused) and `tunes` (how
Spark does its work, never what comes out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError
from unbounded.spark.ddl import schema_of_ddl

__all__ = ["FORMATS", "READING", "WRITING", "Option", "Options", "understood"]

Option: TypeAlias = Callable[[str, Any], dict[str, Any]]
"""(what the user wrote, its value) -> arguments. Raises PlanError."""

Options: TypeAlias = Mapping[str, Option]


# ------------------------------------------------------------------------------------------- values
def _truth(asked: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise PlanError(f"{asked} is {value!r}. Write True or False")
    return text == "true"


def _number(asked: str, value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or not int(text):
        raise PlanError(f"{asked} is {value!r}, and must be a whole number above 0")
    return int(text)


def _text(asked: str, value: Any) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{asked} is {value!r}, and must be text")
    return value


def _sign(asked: str, value: Any) -> str:
    """One sign, as Polars wants it."""
    if not isinstance(value, str) or len(value.encode()) != 1:
        raise PlanError(f"{asked} is {value!r}, and must be one sign of ASCII")
    return value


def _sign_or_none(asked: str, value: Any) -> str | None:
    return _sign(asked, value) if value else None


def _text_or_none(asked: str, value: Any) -> str | None:
    return _text(asked, value) or None


# ------------------------------------------------------------------------------------------ entries
def _means(argument: str, read: Callable[[str, Any], Any]) -> Option:
    """An argument here, under its own name."""
    return lambda asked, value: {argument: read(asked, value)}


def _chooses(argument: str, **choices: Any) -> Option:
    """An argument with one of a few values, each by its text there."""

    def choose(asked: str, value: Any) -> dict[str, Any]:
        text = str(value).lower()
        if text not in choices:
            raise PlanError(f"{asked} is {value!r}. Write one of {', '.join(map(repr, choices))}")
        return {argument: choices[text]}

    return choose


def _mode(asked: str, value: Any) -> dict[str, Any]:
    """What becomes of a record that does not fit: nulls, or an error."""
    text = str(value).lower()
    if text == "dropmalformed":
        raise UnsupportedOperationError(
            f"{asked} = {value!r}",
            because="rows would be missing and nobody told",
            instead="option('badRecordsPath', folder), which keeps them there",
        )
    return _chooses("mode", permissive="permissive", failfast="failfast")(asked, value)


def _kept_apart(asked: str, value: Any) -> dict[str, Any]:
    """A folder for the records that cannot be read."""
    return {"mode": "kept apart", "on_bad_record": "dead_letter", "dead_letter_folder": _text(asked, value)}


def _partitions(asked: str, value: Any) -> dict[str, Any]:
    """The columns that stand in the names of folders."""
    return {
        "hive_schema": value if isinstance(value, Mapping) else schema_of_ddl(_text(asked, value)),
        "recursive": True,
    }


def _only(*values: str, because: str, instead: str) -> Option:
    """A value of Spark's that is what happens here in any case."""

    def check(asked: str, value: Any) -> dict[str, Any]:
        if str(value).lower() not in values:
            raise UnsupportedOperationError(f"{asked} = {value!r}", because=because, instead=instead)
        return {}

    return check


def _never(because: str, instead: str) -> Option:
    return _only(because=because, instead=instead)


def _tunes(asked: str, value: Any) -> dict[str, Any]:
    """Something that changes no row."""
    return {}


# ------------------------------------------------------------------------------------------- tables
_NO_PARSING: Final = "files are read by Polars, which has no such rule"
_READ_TEXT: Final = "STRING in the schema, and an expression behind the scan, such as {}"
_TIME_FORMAT: Final = _never(_NO_PARSING, _READ_TEXT.format("pl.col(...).str.to_datetime('%d/%m/%Y %H:%M')"))
_CORRUPT: Final = _never("a record is read or it is not", "mode='PERMISSIVE', which reads null where a value fails")

_FILES: Final[dict[str, Option]] = {
    "path": _means("source", _text),
    "maxFilesPerTrigger": _means("max_files_per_trigger", _number),
    "maxBytesPerTrigger": _means("max_bytes_per_trigger", _number),
    "latestFirst": _chooses("order", true="latest_first", false="oldest_first"),
    "recursiveFileLookup": _means("recursive", _truth),
    "pathGlobFilter": _means("path_glob_filter", _text),
    "cleanSource": _chooses("clean_source", off=None, archive="archive", delete="delete"),
    "sourceArchiveDir": _means("archive_folder", _text),
    "minFileAge": _means("min_file_age", _text),
    "includeFilePaths": _means("include_file_paths", _text),
    "hiveSchema": _partitions,
    "fileNameOnly": _only(
        "false", because="two files of one name in two folders are two files", instead="names that differ"
    ),
    "maxFileAge": _never("no file is passed over for its age", "a folder or a pattern without the old files"),
    "ignoreMissingFiles": _only(
        "false",
        because="a batch reads what it promised to read, or fails",
        instead="ub.reset(checkpoint, pending_only=True) if a file is gone for good",
    ),
    "ignoreCorruptFiles": _only(
        "false", because="rows would be missing and nobody told", instead="taking the file away; the error names it"
    ),
    "modifiedBefore": _never("which files are read would depend on the clock", "a pattern in the path"),
    "modifiedAfter": _never("which files are read would depend on the clock", "a pattern in the path"),
    "basePath": _never("columns of the path are named, not found", "option('hiveSchema', 'day DATE')"),
    "maxCachedFiles": _tunes,
    "discardCachedInputRatio": _tunes,
}

_CSV: Final[dict[str, Option]] = {
    "sep": _means("separator", _sign),
    "delimiter": _means("separator", _sign),
    "header": _means("has_header", _truth),
    "quote": _means("quote_char", _sign_or_none),
    "escape": _only('"', because="Polars reads a quote within quotes as two quotes only", instead="escape='\"'"),
    "charToEscapeQuoteEscaping": _never(_NO_PARSING, "files that write a quote within quotes as two quotes"),
    "comment": _means("comment_prefix", _text_or_none),
    "nullValue": _means("null_values", _text_or_none),
    "emptyValue": _only("", because=_NO_PARSING, instead="pl.col(...).replace('...', '') behind the scan"),
    "nanValue": _only("nan", because=_NO_PARSING, instead=_READ_TEXT.format("pl.col(...).replace(...).cast(...)")),
    "positiveInf": _only("inf", because=_NO_PARSING, instead=_READ_TEXT.format("pl.col(...).replace(...).cast(...)")),
    "negativeInf": _only("-inf", because=_NO_PARSING, instead=_READ_TEXT.format("pl.col(...).replace(...).cast(...)")),
    "lineSep": _means("eol_char", _sign),
    "encoding": _only("utf-8", "utf8", because="Polars reads UTF-8", instead="iconv before the file arrives"),
    "charset": _only("utf-8", "utf8", because="Polars reads UTF-8", instead="iconv before the file arrives"),
    "mode": _mode,
    "badRecordsPath": _kept_apart,
    "enforceSchema": _only(
        "false",
        because="columns are found by the names in the header, and a header that does not fit is an error",
        instead="the names of the header in .schema(...), then .rename({...})",
    ),
    "inferSchema": _only(
        "false",
        because="files that have not come yet cannot be looked at",
        instead=".schema(ub.infer_schema(path, format='csv'))",
    ),
    "ignoreLeadingWhiteSpace": _only("false", because=_NO_PARSING, instead="pl.col(...).str.strip_chars_start()"),
    "ignoreTrailingWhiteSpace": _only("false", because=_NO_PARSING, instead="pl.col(...).str.strip_chars_end()"),
    "dateFormat": _TIME_FORMAT,
    "timestampFormat": _TIME_FORMAT,
    "timestampNTZFormat": _TIME_FORMAT,
    "timeZone": _only(
        "utc", because="a time without a zone is read as UTC", instead="TIMESTAMP_NTZ, then dt.replace_time_zone(zone)"
    ),
    "locale": _only("en-us", "en", because=_NO_PARSING, instead=_READ_TEXT.format("pl.col(...).str.replace(',', '.')")),
    "columnNameOfCorruptRecord": _CORRUPT,
    "unescapedQuoteHandling": _never(_NO_PARSING, "files that quote every field with a quote in it"),
    "multiLine": _tunes,  # a line break within quotes never ends a record here
    "maxColumns": _tunes,
    "maxCharsPerColumn": _tunes,
    "maxMalformedLogPerPartition": _tunes,
    "samplingRatio": _tunes,
    "preferDate": _tunes,
}

_JSON_AS_IS: Final = {"because": _NO_PARSING, "instead": "files of plain JSON, one object per line"}

_JSON: Final[dict[str, Option]] = {
    "mode": _mode,
    "badRecordsPath": _kept_apart,
    "multiLine": _only(
        "false", because="a file holds one object per line, so that it can be read in parts", instead="jq -c . file"
    ),
    "lineSep": _only("\n", **_JSON_AS_IS),
    "encoding": _only("utf-8", "utf8", because="JSON is UTF-8", instead="iconv before the file arrives"),
    "charset": _only("utf-8", "utf8", because="JSON is UTF-8", instead="iconv before the file arrives"),
    "primitivesAsString": _only("false", because="the schema names the types", instead="STRING in the schema"),
    "prefersDecimal": _only("false", because="the schema names the types", instead="DECIMAL(p, s) in the schema"),
    "dropFieldIfAllNull": _only("false", because="the schema names the columns", instead=".drop(...)"),
    "inferTimestamp": _only("false", because="the schema names the types", instead="TIMESTAMP in the schema"),
    "dateFormat": _TIME_FORMAT,
    "timestampFormat": _TIME_FORMAT,
    "timestampNTZFormat": _TIME_FORMAT,
    "timeZone": _CSV["timeZone"],
    "locale": _CSV["locale"],
    "columnNameOfCorruptRecord": _CORRUPT,
    "allowComments": _only("false", **_JSON_AS_IS),
    "allowUnquotedFieldNames": _only("false", **_JSON_AS_IS),
    "allowSingleQuotes": _only("false", **_JSON_AS_IS),
    "allowNumericLeadingZeros": _only("false", **_JSON_AS_IS),
    "allowBackslashEscapingAnyCharacter": _only("false", **_JSON_AS_IS),
    "allowUnquotedControlChars": _only("false", **_JSON_AS_IS),
    "allowNonNumericNumbers": _only("false", **_JSON_AS_IS),
    "samplingRatio": _tunes,
    "useUnsafeRow": _tunes,
}

_PARQUET: Final[dict[str, Option]] = {
    "mergeSchema": _only(
        "false",
        because="the schema is fixed before later files come",
        instead=".schema(...) with all columns; those that a file lacks are null",
    ),
    "datetimeRebaseMode": _only("corrected", "exception", because=_NO_PARSING, instead="files of Spark 3 or newer"),
    "int96RebaseMode": _only("corrected", "exception", because=_NO_PARSING, instead="files of Spark 3 or newer"),
}

_WHOLE: Final = "a file is read line by line, so that it can be read in parts"

_TEXT: Final[dict[str, Option]] = {
    "wholetext": _only("false", because=_WHOLE, instead="a foreachBatch that reads files named in a stream"),
    "lineSep": _only("\n", because=_WHOLE, instead="files whose lines end in a newline"),
    "encoding": _only("utf-8", "utf8", because="Polars reads UTF-8", instead="iconv before the file arrives"),
}

_AVRO: Final[dict[str, Option]] = {
    "avroSchema": _never("the columns are those of .schema(...)", ".schema(...), or none for that of the oldest file"),
    "ignoreExtension": _tunes,
}

_RATE: Final[dict[str, Option]] = {
    "rowsPerSecond": _means("rows_per_second", _number),
    "rampUpTime": _only("0", "0s", because="the rate is the same from the start", instead="a smaller rowsPerSecond"),
    "numPartitions": _tunes,
}

FORMATS: Final[Mapping[str, str]] = {
    "delta": "format('parquet')",
    "iceberg": "format('parquet')",
    "kafka": "format('json') over files, or ub.scan(source) with a source of your own",
    "orc": "format('parquet'): Polars reads no ORC",
    "rate-micro-batch": "format('rate')",
    "socket": "ub.scan(source) with a source of your own: a socket cannot be read again after a crash",
    "statestore": "query.read() for the answer",
    "xml": "format('json')",
}
"""Spark's formats that are not built here, and what to write instead."""

READING: Final[Mapping[str, Options]] = {
    "parquet": {**_FILES, **_PARQUET},
    "csv": {**_FILES, **_CSV},
    "json": {**_FILES, **_JSON},
    "text": {**_FILES, **_TEXT},
    "avro": {**_FILES, **_AVRO},
    "rate": _RATE,
}

_QUERY: Final[dict[str, Option]] = {
    "path": _means("path", _text),
    "checkpointLocation": _means("checkpoint", _text),
    "queryName": _means("name", _text),
    "watermarkPolicy": _chooses("watermark_policy", min="min", max="max"),
    "spark.sql.streaming.multipleWatermarkPolicy": _chooses("watermark_policy", min="min", max="max"),
}
_ROWS_STAY: Final = "an append sink keeps every row that was committed"
_NOT_NAMED: Final = "the files must read back exactly as they were written"
_SPACES: Final = _only("false", because=_NOT_NAMED, instead="pl.col(...).str.strip_chars() before the sink")
_NEVER_FORMAT: Final = _never(_NOT_NAMED, "dt.to_string(format) of the column, before the sink")
_WRITTEN: Final[dict[str, Option]] = {**_QUERY, "retention": _never(_ROWS_STAY, "deleting the whole output folder")}

_PACKED: Final = {"none": "uncompressed", "uncompressed": "uncompressed", "gzip": "gzip", "zstd": "zstd"}

WRITING: Final[Mapping[str, Options]] = {
    "parquet": {
        **_WRITTEN,
        "compression": _chooses("compression", **_PACKED, snappy="snappy", lz4="lz4", lz4_raw="lz4", brotli="brotli"),
    },
    "csv": {
        **_WRITTEN,
        "sep": _means("separator", _sign),
        "delimiter": _means("separator", _sign),
        "header": _means("include_header", _truth),
        "quote": _means("quote_char", _sign),
        "nullValue": _means("null_value", _text),
        "lineSep": _means("line_terminator", _text),
        "compression": _chooses("compression", **_PACKED),
        "quoteAll": _chooses("quote_style", true="always", false="necessary"),
        "escape": _only('"', because=_NOT_NAMED, instead="escape='\"', which writes a quote as two"),
        "encoding": _only("utf-8", "utf8", because="Polars writes UTF-8", instead="iconv on the finished files"),
        "dateFormat": _NEVER_FORMAT,
        "timestampFormat": _NEVER_FORMAT,
        "timestampNTZFormat": _NEVER_FORMAT,
        "emptyValue": _only('""', because=_NOT_NAMED, instead="the default, two quotes"),
        "escapeQuotes": _only("true", because=_NOT_NAMED, instead="the default, True"),
        "charToEscapeQuoteEscaping": _never(_NOT_NAMED, "the default"),
        "ignoreLeadingWhiteSpace": _only(
            "false", because=_NOT_NAMED, instead="str.strip_chars_start() before the sink"
        ),
        "ignoreTrailingWhiteSpace": _SPACES,
    },
    "json": {
        **_WRITTEN,
        "compression": _chooses("compression", **_PACKED),
        "ignoreNullFields": _only(
            "false", because="a null is written as null", instead="leaving it out; null reads as missing"
        ),
        "lineSep": _only("\n", because=_NOT_NAMED, instead="the default"),
        "encoding": _only("utf-8", "utf8", because="JSON is UTF-8", instead="iconv on the finished files"),
        "dateFormat": _NEVER_FORMAT,
        "timestampFormat": _NEVER_FORMAT,
        "timestampNTZFormat": _NEVER_FORMAT,
    },
    "console": {**_QUERY, "numRows": _means("rows", _number), "truncate": _tunes},
    "memory": _QUERY,
    "noop": _QUERY,
    "foreachBatch": _QUERY,
}


# -------------------------------------------------------------------------------------------- asking
def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def understood(given: Mapping[str, Any], table: Options, asked: str) -> dict[str, Any]:
    """The arguments that options mean. `asked` names the call in errors: `read_stream.format('csv')`.

    A value of None is as if the option was not given. UnknownOptionError for a name that is not in the table.
    """
    by_name = {_plain(name): (name, option) for name, option in table.items()}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if _plain(name) not in by_name:
            raise UnknownOptionError(name, asked, table)
        shown, option = by_name[_plain(name)]
        if value is not None:
            found |= option(f"{asked}.option({shown!r})", value)
    return found
