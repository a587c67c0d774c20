"""What the pages' own scripts ask: JSON in, JSON out, a refusal as the key of its text.

Here belongs the shape of requests and answers. What an upload is is decided in ``uploads``; what holds for every request is in ``safety``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monai_aws_pipeline.contract import ContractError
from monai_aws_pipeline.contract.parsing import json_object, list_field, whole_field
from monai_aws_pipeline.portal.safety import client_of
from monai_aws_pipeline.portal.uploads import Begun, UploadRefusedError, Uploads

MOST_BODY_BYTES: Final = 16 * 1024


class UploadApi:
    """The routes below ``/api/uploads``."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/api/uploads", self.begin, methods=["POST"]),
            Route("/api/uploads/{token}", self.begun, methods=["GET"]),
            Route("/api/uploads/{token}", self.abort, methods=["DELETE"]),
            Route("/api/uploads/{token}/parts", self.addresses, methods=["POST"]),
            Route("/api/uploads/{token}/complete", self.complete, methods=["POST"]),
        ]

    async def begin(self, request: Request) -> Response:
        """``{bytes}`` → ``{token, bytes, part_bytes}``."""
        size = whole_field(await body_of(request), "bytes")
        begun = await run_in_threadpool(self._uploads.begin, client_of(request.scope), size)
        return JSONResponse(_said(begun), status_code=201)

    def begun(self, request: Request) -> Response:
        """``{…, stored: [numbers], job}``: what is there already."""
        begun, stored, job = self._uploads.begun(*_named(request))
        return JSONResponse({**_said(begun), "stored": list(stored), "job": job})

    async def addresses(self, request: Request) -> Response:
        """``{numbers}`` → ``{addresses: {number: address}}``."""
        numbers = list_field(await body_of(request), "numbers")
        if not all(type(number) is int for number in numbers):
            raise ContractError("numbers must be whole numbers")
        return JSONResponse({"addresses": await run_in_threadpool(self._uploads.addresses, *_named(request), numbers)})

    async def complete(self, request: Request) -> Response:
        """→ ``{job}``."""
        return JSONResponse({"job": await run_in_threadpool(self._uploads.complete, *_named(request))})

    def abort(self, request: Request) -> Response:
        """Forget it."""
        self._uploads.abort(*_named(request))
        return JSONResponse({})


def refused(_: Request, error: Exception) -> Response:
    """The answer to an UploadRefusedError."""
    if not isinstance(error, UploadRefusedError):
        raise error
    return JSONResponse({**error.values, "error": error.code}, status_code=error.status)


def not_understood(_: Request, __: Exception) -> Response:
    """The answer to a ContractError: what was asked has another shape."""
    return JSONResponse({"error": "not_understood"}, status_code=400)


async def body_of(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request, which anyone may have written. Raises ContractError."""
    body = b""
    try:
        async for block in request.stream():
            body += block
            if len(body) > MOST_BODY_BYTES:
                raise ContractError(f"the request is larger than {MOST_BODY_BYTES} bytes")
        return json_object(body.decode(), "the request")
    except (UnicodeDecodeError, ClientDisconnect) as error:
        raise ContractError("the request is not UTF-8, or was cut short") from error


def _named(request: Request) -> tuple[str, str]:
    return client_of(request.scope), request.path_params["token"]


def _said(begun: Begun) -> dict[str, object]:
    return {"token": begun.token, "bytes": begun.bytes, "part_bytes": begun.part_bytes}
