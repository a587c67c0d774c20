"""Pages as answers to a browser, in the language that it wants; and what it gets instead of one: what is wrong and what to do, no stack.

Here belongs how a refusal is answered, whatever refused it: below ``/api/`` as JSON with the key of its text, anywhere else as a page.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Final

from botocore.exceptions import ClientError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.portal.pages import message_page
from monai_aws_pipeline.portal.picture import PreviewError
from monai_aws_pipeline.portal.study_files import NotThereError
from monai_aws_pipeline.portal.texts import TEXTS, language_of, texts_in

LANGUAGE_COOKIE: Final = "language"
_log: Final = logging.getLogger(__name__)


def language(request: Request) -> str:
    """Which language a request is answered in."""
    cookie, accepted = request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("accept-language", "")
    return language_of(request.query_params.get("language", ""), cookie, accepted)


def page(request: Request, page_in: Callable[[str], str], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page in the language that its browser wants, which is kept where it was asked for."""
    wanted = language(request)
    answer = HTMLResponse(page_in(wanted), status, headers)
    if request.query_params.get("language") == wanted:
        answer.set_cookie(LANGUAGE_COOKIE, wanted, max_age=31_536_000, samesite="strict", httponly=True)
    return answer


def refusal(request: Request, status: int, key: str, headers: Mapping[str, str] | None = None, **values: object) -> Response:
    """What is answered instead. ``key``: of the text that says what is wrong and what to do; ``values``: what stands in it."""
    if request.scope["path"].startswith("/api/"):
        return JSONResponse({**values, "error": key}, status, headers)

    def said(wanted: str) -> str:
        t = texts_in(wanted)
        return message_page(t.get(f"title_{status}", t["title_500"]), t[key].format(**values), wanted)

    return page(request, said, status, headers)


def not_there(request: Request, error: Exception) -> Response:
    """The answer to a NotThereError."""
    if not isinstance(error, NotThereError):
        raise error
    if error.key not in TEXTS:  # a sentence of its own
        return refusal(request, 404, "not_there_because", why=str(error))
    return refusal(request, 404, error.key, None, **error.values)


def unreadable(request: Request, error: Exception) -> Response:
    """The answer to a NamedError: something in the bucket is there, and is damaged."""
    if not isinstance(error, NamedError):
        raise error
    return refusal(request, 502, "preview_unreadable" if isinstance(error, PreviewError) else "record_unreadable", why=str(error))


def no_such_page(request: Request, error: Exception) -> Response:
    """The answer to an HTTPException: no route takes the request."""
    if not isinstance(error, HTTPException):
        raise error
    key = {404: "no_such_page", 405: "read_with_get"}.get(error.status_code, "internal")
    return refusal(request, error.status_code, key, error.headers)


def s3_refused(request: Request, error: Exception) -> Response:
    """Without the words of the service: they may name keys and accounts."""
    code = error.response.get("Error", {}).get("Code", "unknown") if isinstance(error, ClientError) else type(error).__name__
    key = "s3_refused" if request.scope["path"].startswith("/api/") else "s3_gave_nothing"
    return refusal(request, 502, key, code=code)


class Caught:
    """Answers what nothing else has caught, like any refusal. Where it happened is logged; what was asked for, and by whom, is not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or say that it failed here; an answer that has begun is cut off instead, so that nobody takes it for whole."""
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__)[-5:])  # without the message, which may hold what was asked for
            _log.error("a request failed (%s):\n%s", type(error).__name__, frames)
            if begun or scope["type"] != "http":
                raise ConnectionAbortedError("the answer had begun") from None
            await refusal(Request(scope), 500, "internal")(scope, receive, send)
