"""Dagster's storage moved from SQLite to PostgreSQL: runs, events, lineage, and the state of sensors and schedules; all of it or nothing.

Here belongs the move alone; which storage an instance has stands in its dagster.yaml. See docs/team.md, "From one machine to a team".

SQLite keeps each run's events in a file of its own (a *shard*), and once more in ``index.db`` what concerns assets, checks and the run's
status. PostgreSQL has one table. Lineage refers to events by their id in ``index.db`` (the provenance of a result, the target of a check,
the cursor of a sensor on events), so these ids stay as they are, and the other lines of a run's log get ids beyond them.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as db
from dagster import RunsFilter
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from sqlalchemy.exc import SQLAlchemyError

from monai_aws_pipeline.errors import NamedError

Report = Callable[[str], object]

PAGE: Final = 200
"""Rows in memory at a time: an event with its picture takes up to 40 KB."""
HEARTBEAT_S: Final = 75.0
"""Dagster's daemon writes a heartbeat every 30 s; one that has missed two does not run."""
_REPORT_EVERY_S: Final = 10.0
_OF_THIS_INSTALLATION: Final = frozenset({"secondary_indexes", "instance_info", "daemon_heartbeats"})
"""What says how a database was made and which daemon lives: the target has its own."""
_MIRRORED: Final = frozenset(kind.value for kind in (*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS))
_RUNLESS: Final = ""
_EVENTS = SqlEventLogStorageTable


class StorageMoveError(NamedError):
    """The storage cannot be moved. Nothing was changed on either side."""


@dataclass(frozen=True)
class Moved:
    """What was copied: rows by table, ``event_logs`` among them."""

    rows: Mapping[str, int]

    def __str__(self) -> str:
        parts = ("runs", "event_logs", "asset_keys", "dynamic_partitions", "asset_check_executions", "instigators", "job_ticks")
        return ", ".join(f"{self.rows[name]} {name.replace('_', ' ')}" for name in parts)


def move(source: Path, target: Path, report: Report, pause: Callable[[float], object] = time.sleep) -> Moved:
    """Copy the storage of one DAGSTER_HOME into the empty PostgreSQL that another's dagster.yaml names, in one transaction.

    Raises StorageMoveError where a daemon or a run is at work on the source, where the target is not an empty PostgreSQL of the same
    schema, and where the counts differ afterwards; then the target is as it was. The source is only read.
    """
    old, new = _opened(source), _opened(target)
    if not isinstance(old, DagsterSqliteStorage):
        raise StorageMoveError(f"{source} does not keep its storage in SQLite.", "Name the DAGSTER_HOME that Dagster has run with so far.")
    engine = getattr(new.event_log_storage, "_engine", None)
    if not isinstance(engine, db.Engine) or engine.dialect.name != "postgresql":
        raise StorageMoveError(
            f"The dagster.yaml in {target} does not name a PostgreSQL.", "Take infra/team/dagster.yaml, which docs/team.md explains."
        )
    try:
        _check_idle(old, report, pause)
        with _Files(Path(old.base_dir)) as files, engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            _check_schema(files, connection)
            _check_empty(connection)
            copy = _Copy(files, connection, report)
            copy.run()
            copy.verify()
    except SQLAlchemyError as error:
        raise StorageMoveError(
            f"A database refused: {_said(error)}. Nothing was changed.", "Mend that, and start the move again."
        ) from None
    finally:
        for storage in (old, new):
            storage.event_log_storage.dispose()
    return Moved(copy.rows)


def _opened(home: Path) -> DagsterStorage:
    """The storage that a folder's dagster.yaml names, or Dagster's default where it names none."""
    try:
        storage = _storage(InstanceRef.from_dir(str(home.resolve())))
    except ModuleNotFoundError as error:
        raise StorageMoveError(f"{error.name} is not installed.", "Install this project with its extra: pip install -e '.[team]'") from None
    except Exception as error:  # dagster-postgres has one of its own that derives from nothing narrower
        raise StorageMoveError(
            f"The storage that {home / 'dagster.yaml'} names cannot be opened: {_said(error)}.",
            "Check that the variables it refers to are set and that PostgreSQL answers.",
        ) from None
    if storage is None:
        raise StorageMoveError(f"{home} holds no storage of Dagster.", "Name a DAGSTER_HOME: the folder that dagster.yaml lies in.")
    return storage


def _storage(ref: InstanceRef) -> DagsterStorage | None:
    """None where Dagster would make one of SQLite that is not there."""
    base = ref.storage_data.config_dict.get("base_dir") if ref.storage_data else None
    would_be_made = isinstance(base, str) and not (Path(base) / "history" / "runs.db").exists()
    return None if would_be_made else ref.storage


