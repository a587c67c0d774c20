"""A whole study into an archive: look what is there, store the rest in bounded requests, and say by series what the archive answered.

``archive_study`` is what a host calls after the commit, and what ``archived_study`` calls with files fetched from S3.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from .conflicts import ArchiveConflict, ArchiveFile
from .dicomweb import DicomWebArchive
from .healthimaging import HealthImagingArchive, ImageSet
from .message import Limits, batches
from .record import ArchiveRecord, SeriesRecord


def archive_study(
    archive: DicomWebArchive,
    files: Sequence[ArchiveFile],
    study: str,
    job: str,
    limits: Limits | None = None,
    withheld: Sequence[ArchiveConflict] = (),
) -> ArchiveRecord:
    """Store what is not there yet. Storing a study twice stores it once.

    ``study``, ``job``: the pseudonyms that the record bears; ``withheld``: what it says of results that are not to be stored.
    Raises ArchiveError where the archive is away or lets nobody in; what had been stored by then is there at the next call.
    """
    started = time.monotonic()
    series = {each.series: each.study_uid for each in files}
    there = {uid: archive.present(study_uid, uid) for uid, study_uid in series.items()}
    missing = {each.path: each for each in files if each.sop_instance not in there[each.series]}
    stored: dict[str, int] = {}
    refused: dict[str, int] = {}
    for batch in batches([(each.path, each.bytes) for each in missing.values()], limits or Limits()):
        answered = archive.store([missing[path] for path in batch])
        stored |= answered.stored
        refused |= answered.refused
    sets = {uid: archive.image_sets(uid) for uid in series} if isinstance(archive, HealthImagingArchive) else {}
    records = tuple(
        _series([each for each in files if each.series == uid], there[uid], stored, refused, sets.get(uid, [])) for uid in series
    )
    records += _withheld(withheld)
    traffic = archive.traffic
    return ArchiveRecord(
        study,
        job,
        archive.kind,
        records,
        round(time.monotonic() - started, 3),
        traffic.bytes,
        traffic.requests,
        traffic.tries,
        archive.datastore if isinstance(archive, HealthImagingArchive) else "",
    )


def _series(
    files: Sequence[ArchiveFile], there: set[str], stored: Mapping[str, int], refused: Mapping[str, int], sets: Sequence[ImageSet]
) -> SeriesRecord:
    sent = [each.sop_instance for each in files if each.sop_instance not in there]
    warned = Counter(code for uid in sent if (code := stored.get(uid, 0)))
    return SeriesRecord(
        files[0].number,
        files[0].modality,
        files[0].is_result,
        there=len(files) - len(sent),
        sent=len(sent),
        stored=sum(1 for uid in sent if uid in stored),
        refused=dict(Counter(refused[uid] for uid in sent if uid in refused)),
        warned=dict(warned),
        image_sets=tuple(each.id for each in sets),
        hidden=any(not each.is_primary for each in sets),
        corrected=tuple(sorted({name for each in files for name in each.corrected})),
    )


def _withheld(conflicts: Sequence[ArchiveConflict]) -> tuple[SeriesRecord, ...]:
    """A record for each series of which something is not stored; what is stored of the same series has one of its own."""
    by_series: dict[str, list[ArchiveConflict]] = {}
    for each in conflicts:
        by_series.setdefault(each.file.series, []).append(each)
    return tuple(
        SeriesRecord(
            some[0].file.number,
            some[0].file.modality,
            is_result=True,
            withheld=len(some),
            conflicts=tuple(sorted({name for each in some for name in each.attributes})),
        )
        for some in by_series.values()
    )
