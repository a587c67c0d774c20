"""The states of a job as server-sent events. Source: HTML Standard, "Server-sent events".

A stream ends when the job has, or after some minutes: a browser then asks again by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from monai_aws_pipeline.contract import is_job
from monai_aws_pipeline.portal.live import UNKNOWN, Watcher

STREAM_SECONDS: Final = 600
"""A load balancer's own limit is longer."""
_LOOK_SECONDS: Final = 0.5
_ALIVE_SECONDS: Final = 15
"""A line without meaning, so that nothing between takes the stream for dead, and one who has left is noticed."""
MOST_STREAMS: Final = 200


class JobEvents:
    """The route below ``/api/jobs``."""

    def __init__(self, watcher: Watcher, seconds: float = STREAM_SECONDS) -> None:
        self._watcher, self._seconds, self._streams = watcher, seconds, 0

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/api/jobs/{job}/events", self.events, methods=["GET"])]

    async def events(self, request: Request) -> Response:
        """The states of one job, the present one first."""
        job = request.path_params["job"]
        if not is_job(job):
            return JSONResponse({"error": "not_there"}, status_code=404)
        if self._streams >= MOST_STREAMS:
            return JSONResponse({"error": "too_often"}, status_code=503, headers={"Retry-After": "10"})
        return StreamingResponse(self._told(job), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _told(self, job: str) -> AsyncIterator[bytes]:
        self._streams += 1
        followed = self._watcher.follow(job)
        said, silent = UNKNOWN, 0.0
        try:
            yield b"retry: 3000\n\n"
            for _ in range(int(self._seconds / _LOOK_SECONDS) if followed else 0):
                seen = self._watcher.seen(job)
                if seen not in (said, UNKNOWN):
                    said, silent = seen, 0.0
                    yield f"data: {json.dumps(asdict(seen))}\n\n".encode()
                if seen.over:
                    return
                if silent >= _ALIVE_SECONDS:
                    silent = 0.0
                    yield b": alive\n\n"
                await asyncio.sleep(_LOOK_SECONDS)
                silent += _LOOK_SECONDS
        finally:
            self._streams -= 1
            if followed:
                self._watcher.leave(job)
