"""What holds for every request whatever its route: security headers, the host's name, same origin for what changes something, a rate.

Here belong the checks alone, as middleware; who asks is found in ``identity``. Sources: Fetch Metadata (W3C), OWASP's page on CSRF.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_aws_pipeline.portal.responses import refusal

REQUEST_HEADER: Final = "x-monai-aws"
"""Of every request of ours that changes something: no page of another origin can send it unasked."""
HEALTH: Final = "/health"
_FOR_ANYONE: Final = (HEALTH, "/static/style.css")
DEFAULT_HEADERS: Final = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
"""What an answer may say otherwise for itself, as the viewers' pages do of their content security policy."""
_CSP: Final = "Content-Security-Policy"
BURST: Final = 240
PER_SECOND: Final = 20.0
_CLIENTS: Final = 4096
_READING: Final = ("GET", "HEAD", "OPTIONS")


def is_for_anyone(path: str) -> bool:
    """Whether a path is given to whoever asks: the health, and the style that the pages of refusals are shown in."""
    return path in _FOR_ANYONE


def security_headers(sent_to: str) -> dict[str, str]:
    """Of every answer. ``sent_to``: the origin of S3, which parts of an upload go to."""
    return {
        "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; worker-src 'self'; "
        f"connect-src 'self'{f' {sent_to}' if sent_to else ''}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


class Secured:
    """Sets the security headers on every answer, refusals too."""

    def __init__(self, app: ASGIApp, sent_to: str) -> None:
        self._app, self._headers = app, security_headers(sent_to)
        self._defaults = {**DEFAULT_HEADERS, _CSP: self._headers.pop(_CSP)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, with the headers on what is answered."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                for name, value in self._defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_secured)


class KnownHost:
    """Refuses the names of others that lead here (DNS rebinding). A load balancer asks for the health by the machine's address."""

    def __init__(self, app: ASGIApp, names: Sequence[str], address: str) -> None:
        self._app, self._names, self._address = app, frozenset(names), address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or refuse."""
        if scope["type"] != "http" or is_for_anyone(scope["path"]) or _name_of(Headers(scope=scope).get("host", "")) in self._names:
            await self._app(scope, receive, send)
        else:
            await refusal(Request(scope), 421, "other_name", address=self._address)(scope, receive, send)


def _name_of(host: str) -> str:
    """A Host header without its port; an address of IPv6 keeps its brackets."""
    return re.sub(r":[0-9]*$", "", host).lower()


class SameOrigin:
    """What changes something comes from a page of ours: by the browser's own word, and by a header that others cannot send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or refuse."""
        if scope["type"] == "http" and scope["method"] not in _READING and not _is_ours(Headers(scope=scope)):
            await refusal(Request(scope), 403, "other_origin")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_ours(headers: Headers) -> bool:
    origin = headers.get("origin")
    same_host = origin is None or urlsplit(origin).netloc == headers.get("host", "")
    return REQUEST_HEADER in headers and headers.get("sec-fetch-site", "same-origin") == "same-origin" and same_host


class Rate:
    """A bucket of tokens for each client: so many requests at once, and so many a second."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, client: str) -> bool:
        """Whether a request of this client may go on."""
        now = self._clock()
        left, at = self._left.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) * self._per_second)
        self._left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return left >= 1


class Limited:
    """Lets each client ask so often: whoever is named by the identity, or an address where nobody is."""

    def __init__(self, app: ASGIApp, rate: Rate, paths: Sequence[str] = ("/api/", "/recent")) -> None:
        self._app, self._rate, self._paths = app, rate, tuple(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or refuse."""
        limited = scope["type"] == "http" and scope["path"].startswith(self._paths)
        if limited and not self._rate.takes(client_of(scope)):
            await refusal(Request(scope), 429, "too_often", {"Retry-After": "5"})(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def client_of(scope: Scope) -> str:
    """Who asks: the identity that was verified, or the address."""
    named = scope.get("state", {}).get("identity")
    return str(named or (scope.get("client") or ("",))[0])
