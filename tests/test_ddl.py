"""Does a schema in Spark's DDL name the columns that Spark reads there, or else point at the place?"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.spark.ddl import schema_of_ddl

READ: dict[str, dict[str, Any]] = {
    "id INT, name STRING": {"id": pl.Int32, "name": pl.String},
    "id: int, name: string": {"id": pl.Int32, "name": pl.String},
    "a TINYINT, b SMALLINT, c BIGINT, d BYTE, e SHORT, f LONG, g INTEGER": {
        **dict(zip("abc", (pl.Int8, pl.Int16, pl.Int64), strict=True)),
        **dict(zip("defg", (pl.Int8, pl.Int16, pl.Int64, pl.Int32), strict=True)),
    },
    "a FLOAT, b REAL, c DOUBLE": {"a": pl.Float32, "b": pl.Float32, "c": pl.Float64},
    "a BOOLEAN, b BINARY, c DATE, d VOID": {"a": pl.Boolean, "b": pl.Binary, "c": pl.Date, "d": pl.Null},
    "a TIMESTAMP, b TIMESTAMP_LTZ, c TIMESTAMP_NTZ": {
        "a": pl.Datetime("us", "UTC"),
        "b": pl.Datetime("us", "UTC"),
        "c": pl.Datetime("us"),
    },
    "a DECIMAL, b DEC(5), c NUMERIC ( 10 , 2 )": {
        "a": pl.Decimal(10, 0),
        "b": pl.Decimal(5, 0),
        "c": pl.Decimal(10, 2),
    },
    "a CHAR(3), b VARCHAR(20), c STRING COLLATE UTF8_LCASE": dict.fromkeys("abc", pl.String),
    "a ARRAY<ARRAY<INT>>, b STRUCT<x: DOUBLE NOT NULL, y DATE COMMENT 'day'>": {
        "a": pl.List(pl.List(pl.Int32)),
        "b": pl.Struct({"x": pl.Float64, "y": pl.Date}),
    },
    "struct<a:int,b:array<struct<c:string>>>": {"a": pl.Int32, "b": pl.List(pl.Struct({"c": pl.String}))},
    "`at time` INT NOT NULL COMMENT 'it''s, \"so\"', `a``b` INT,\n  c INT COMMENT \"x, y INT\"": {
        "at time": pl.Int32,
        "a`b": pl.Int32,
        "c": pl.Int32,
    },
    "date DATE, timestamp TIMESTAMP, array INT": {
        "date": pl.Date,
        "timestamp": pl.Datetime("us", "UTC"),
        "array": pl.Int32,
    },
}


@pytest.mark.parametrize("text", list(READ))
def test_columns_have_the_names_and_types_that_the_text_gives_them(text: str) -> None:
    assert schema_of_ddl(text) == pl.Schema(READ[text])


REFUSED: dict[str, tuple[str, str]] = {
    "id INTT": ("INTT", r"no type 'INTT'; did you mean 'INT'"),
    "id": ("", "its end where a type begins"),
    "": ("", "names no column"),
    "id INT,": ("", "its end where a column begins"),
    "id INT name STRING": ("name", "goes on with 'name'.*a comma or the end"),
    "a MAP<STRING, INT>": ("MAP", r"the type MAP.*ARRAY<STRUCT<key: K, value: V>>"),
    "a INTERVAL DAY TO SECOND": ("INTERVAL", r"BIGINT, and pl.duration"),
    "a ARRAY<INT": ("", "'>'"),
    "a ARRAY INT": ("INT", "'<' behind ARRAY"),
    "a STRUCT<>": (">", "names no column"),
    "a INT, a STRING": ("a STRING", "names 'a' twice"),
    "a DECIMAL(3, 5)": ("(3, 5)", r"DECIMAL\(3, 5\)"),
    "a DECIMAL(x)": ("x", "a whole number"),
    "a VARCHAR": ("", "a length"),
    "a INT DEFAULT 3": ("DEFAULT", r"fill_null"),
    "a INT NOT": ("", "NULL behind NOT"),
    "a INT COMMENT b": ("b", "a text in quotes"),
    "a $ INT": ("$", r"'\$' here"),
    "first name STRING": ("name", "no type 'name'"),
}


@pytest.mark.parametrize("text", list(REFUSED))
def test_what_is_no_schema_is_refused_with_the_place(text: str) -> None:
    place, sentence = REFUSED[text]
    with pytest.raises(ub.PlanError, match=f"(?s){sentence}") as refused:
        schema_of_ddl(text)
    *_, line, caret = str(refused.value).split("\n")
    assert line[caret.index("^") :] == (text[text.rindex(place) :] if place else "")


def test_the_place_in_a_long_text_is_shown_with_what_stands_around() -> None:
    many = ", ".join(f"c{i} INT" for i in range(1000))
    with pytest.raises(ub.PlanError) as refused:
        schema_of_ddl(f"{many}, x INTT, {many.replace('c', 'd')}")
    *_, line, caret = str(refused.value).split("\n")
    assert len(line) < 150
    assert line[caret.index("^") :].startswith("INTT")
