"""The pages as HTML, made from records alone. Everything in them is escaped; no script and no style in the page, nothing from elsewhere.

Here belongs what a page says and how it looks. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monai_aws_pipeline.contract import ResultRecord, SegmentVolume, Status, Timings, day_key, parse_utc, short_digest
from monai_aws_pipeline.operations.day_table import DayTable
from monai_aws_pipeline.operations.kept_original import KeptObject
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import ORIGINAL_FOLDER, PREVIEW_FILE, RECORD_FILE, Addresses, path_of, viewer_path, volume_path
from monai_aws_pipeline.portal.recent import DAYS, RecentRow
from monai_aws_pipeline.portal.study_files import files_of, log_of
from monai_aws_pipeline.portal.texts import LANGUAGES, NAMES, texts_in

TEMPLATES: Final = Path(__file__).parent / "templates"
_HTML: Final = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
_MAX_SEGMENTS: Final = 8
"""Columns and plots of a study's page; an answer's own page has all of its segments."""


@dataclass(frozen=True)
class Plot:
    """One segment over time, in a picture of 640 by 180."""

    label: str
    points: tuple[Mapping[str, str], ...]
    first: str
    last: str
    low: str
    high: str

    @property
    def line(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{point['x']},{point['y']}" for point in self.points)


def home_page(language: str) -> str:
    """Where a study is dropped, and the newest ones."""
    return _page("home.html", language)


def follow_page(language: str, job: str) -> str:
    """Where a job is, until it has ended."""
    return _page("follow.html", language, job=job)


def recent_part(language: str, rows: Sequence[RecentRow], beginning: str, found: Sequence[str] | None) -> str:
    """The recent studies, as the first page takes them in; with those whose pseudonym was looked for."""
    return _page("recent.html", language, rows=rows, beginning=beginning, found=found, days=DAYS)


def viewer_page(study: str, files: str, bundle: str) -> str:
    """OHIF's own page, with nothing inline. ``files``: where its files lie; ``bundle``: the one that starts it."""
    return _page("viewer.html", title=study, files=files, bundle=bundle)


def volume_page(study: str, job: str, niivue: str, language: str) -> str:
    """A study in 3D. ``niivue``: where that lies."""
    title = texts_in(language)["volume_title"].format(study=study)
    links = {"answer": path_of(study, job), "viewer": viewer_path(study, job)}
    return _page("volume.html", language, title=title, niivue=niivue, **links)


def message_page(title: str, text: str, language: str = LANGUAGES[0]) -> str:
    """A page that says one thing."""
    return _page("message.html", language, title=title, text=text)


def answer_page(result: StoredResult, originals: Mapping[str, KeptObject], where: Addresses, language: str = LANGUAGES[0]) -> str:
    """All that is known of one answer, or of why there is none."""
    record, t = result.record, texts_in(language)
    files, log = files_of(record), log_of(record)
    folder = record.commit_key.rpartition("/")[0] + "/"
    return _page(
        "answer.html",
        language,
        title=t["study"].format(study=record.study) if record.study else t["upload_of_job"].format(job=record.job),
        record=record,
        at=_time(record.committed_at),
        study_path=f"/studies/{record.study}/" if record.study else "",
        looked_at=_looked_at(record, t),
        preview=PREVIEW_FILE if PREVIEW_FILE in files else "",
        volumes=result.measurements,
        log=log,
        record_file=RECORD_FILE,
        console=where.in_console(folder),
        lineage=where.lineage(record.study),
        files=files,
        originals=originals,
        folder=ORIGINAL_FOLDER,
        sections=_sections(record, where.s3(folder), t),
    )


def _looked_at(record: ResultRecord, t: Mapping[str, str]) -> dict[str, str]:
    """Where an answer opens in the viewer and in 3D, by what is said of it."""
    if record.status is not Status.SUCCEEDED:
        return {}
    return {viewer_path(record.study, record.job): t["open_viewer"], volume_path(record.study, record.job): t["open_volume"]}


def study_page(study: str, results: Sequence[StoredResult], language: str = LANGUAGES[0]) -> str:
    """All answers to a study, MAP and model side by side, and its volumes over time. ``results``: the oldest first, at least one."""
    labels = list(dict.fromkeys(segment.label for result in reversed(results) for segment in result.measurements))[:_MAX_SEGMENTS]
    newest = results[-1].record
    path = path_of(study, newest.job)
    return _page(
        "study.html",
        language,
        title=texts_in(language)["study"].format(study=study),
        newest=path,
        looked_at=_looked_at(newest, texts_in(language)),
        preview=path + PREVIEW_FILE if PREVIEW_FILE in files_of(newest) else "",
        plots=[_plot(label, results, texts_in(language)) for label in labels] if len(results) > 1 else [],
        labels=labels,
        answers=[_row(result, labels) for result in reversed(results)],
    )


