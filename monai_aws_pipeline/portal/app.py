"""The application: its routes in one place, and what holds for every answer. Reads alone; GET and HEAD, nothing else.

A name in a path is looked up, never joined into a key (``study_files``). The server does not know who asks, so ``server`` listens on
loopback only, and the host name that a browser believes to speak to is checked: another site's name may lead here (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.day_table import NoDayTableError, read
from monai_aws_pipeline.portal.addresses import LINEAGE_PREVIEW_FILE, LINEAGE_WIDTH, ORIGINAL_FOLDER, PREVIEW_FILE, Addresses
from monai_aws_pipeline.portal.pages import TEMPLATES, answer_page, day_page, message_page, study_page
from monai_aws_pipeline.portal.study_files import NotThereError, StudyFiles

OWN_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
DEFAULT_HEADERS: Final = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
"""What an answer may say otherwise for itself."""
_STYLE: Final = (TEMPLATES / "style.css").read_text()


def build_app(files: StudyFiles, where: Addresses) -> Starlette:
    """The whole application over one bucket."""
    routes = StudyRoutes(files, where)
    return Starlette(
        routes=[
            Route("/health", _health),
            Route("/style.css", _style),
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
            Middleware(_Secured),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*OWN_HOSTS, *_host_of(where.links)], www_redirect=False),
        ],
        exception_handlers={
            HTTPException: _no_such_page,
            NotThereError: _not_there,
            NamedError: _unreadable,
            ClientError: _s3_refused,
            BotoCoreError: _s3_refused,
        },
    )


class StudyRoutes:
    """What of a study is shown and opened."""

    def __init__(self, files: StudyFiles, where: Addresses) -> None:
        self._files = files
        self._where = where

    def study(self, request: Request) -> Response:
        """All answers to a study."""
        study = _hex(request, "study", 16)
        return HTMLResponse(study_page(study, self._files.answers(study)))

    def answer(self, request: Request) -> Response:
        """One answer, or why there is none."""
        result = self._files.result(*_named(request))
        return HTMLResponse(answer_page(result, self._files.originals(result.record), self._where))

    def day(self, request: Request) -> Response:
        """Everything that was committed on one day, as its table names it."""
        try:
            day = date.fromisoformat(request.path_params["day"])
            return HTMLResponse(day_page(read(self._files.store, day)))
        except ValueError as error:
            raise NotThereError("A day is named like 2026-03-14.") from error
        except NoDayTableError as error:
            raise NotThereError(error.cause, error.remedy) from error

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
            raise NotThereError("The original is not in the bucket any more (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), or was never kept.")
        return RedirectResponse(self._files.original_link(record, names[0]) if len(names) == 1 else "../", status_code=302)

    def original(self, request: Request) -> Response:
        """One file of the upload, in the same way."""
        record = self._files.record(*_named(request))
        return RedirectResponse(self._files.original_link(record, request.path_params["name"]), status_code=302)


class _Secured:
    """Sets the security headers on every answer, refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                for name, value in DEFAULT_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_secured)


def _picture(png: bytes) -> Response:
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


def _named(request: Request) -> tuple[str, str]:
    """Study and job of a path; the study is empty for a job that ended before its study was known."""
    study = _hex(request, "study", 16) if "study" in request.path_params else ""
    return study, _hex(request, "job", 32)


def _hex(request: Request, name: str, digits: int) -> str:
    value: str = request.path_params[name]
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise NotThereError(f"A {name} is named by {digits} lower-case hex digits.")
    return value


def _host_of(address: str) -> list[str]:
    host = urlsplit(address).hostname
    return [host] if host else []


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _style(_: Request) -> Response:
    return Response(_STYLE, media_type="text/css", headers={"Cache-Control": "private, max-age=600"})


def _page(status: int, title: str) -> Callable[[Any, Exception], Response]:
    def answer(_: Any, error: Exception) -> Response:
        return HTMLResponse(message_page(title, str(error)), status_code=status)

    return answer


_not_there = _page(404, "Not there")
_unreadable = _page(502, "Not readable")


def _no_such_page(_: Any, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = (
        "These pages are read with GET." if status == 405 else "There is no such page. Links to a study's pages are on its page in Dagster."
    )
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return HTMLResponse(message_page("Not there", text), status_code=status, headers=headers)


def _s3_refused(_: Any, error: Exception) -> Response:
    """Without the words of the service: they may name keys and accounts."""
    code = error.response.get("Error", {}).get("Code", "unknown") if isinstance(error, ClientError) else type(error).__name__
    text = f"S3 did not give it ({code}). Where a login has expired, log in again; monai-aws doctor says what else is missing."
    return HTMLResponse(message_page("S3 did not answer", text), status_code=502)
