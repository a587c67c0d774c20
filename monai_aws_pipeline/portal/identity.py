"""Who asks: what an Application Load Balancer says of a user it has let in, once its signature is verified.

Without a load balancer nobody is asked, and ``server`` listens on loopback only. A header that is missing, forged, over or another load
balancer's is refused. Source: Elastic Load Balancing, "Authenticate users using an Application Load Balancer".
"""

from __future__ import annotations

import hashlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.portal.responses import refusal
from monai_aws_pipeline.portal.safety import is_for_anyone
from monai_aws_pipeline.portal.texts import TEXTS

HEADER: Final = "x-amzn-oidc-data"
_KEY_NAME: Final = re.compile(r"[0-9a-f-]{36}")
_KEYS_KEPT: Final = 16
_FETCH_SECONDS: Final = 5
_RETRY_SECONDS: Final = 30.0
"""A key that was not there is not asked for again at once: anyone may name one."""


class UnknownUserError(NamedError):
    """A request comes from nobody that the load balancer has let in. ``key``: of the text that says why, never what is in its header."""

    def __init__(self, key: str) -> None:
        super().__init__(TEXTS[key][0])
        self.key = key


class SigningKeys:
    """The public keys of a region's load balancers, fetched by name from AWS and kept."""

    def __init__(self, address: str, fetch: Callable[[str], bytes] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._fetch, self._clock = address, fetch or _fetched, clock
        self._keys: dict[str, EllipticCurvePublicKey] = {}
        self._missing: dict[str, float] = {}

    def key(self, name: str) -> EllipticCurvePublicKey:
        """One of them. Raises UnknownUserError."""
        if not _KEY_NAME.fullmatch(name):
            raise UnknownUserError("user_key")
        if name not in self._keys:
            if self._clock() - self._missing.get(name, -_RETRY_SECONDS) < _RETRY_SECONDS:
                raise UnknownUserError("user_key")
            self._keep(name)
        return self._keys[name]

    def _keep(self, name: str) -> None:
        try:
            key = load_pem_public_key(self._fetch(f"{self._address}/{name}"))
        except (OSError, ValueError):
            key = None
        if not isinstance(key, EllipticCurvePublicKey):
            self._missing = {**({} if len(self._missing) >= _KEYS_KEPT else self._missing), name: self._clock()}
            raise UnknownUserError("user_key")
        if len(self._keys) >= _KEYS_KEPT:
            del self._keys[next(iter(self._keys))]
        self._keys[name] = key


class LoadBalancer:
    """Verifies what one load balancer says. ``arn``: whose signature counts."""

    def __init__(self, arn: str, keys: SigningKeys, clock: Callable[[], float] = time.time) -> None:
        self._arn, self._keys, self._clock = arn, keys, clock

    def user(self, header: str) -> str:
        """A pseudonym of the user whom the header names: for counting alone. Raises UnknownUserError."""
        if not header:
            raise UnknownUserError("user_unnamed")
        try:
            said = jwt.get_unverified_header(header)
            if said.get("alg") != "ES256" or said.get("signer") != self._arn:
                raise UnknownUserError("user_of_another")
            self._refuse_late(said)
            claims = jwt.decode(header, self._keys.key(str(said.get("kid", ""))), algorithms=["ES256"], options={"verify_aud": False})
        except jwt.PyJWTError as error:
            raise UnknownUserError("user_unsigned") from error
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise UnknownUserError("user_unsigned")
        return hashlib.sha256(subject.encode()).hexdigest()[:16]

    def _refuse_late(self, said: dict[str, Any]) -> None:
        """The load balancer writes when it ends into the token's own header."""
        ends = said.get("exp")
        if not isinstance(ends, int | float) or isinstance(ends, bool) or ends < self._clock():
            raise UnknownUserError("user_over")


class Known:
    """Lets through whom the load balancer has let in; anybody else gets a page that says so. Health and style anyone may ask for."""

    def __init__(self, app: ASGIApp, balancer: LoadBalancer) -> None:
        self._app, self._balancer = app, balancer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or refuse."""
        if scope["type"] == "http" and not is_for_anyone(scope["path"]):
            given = Headers(scope=scope).getlist(HEADER)
            try:
                user = await run_in_threadpool(self._balancer.user, given[0] if len(given) == 1 else "")
            except UnknownUserError as error:
                key = "unknown_user" if scope["path"].startswith("/api/") else error.key
                await refusal(Request(scope), 401, key)(scope, receive, send)
                return
            scope.setdefault("state", {})["identity"] = user
        await self._app(scope, receive, send)


def _fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_FETCH_SECONDS) as answer:  # noqa: S310  # AWS's host of keys, by a setting
            body: bytes = answer.read(4096)
            return body
    except urllib.error.URLError as error:
        raise OSError("no such key") from error