def day_page(table: DayTable, language: str) -> str:
    """Everything that was committed on one day."""
    title, key = f"{texts_in(language)['day_title']} {table.day}", day_key(table.day)
    return _page("day.html", language, title=title, key=key, rows=table.rows[::-1], path_of=path_of)


def _page(template: str, language: str = LANGUAGES[0], **values: object) -> str:
    return _HTML.get_template(template).render(language=language, languages=NAMES, t=texts_in(language), **values)


def _sections(record: ResultRecord, folder: str, t: Mapping[str, str]) -> dict[str, dict[str, str]]:
    made, given = record.map, record.input
    sections = {
        "map_section": {
            "version": made.app_version,
            "digest": made.digest,
            "image": made.image,
            "model": made.model_sha256,
            "commit": made.commit,
            "sdk": made.sdk_version,
            "hosting": record.resources.hosting,
        },
        "input_section": {
            "modalities": ", ".join(given.modalities),
            "images": t["count_images"].format(instances=given.instances, series=given.series, given=given.given),
            "bytes": str(given.bytes),
            "series": "; ".join(given.selection),
            "passed_over": ", ".join(f"{count} {kind}" for kind, count in given.passed_over.items()),
            "repairs": "; ".join(given.repairs),
        },
        "run_section": {
            "job": record.job,
            "folder": folder,
            "host": " ".join((record.host.type, record.host.instance_id, record.host.ami)).strip(),
            "seconds": ", ".join(f"{t[f'phase_{phase.name}']} {getattr(record.timings, phase.name):g}" for phase in fields(Timings)),
            "cost": f"{record.cost.usd:g} USD" + (f" ({record.cost.basis})" if record.cost.basis else ""),
            "memory": f"{record.resources.peak_rss / 2**20:.0f} MiB",
            "request": record.request,
        },
    }
    return {t[section]: {t[f"fact_{name}"]: value for name, value in facts.items() if value} for section, facts in sections.items()}


def _row(result: StoredResult, labels: Sequence[str]) -> dict[str, object]:
    record = result.record
    volumes = _volumes(result.measurements)
    return {
        "path": path_of(record.study, record.job),
        "at": _time(record.committed_at),
        "version": record.map.app_version,
        "digest": short_digest(record.map.digest),
        "model": short_digest(record.map.model_sha256),
        "commit": record.map.commit[:12],
        "seconds": f"{record.timings.total:.1f}",
        "usd": f"{record.cost.usd:.4f}",
        "volumes": [f"{volumes[label]:.1f}" if label in volumes else "" for label in labels],
    }


def _plot(label: str, results: Sequence[StoredResult], t: Mapping[str, str]) -> Plot:
    seen = [(result.record, volume) for result in results for name, volume in _volumes(result.measurements).items() if name == label]
    times = [parse_utc(record.committed_at).timestamp() for record, _ in seen]
    low, high = min(volume for _, volume in seen), max(volume for _, volume in seen)

    def place(value: float, least: float, most: float, begin: float, end: float) -> str:
        return f"{begin + (end - begin) * ((value - least) / (most - least) if most > least else 0.5):.1f}"

    points = [
        {
            "x": place(time, times[0], times[-1], 60, 620),
            "y": place(volume, low, high, 150, 20),
            "title": f"{volume:.1f} ml {t['ended_at']} {_time(record.committed_at)}, MAP {record.map.app_version}",
        }
        for time, (record, volume) in zip(times, seen, strict=True)
    ]
    first, last = _time(seen[0][0].committed_at), _time(seen[-1][0].committed_at)
    return Plot(label, tuple(points), first, last if len(seen) > 1 else "", f"{low:.1f}", f"{high:.1f}" if high > low else "")


def _volumes(measurements: Sequence[SegmentVolume]) -> dict[str, float]:
    return {segment.label: segment.volume_ml for segment in measurements}


def _time(committed_at: str) -> str:
    return f"{parse_utc(committed_at):%Y-%m-%d %H:%M:%S} UTC"