def _said(error: BaseException) -> str:
    """The first line of what a database or Dagster said; more of it would show rows."""
    cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0].rstrip(".")


def _check_idle(old: DagsterSqliteStorage, report: Report, pause: Callable[[float], object]) -> None:
    """Raise where a run is at work, or where a heartbeat comes while this looks; a daemon that has just ended is waited for."""
    if running := old.run_storage.get_runs_count(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
        raise StorageMoveError(
            f"{running} runs are at work in the old storage.", "Wait for their end, or cancel them, then stop the daemon."
        )

    def newest() -> float:
        return max((beat.timestamp for beat in old.run_storage.get_daemon_heartbeats().values()), default=0.0)

    first = newest()
    waited_from = max(first, time.time() - HEARTBEAT_S)  # a clock that was set back does not make this wait for ever
    told = False
    while (left := waited_from + HEARTBEAT_S - time.time()) > 0:
        if not told:
            report(f"a daemon was at work here a moment ago; looking for {left:.0f} s whether it has ended")
            told = True
        pause(min(left, 2.0))
        if newest() != first:
            raise StorageMoveError("Dagster's daemon is at work on the old storage.", "Stop daemon and webserver, then try again.")


class _Files:
    """The SQLite files of a DAGSTER_HOME, read only. Nobody else writes to them for as long as this is open."""

    def __init__(self, base: Path) -> None:
        self.runs = base / "history" / "runs.db"
        self.schedules = base / "schedules" / "schedules.db"
        self.index = base / "history" / "runs" / "index.db"
        self._stack = ExitStack()

    def __enter__(self) -> _Files:
        with ExitStack() as stack:
            for path in (self.runs, self.schedules, self.index):
                guard = sqlite3.connect(path, isolation_level=None, timeout=5)
                stack.callback(guard.close)
                try:
                    guard.execute("BEGIN IMMEDIATE")  # readers go on, a writer waits
                except sqlite3.OperationalError as error:
                    raise StorageMoveError(
                        f"{path} is in use: {error}.", "Stop Dagster's daemon and webserver, and start the move again."
                    ) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def shards(self) -> Iterator[tuple[str, Path]]:
        """Run id and file of each run's events; what belongs to no run has a file without a name."""
        for path in sorted(self.index.parent.glob("*.db")):
            if path != self.index:
                yield path.name.removesuffix(".db"), path

    @contextmanager
    def read(self, path: Path) -> Iterator[db.Connection]:
        """A connection that cannot write."""
        engine = db.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True), poolclass=db.NullPool, hide_parameters=True
        )
        with engine.connect() as connection:
            yield connection


def _check_schema(files: _Files, target: db.Connection) -> None:
    """Raise unless both sides have made the same migrations."""

    def made(connection: db.Connection) -> set[str]:
        revision = connection.execute(db.text("select version_num from alembic_version")).scalars()
        done = connection.execute(db.text("select name from secondary_indexes where migration_completed is not null")).scalars()
        return {*revision, *done}

    theirs = made(target)
    ours: set[str] = set()
    for path in (files.runs, files.schedules, files.index):
        with files.read(path) as connection:
            ours |= made(connection)
    if ours != theirs:
        raise StorageMoveError(
            f"The two storages are not of one version of Dagster; they differ in {', '.join(sorted(ours ^ theirs))}.",
            "Run 'dagster instance migrate' with each DAGSTER_HOME, and start the move again.",
        )


def _tables() -> list[db.Table]:
    everything = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    return [table for metadata in everything for table in metadata.sorted_tables if table.name not in _OF_THIS_INSTALLATION]


def _check_empty(target: db.Connection) -> None:
    """Raise where anything is there already; whoever would write now waits until this transaction has ended."""
    names = [table.name for table in _tables()]
    target.execute(db.text(f"lock table {', '.join(names)} in share row exclusive mode"))
    full = [table.name for table in _tables() if target.execute(db.select(db.literal(1)).select_from(table).limit(1)).first()]
    if full:
        raise StorageMoveError(
            f"The target is not empty: there are rows in {', '.join(full)}.",
            "Move into a database that no Dagster has worked on; for this one, drop and create it.",
        )


