"""HealthImaging's data: data stores, image sets with versions, import jobs and tags, in one SQLite file beside the instances' own files.

An instance belongs to the image set of its seven grouping attributes. What contradicts the primary sets of its study becomes part of a
non-primary set. Each import that touches a set makes one new version of it; an instance that comes again replaces the one before in the
new version, and both stay stored. Knows no request and no DICOM but what ``imaging_files`` read.
Sources: HealthImaging Developer Guide, "Understanding image sets", "Understanding import jobs".
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .imaging_files import GROUPING, Frame, Instance, Warned

Row = sqlite3.Row
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS datastores (id TEXT PRIMARY KEY, region TEXT, name TEXT, status TEXT, created REAL, updated REAL, token TEXT,
  described INTEGER DEFAULT 0, kms TEXT, format TEXT);
CREATE TABLE IF NOT EXISTS image_sets (id TEXT PRIMARY KEY, datastore TEXT, is_primary INTEGER, state TEXT, version INTEGER, created REAL,
  updated REAL, deleted REAL, study TEXT, series TEXT, grouping TEXT);
CREATE INDEX IF NOT EXISTS sets_by_study ON image_sets (datastore, study);
CREATE INDEX IF NOT EXISTS sets_by_series ON image_sets (datastore, series);
CREATE TABLE IF NOT EXISTS versions (image_set TEXT, version INTEGER, workflow TEXT, updated REAL, PRIMARY KEY (image_set, version));
CREATE TABLE IF NOT EXISTS instances (file TEXT PRIMARY KEY, image_set TEXT, sop TEXT, since INTEGER, until INTEGER, sop_class TEXT,
  syntax TEXT, attributes TEXT, frames TEXT, warnings TEXT);
CREATE INDEX IF NOT EXISTS instances_by_set ON instances (image_set, sop);
CREATE INDEX IF NOT EXISTS instances_by_uid ON instances (sop);
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, datastore TEXT, status TEXT, submitted REAL, token TEXT, properties TEXT);
CREATE TABLE IF NOT EXISTS tags (arn TEXT, key TEXT, value TEXT, PRIMARY KEY (arn, key));
"""


@dataclass(frozen=True)
class Stored:
    """Where an instance has come to be."""

    instance: Instance
    image_set: str
    version: int
    is_primary: bool


@dataclass(frozen=True)
class StoredInstance:
    """An instance as the store has it."""

    file: Path
    image_set: str
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    attributes: Mapping[str, Any]
    frames: tuple[Frame, ...]
    warnings: tuple[Warned, ...]

    def frame_id(self, number: int) -> str:
        """Id of a frame, counted from 0."""
        return f"{self.file.stem[:28]}{number:04x}"


