"""The application: its routes in one place. Pages are read with GET and HEAD; what changes something is below ``/api/`` (``api``).

A name in a path is looked up, never joined into a key (``study_files``). What holds for every request is in ``safety``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from monai_aws_pipeline.contract import ContractError, Status
from monai_aws_pipeline.contract.parsing import text_field
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.day_table import NoDayTableError, read
from monai_aws_pipeline.portal import api, responses
from monai_aws_pipeline.portal.addresses import LINEAGE_PREVIEW_FILE, LINEAGE_WIDTH, ORIGINAL_FOLDER, PREVIEW_FILE, Addresses
from monai_aws_pipeline.portal.events import JobEvents
from monai_aws_pipeline.portal.identity import Known, LoadBalancer
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.pages import TEMPLATES, answer_page, day_page, follow_page, home_page, recent_part, study_page
from monai_aws_pipeline.portal.recent import Recent
from monai_aws_pipeline.portal.responses import Caught, language, page
from monai_aws_pipeline.portal.safety import HEALTH, KnownHost, Limited, Rate, SameOrigin, Secured
from monai_aws_pipeline.portal.study_files import NotThereError, StudyFiles
from monai_aws_pipeline.portal.uploads import UploadRefusedError, Uploads
from monai_aws_pipeline.portal.viewer.routes import Viewer

OWN_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
STATIC: Final = TEMPLATES.parent / "static"
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_FILES: Final = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in _TYPES}
"""Scripts and style, as they are sent."""

AskAgain = Callable[[str, Sequence[str]], str]


@dataclass(frozen=True)
class Portal:
    """What the application is made of beside the studies of its bucket. ``rate``: how often each client may ask.

    ``ask_again``: for a study whose uploads under these jobs failed; the job that was asked for. Raises NamedError.
    ``balancer``: who says which user asks; None: nobody is asked. ``viewer``: how a study is looked at; None: it is not.
    """

    uploads: Uploads
    watcher: Watcher
    ask_again: AskAgain
    balancer: LoadBalancer | None = None
    viewer: Viewer | None = None
    rate: Rate = field(default_factory=Rate)


def build_app(files: StudyFiles, where: Addresses, portal: Portal) -> Starlette:
    """The whole application over one bucket."""
    routes, studies = StudyRoutes(files, where), RecentRoutes(files, Recent(files.store), portal.ask_again)
    app = Starlette(
        routes=[
            Route(HEALTH, _health),
            Route("/", _home),
            Route("/static/{name}", _static),
            Route("/follow/{job}", _follow),
            *api.UploadApi(portal.uploads).routes(),
            *JobEvents(portal.watcher).routes(),
            Route("/recent", studies.recent),
            Route("/api/studies/{study}/again", studies.again, methods=["POST"]),
            *(portal.viewer.routes(files) if portal.viewer else []),
            Route("/studies/{study}/", routes.study),
            Route("/studies/{study}/{job}/", routes.answer),
            Route(f"/studies/{{study}}/{{job}}/{PREVIEW_FILE}", routes.preview),
            Route(f"/studies/{{study}}/{{job}}/{LINEAGE_PREVIEW_FILE}", routes.lineage_preview),
            Route(f"/studies/{{study}}/{{job}}/{ORIGINAL_FOLDER}/", routes.originals),
            Route(f"/studies/{{study}}/{{job}}/{ORIGINAL_FOLDER}/{{name}}", routes.original),
            Route("/studies/{study}/{job}/{name:path}", routes.file),
            Route("/days/{day}/", routes.day),
            Route("/jobs/{job}/", routes.answer),
            Route(f"/jobs/{{job}}/{ORIGINAL_FOLDER}/", routes.originals),
            Route(f"/jobs/{{job}}/{ORIGINAL_FOLDER}/{{name}}", routes.original),
            Route("/jobs/{job}/{name:path}", routes.file),
        ],
        middleware=[
            Middleware(Secured, sent_to=files.address),
            Middleware(Caught),
            Middleware(KnownHost, names=[*OWN_HOSTS, *_host_of(where.links)], address=where.links),
            *([Middleware(Known, balancer=portal.balancer)] if portal.balancer else []),
            Middleware(SameOrigin),
            Middleware(Limited, rate=portal.rate),
        ],
        exception_handlers={
            HTTPException: responses.no_such_page,
            UploadRefusedError: api.refused,
            ContractError: api.not_understood,
            NotThereError: responses.not_there,
            NamedError: responses.unreadable,
            ClientError: responses.s3_refused,
            BotoCoreError: responses.s3_refused,
        },
    )
    # A redirect to the address with or without its last slash would carry the query along, and with it whatever somebody typed there.
    app.router.redirect_slashes = False
    return app


class StudyRoutes:
    """What of a study is shown and opened."""

    def __init__(self, files: StudyFiles, where: Addresses) -> None:
        self._files = files
        self._where = where

    def study(self, request: Request) -> Response:
        """All answers to a study."""
        study = _hex(request, "study", 16)
        results = self._files.answers(study)
        return page(request, lambda wanted: study_page(study, results, wanted))

    def answer(self, request: Request) -> Response:
        """One answer, or why there is none."""
        result = self._files.result(*_named(request))
        originals = self._files.originals(result.record)
        return page(request, lambda wanted: answer_page(result, originals, self._where, wanted))

    def day(self, request: Request) -> Response:
        """Everything that was committed on one day, as its table names it."""
        try:
            day = date.fromisoformat(request.path_params["day"])
            table = read(self._files.store, day)
        except ValueError as error:
            raise NotThereError("day_named") from error
        except NoDayTableError as error:
            raise NotThereError("no_day_table") from error
        return page(request, lambda wanted: day_page(table, wanted))

    def preview(self, request: Request) -> Response:
        """The picture as it was drawn."""
        return _picture(self._files.preview(self._files.record(*_named(request))))

    def lineage_preview(self, request: Request) -> Response:
        """The picture as the lineage shows it, on Dagster's own pages: so it alone may be shown on a page of another origin."""
        picture = _picture(self._files.preview(self._files.record(*_named(request)), LINEAGE_WIDTH))
        picture.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return picture

    def file(self, request: Request) -> Response:
        """An output, the log or the record: the browser is sent to where S3 gives it for the next minutes."""
        study, job = _named(request)
        return RedirectResponse(self._files.link(study, job, request.path_params["name"]), status_code=302)

    def originals(self, request: Request) -> Response:
        """The upload as it is kept, where it is one file; otherwise the page that lists its files."""
        record = self._files.record(*_named(request))
        names = list(self._files.originals(record))
        if not names:
            raise NotThereError("original_expired")
        return RedirectResponse(self._files.original_link(record, names[0]) if len(names) == 1 else "../", status_code=302)

    def original(self, request: Request) -> Response:
        """One file of the upload, in the same way."""
        record = self._files.record(*_named(request))
        return RedirectResponse(self._files.original_link(record, request.path_params["name"]), status_code=302)