@dataclass
class _Copy:
    """One copy within one transaction. ``rows`` counts what was written by table, ``logs`` the lines that each run's log must have."""

    files: _Files
    target: db.Connection
    report: Report
    rows: Counter[str] = field(default_factory=Counter)
    logs: Counter[str] = field(default_factory=Counter)
    _told_at: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Copy every table, the mirrored events under their ids, then the rest of each run's log."""
        for path, metadata in (
            (self.files.runs, RunStorageSqlMetadata),
            (self.files.index, SqlEventLogStorageMetadata),
            (self.files.schedules, ScheduleStorageSqlMetadata),
        ):
            with self.files.read(path) as connection:
                for table in metadata.sorted_tables:
                    if table.name not in _OF_THIS_INSTALLATION:
                        self._write(table, connection, db.select(table).order_by(table.c.id))
        self._continue_ids()
        with self.files.read(self.files.index) as index:
            counted = index.execute(db.select(_EVENTS.c.run_id, db.func.count()).group_by(_EVENTS.c.run_id))
            self.logs.update(_counts(counted))
            for run_id, path in self.files.shards():
                self._write_log(run_id, path, index)

    def verify(self) -> None:
        """Raise unless the target holds as many rows of each table, and as many lines of each run's log, as the source."""
        differing = []
        for table in _tables():
            there = self.target.execute(db.select(db.func.count()).select_from(table)).scalar_one()
            if there != self.rows[table.name]:
                differing.append(f"{table.name}: {there} in place of {self.rows[table.name]}")
        logs = self.target.execute(db.select(_EVENTS.c.run_id, db.func.count()).group_by(_EVENTS.c.run_id))
        there_by_run = _counts(logs)
        differing += [
            f"the log of run {run_id or '(none)'}: {there_by_run[run_id]} lines in place of {self.logs[run_id]}"
            for run_id in sorted(there_by_run.keys() | self.logs.keys())
            if there_by_run[run_id] != self.logs[run_id]
        ]
        if differing:
            raise StorageMoveError(
                f"The copy differs from the source ({'; '.join(differing[:5])}); it was taken back.", "Please report this."
            )
        self.report("every count was compared: nothing is missing")

    def _write(self, table: db.Table, source: db.Connection, query: db.Select[Any]) -> None:
        for page in source.execution_options(yield_per=PAGE).execute(query).mappings().partitions():
            self.target.execute(table.insert(), [dict(row) for row in page])
            self.rows[table.name] += len(page)
            self._tell(table.name)

    def _write_log(self, run_id: str, path: Path, index: db.Connection) -> None:
        """The lines of a run's log that ``index.db`` does not have; the target numbers them."""
        columns = [column for column in _EVENTS.c if column.name != "id"]
        unmirrored = db.or_(_EVENTS.c.dagster_event_type.is_(None), _EVENTS.c.dagster_event_type.not_in(_MIRRORED))
        with self.files.read(path) as shard:
            if not db.inspect(shard).has_table(_EVENTS.name):
                return  # a file that Dagster had begun when it was killed
            self._write(_EVENTS, shard, db.select(*columns).where(unmirrored).order_by(_EVENTS.c.id))
            if run_id == _RUNLESS:  # asset events of sensors, all of them in index.db but for those of wiped assets, which no page shows
                self.logs[run_id] += shard.execute(db.select(db.func.count()).where(unmirrored)).scalar_one()
                return
            self.logs[run_id] = shard.execute(db.select(db.func.count()).select_from(_EVENTS)).scalar_one()
            self._write_wiped(run_id, shard, index)

    def _write_wiped(self, run_id: str, shard: db.Connection, index: db.Connection) -> None:
        """Asset events that were wiped from the lineage, or never reached it, stay lines of their run's log and nothing more."""
        mirrored = Counter(_digest(text) for text in index.execute(db.select(_EVENTS.c.event).where(_EVENTS.c.run_id == run_id)).scalars())
        query = db.select(_EVENTS).where(_EVENTS.c.dagster_event_type.in_(_MIRRORED)).order_by(_EVENTS.c.id)
        for row in shard.execution_options(yield_per=PAGE).execute(query).mappings():
            digest = _digest(row["event"])
            if mirrored[digest]:
                mirrored[digest] -= 1
            else:
                line = {**row, "asset_key": None, "partition": None}
                del line["id"]
                self.target.execute(_EVENTS.insert(), [line])
                self.rows[_EVENTS.name] += 1

    def _continue_ids(self) -> None:
        """Let the target number what comes beyond what was copied with its id."""
        for table in _tables():
            if "id" in table.c:
                highest = db.select(db.func.max(table.c.id)).scalar_subquery()
                self.target.execute(
                    db.select(
                        db.func.setval(db.func.pg_get_serial_sequence(table.name, "id"), db.func.coalesce(highest, 1), highest.is_not(None))
                    )
                )

    def _tell(self, name: str) -> None:
        if time.monotonic() - self._told_at >= _REPORT_EVERY_S:
            self._told_at = time.monotonic()
            self.report(f"{sum(self.rows.values())} rows copied, at work on {name}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _counts(rows: Iterable[Any]) -> Counter[str]:
    return Counter(dict(map(tuple, rows)))