class ImageStore:
    """All of one cloud. Safe among threads; every change is on disk when its call returns."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._files, self._clock, self._lock = folder / "instances", clock, threading.RLock()
        self._files.mkdir(parents=True, exist_ok=True)
        self.incoming = folder / "incoming"
        """Where files lie that are being received; on the same disk, and emptied at each start."""
        self.incoming.mkdir(exist_ok=True)
        self._db = sqlite3.connect(folder / "index.sqlite3", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_SCHEMA)
        self._remove_what_nobody_knows()

    def _remove_what_nobody_knows(self) -> None:
        """Files of imports that the end of the process cut short."""
        known = {row["file"] for row in self.rows("SELECT file FROM instances")}
        for path in [*self._files.iterdir(), *self.incoming.rglob("*")]:
            if path.is_file() and (path.parent != self._files or path.name not in known):
                path.unlink()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is done to the index."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[Row]:
        """Rows of a query."""
        with self._lock:
            return list(self._db.execute(query, values))

    # ------------------------------------------------------------------------------------------------------------------ data stores

    def create_datastore(self, region: str, name: str, token: str, kms: str = "", storage: str = "HTJ2K") -> Row:
        """A new data store; the one that the same token made before, where there is one."""
        with self.change() as db:
            same = self.rows("SELECT * FROM datastores WHERE region = ? AND token = ?", region, token)
            if same:
                return same[0]
            made, now = secrets.token_hex(16), self._clock()
            db.execute(
                "INSERT INTO datastores (id, region, name, status, created, updated, token, kms, format) VALUES (?,?,?,?,?,?,?,?,?)",
                (made, region, name or made, "CREATING", now, now, token, kms, storage),
            )
            return self.rows("SELECT * FROM datastores WHERE id = ?", made)[0]

    def datastores(self, region: str) -> list[Row]:
        """Data stores of a region, the oldest first."""
        return self.rows("SELECT * FROM datastores WHERE region = ? ORDER BY created, id", region)

    def datastore(self, region: str, name: str) -> Row | None:
        """One data store."""
        found = self.rows("SELECT * FROM datastores WHERE region = ? AND id = ?", region, name)
        return found[0] if found else None

    def describe(self, datastore: Row) -> Row:
        """A data store as its owner is told of it; the next time it is what it was becoming."""
        becomes = {"CREATING": "ACTIVE", "DELETING": "DELETED"}.get(datastore["status"])
        if becomes:
            self.set_status(datastore["id"], becomes)
        return datastore

    def set_status(self, datastore: str, status: str) -> None:
        """Let a data store be in a state."""
        with self.change() as db:
            db.execute("UPDATE datastores SET status = ?, updated = ? WHERE id = ?", (status, self._clock(), datastore))

    def is_empty(self, datastore: str) -> bool:
        """Whether no image set is left in it."""
        return not self.rows("SELECT id FROM image_sets WHERE datastore = ? AND state != 'DELETED' LIMIT 1", datastore)

    # ------------------------------------------------------------------------------------------------------------------- image sets

    def add(self, datastore: str, received: Iterable[tuple[Instance, Path]]) -> list[Stored]:
        """Take files in, in one import: every set that it touches gets one new version."""
        stored: list[Stored] = []
        versions: dict[str, int] = {}
        with self.change() as db:
            for instance, path in received:
                image_set, is_primary = self._set_for(datastore, instance)
                if image_set not in versions:
                    versions[image_set] = self._new_version(image_set)
                version, file = versions[image_set], f"{secrets.token_hex(16)}.dcm"
                path.rename(self._files / file)
                db.execute(
                    "UPDATE instances SET until = ? WHERE image_set = ? AND sop = ? AND until IS NULL",
                    (version, image_set, instance.sop_instance),
                )
                db.execute(
                    "INSERT INTO instances VALUES (?,?,?,?,NULL,?,?,?,?,?)",
                    (file, image_set, instance.sop_instance, version, instance.sop_class, instance.transfer_syntax,
                     json.dumps(instance.attributes), json.dumps([frame.ranges for frame in instance.frames]),
                     json.dumps(instance.warnings)),
                )  # fmt: skip
                stored.append(Stored(instance, image_set, version, is_primary))
        return stored

    def _set_for(self, datastore: str, instance: Instance) -> tuple[str, bool]:
        """The image set that an instance belongs to, made where there is none, and whether that is a primary one."""
        named = dict(zip(GROUPING, instance.grouping, strict=True))
        grouping, of_study = json.dumps(instance.grouping), instance.grouping[:5]
        primary = "SELECT * FROM image_sets WHERE datastore = ? AND is_primary AND state = 'ACTIVE' AND "
        siblings = self.rows(primary + "(study = ? OR series = ?)", datastore, named["StudyInstanceUID"], named["SeriesInstanceUID"])
        elsewhere = self.rows(
            "SELECT image_sets.grouping FROM instances JOIN image_sets ON image_sets.id = instances.image_set "
            "WHERE sop = ? AND until IS NULL AND datastore = ? AND is_primary AND state = 'ACTIVE'",
            instance.sop_instance,
            datastore,
        )
        contradicted = [row for row in siblings if tuple(json.loads(row["grouping"]))[:5] != of_study]
        split = [row for row in siblings if row["series"] == named["SeriesInstanceUID"] and row["grouping"] != grouping]
        conflicts = bool(contradicted or split or any(row["grouping"] != grouping for row in elsewhere))
        same = self.rows(
            "SELECT id FROM image_sets WHERE datastore = ? AND series = ? AND grouping = ? AND is_primary = ? AND state = 'ACTIVE'",
            datastore, named["SeriesInstanceUID"], grouping, int(not conflicts),
        )  # fmt: skip
        if same:
            return str(same[0]["id"]), not conflicts
        made, now = secrets.token_hex(16), self._clock()
        self._db.execute(
            "INSERT INTO image_sets VALUES (?,?,?,'ACTIVE',0,?,?,NULL,?,?,?)",
            (made, datastore, int(not conflicts), now, now, named["StudyInstanceUID"], named["SeriesInstanceUID"], grouping),
        )
        return made, not conflicts

    def _new_version(self, image_set: str) -> int:
        now = self._clock()
        self._db.execute("UPDATE image_sets SET version = version + 1, updated = ? WHERE id = ?", (now, image_set))
        version = int(self.rows("SELECT version FROM image_sets WHERE id = ?", image_set)[0]["version"])
        workflow = "CREATED" if version == 1 else "UPDATED"
        self._db.execute("INSERT INTO versions VALUES (?,?,?,?)", (image_set, version, workflow, now))
        return version

    def image_sets(self, datastore: str, study: str = "", series: str = "") -> list[Row]:
        """Image sets that are there, of a study or series where one is named, the newest first."""
        asked = {"study": study, "series": series}
        conditions = "".join(f" AND {name} = ?" for name, value in asked.items() if value)
        query = f"SELECT * FROM image_sets WHERE datastore = ? AND state = 'ACTIVE'{conditions} ORDER BY updated DESC, id"  # noqa: S608
        return self.rows(query, datastore, *(value for value in asked.values() if value))

    def image_set(self, datastore: str, name: str) -> Row | None:
        """One image set, also a deleted one."""
        found = self.rows("SELECT * FROM image_sets WHERE datastore = ? AND id = ?", datastore, name)
        return found[0] if found else None

    def versions(self, image_set: str) -> list[Row]:
        """Versions of a set, the newest first."""
        return self.rows("SELECT * FROM versions WHERE image_set = ? ORDER BY version DESC", image_set)

    def delete_image_set(self, image_set: str) -> None:
        """Remove a set with all its versions; that it was there stays known."""
        with self.change() as db:
            files = self.rows("SELECT file FROM instances WHERE image_set = ?", image_set)
            now = self._clock()
            db.execute("DELETE FROM instances WHERE image_set = ?", (image_set,))
            db.execute("DELETE FROM versions WHERE image_set = ?", (image_set,))
            db.execute(
                "UPDATE image_sets SET state = 'DELETED', version = version + 1, updated = ?, deleted = ? WHERE id = ?",
                (now, now, image_set),
            )
        for row in files:
            (self._files / row["file"]).unlink(missing_ok=True)

    def instances(
        self, datastore: str, image_set: str = "", study: str = "", series: str = "", sop: str = "", version: int = 0
    ) -> list[StoredInstance]:
        """Instances of one set at a version (0: the latest), or of the primary sets where none is named."""
        asked = {"image_sets.id": image_set, "study": study, "series": series, "sop": sop}
        conditions = "".join(f" AND {name} = ?" for name, value in asked.items() if value) + ("" if image_set else " AND is_primary")
        valid = "since <= ? AND (until IS NULL OR until > ?)" if version else "until IS NULL"
        values = [datastore, *([version, version] if version else []), *(value for value in asked.values() if value)]
        query = (
            "SELECT instances.* FROM instances JOIN image_sets ON image_sets.id = instances.image_set "  # noqa: S608 - names are ours
            f"WHERE datastore = ? AND state = 'ACTIVE' AND {valid}{conditions} ORDER BY instances.rowid"
        )
        return [self._stored(row) for row in self.rows(query, *values)]

    def _stored(self, row: Row) -> StoredInstance:
        frames = tuple(Frame(tuple((start, bits) for start, bits in ranges)) for ranges in json.loads(row["frames"]))
        warnings = tuple((reason, kind, message) for reason, kind, message in json.loads(row["warnings"]))
        return StoredInstance(
            self._files / row["file"], row["image_set"], row["sop_class"], row["sop"], row["syntax"],
            json.loads(row["attributes"]), frames, warnings,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------------ import jobs

    def create_job(self, datastore: str, token: str, properties: Mapping[str, Any]) -> tuple[Row, bool]:
        """A new import job and True; the one that the same token made before and False, where there is one."""
        with self.change() as db:
            same = self.rows("SELECT * FROM jobs WHERE datastore = ? AND token = ?", datastore, token)
            if same:
                return same[0], False
            made, now = secrets.token_hex(16), self._clock()
            output = f"{str(properties['outputS3Uri']).rstrip('/')}/{datastore}-DicomImport-{made}/"
            kept = {"jobName": made, **properties, "jobId": made, "outputS3Uri": output}
            db.execute("INSERT INTO jobs VALUES (?,?,'SUBMITTED',?,?,?)", (made, datastore, now, token, json.dumps(kept)))
            return self.rows("SELECT * FROM jobs WHERE id = ?", made)[0], True

    def jobs(self, datastore: str) -> list[Row]:
        """Import jobs of a data store, the newest first."""
        return self.rows("SELECT * FROM jobs WHERE datastore = ? ORDER BY submitted DESC, id", datastore)

    def unfinished_jobs(self) -> list[Row]:
        """Import jobs that the end of the process cut short."""
        return self.rows("SELECT * FROM jobs WHERE status IN ('SUBMITTED', 'IN_PROGRESS')")

    def update_job(self, job: str, status: str, **properties: Any) -> None:
        """Note how far a job is."""
        with self.change() as db:
            kept = json.loads(self.rows("SELECT properties FROM jobs WHERE id = ?", job)[0]["properties"])
            db.execute("UPDATE jobs SET status = ?, properties = ? WHERE id = ?", (status, json.dumps({**kept, **properties}), job))

    # ------------------------------------------------------------------------------------------------------------------------- tags

    def tags(self, arn: str) -> dict[str, str]:
        """Tags of a resource."""
        return {row["key"]: row["value"] for row in self.rows("SELECT key, value FROM tags WHERE arn = ?", arn)}

    def tag(self, arn: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        with self.change() as db:
            db.executemany("INSERT OR REPLACE INTO tags VALUES (?,?,?)", [(arn, key, value) for key, value in tags.items()])

    def untag(self, arn: str, keys: Sequence[str]) -> None:
        """Remove tags."""
        with self.change() as db:
            db.executemany("DELETE FROM tags WHERE arn = ? AND key = ?", [(arn, key) for key in keys])