class RecentRoutes:
    """The recent studies, and asking for one again."""

    def __init__(self, files: StudyFiles, recent: Recent, ask_again: AskAgain) -> None:
        self._files, self._recent, self._ask_again = files, recent, ask_again

    def recent(self, request: Request) -> Response:
        """A part of the first page."""
        beginning = request.query_params.get("study", "")[:16]
        found = self._recent.found(beginning) if beginning else None
        return HTMLResponse(recent_part(language(request), self._recent.newest(), beginning, found))

    async def again(self, request: Request) -> Response:
        """``{job}``, which failed → ``{job}``, which was asked for."""
        study, failed = _hex(request, "study", 16), text_field(await api.body_of(request), "job")
        return await run_in_threadpool(self._again, study, failed)

    def _again(self, study: str, failed: str) -> Response:
        record = self._files.record(study, failed)
        if record.status is Status.SUCCEEDED:
            raise NotThereError("study_answered")
        if record.study != study:  # an upload of no known study has a page under any name, and is the original of none
            raise NotThereError("again_unknown")
        jobs = dict.fromkeys((failed, *self._recent.failed_jobs(study)))
        try:
            return JSONResponse({"job": self._ask_again(study, tuple(jobs))})
        except NamedError as error:
            return JSONResponse({"error": "again_refused", "why": str(error)}, status_code=409)


def _picture(png: bytes) -> Response:
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


def _named(request: Request) -> tuple[str, str]:
    """Study and job of a path; the study is empty for a job that ended before its study was known."""
    study = _hex(request, "study", 16) if "study" in request.path_params else ""
    return study, _hex(request, "job", 32)


def _hex(request: Request, name: str, digits: int) -> str:
    value: str = request.path_params[name]
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise NotThereError("named_by_digits", digits=digits)
    return value


def _host_of(address: str) -> list[str]:
    host = urlsplit(address).hostname
    return [host] if host else []


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _home(request: Request) -> Response:
    return page(request, home_page)


async def _follow(request: Request) -> Response:
    job = _hex(request, "job", 32)
    return page(request, lambda wanted: follow_page(wanted, job))


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise HTTPException(404)
    return Response(_FILES[name], media_type=_TYPES[Path(name).suffix], headers={"Cache-Control": "private, max-age=600"})
