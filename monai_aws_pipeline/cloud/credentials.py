"""Credentials that end in the middle of a run: read anew where the SDK's chain has newer ones, else a named error that says what to do.

A daemon runs longer than a session of SSO. Where the chain can renew (a role of the machine, SSO with a token in force) the SDK does so by
itself; where somebody has logged in again meanwhile, the files hold what the running process does not know yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import botocore.session
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, SSOError, TokenRetrievalError
from botocore.loaders import Loader

from monai_aws_pipeline.cloud.errors import SessionError, of_meaning
from monai_aws_pipeline.cloud.refusals import meaning_of

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

OVER: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_NO_LOGIN: Final = (SSOError, TokenRetrievalError, CredentialRetrievalError)


class _Descriptions(Loader):
    """What AWS says of its services, read once a process: a session reads megabytes of JSON anew, and each tick of a sensor has one."""

    @property
    def search_paths(self) -> list[str]:
        """A copy: each session of boto3 adds a folder, of resources that nobody here asks for."""
        return list(super().search_paths)


_DESCRIPTIONS: Final = _Descriptions()


class Renewable:
    """Credentials of the chain that can be read anew. Whatever the SDK asks of credentials it gets from those of now."""

    def __init__(self, load: Callable[[], Credentials | None], now: Credentials) -> None:
        self._load, self._now = load, now

    @property
    def now(self) -> Credentials:
        """Those of now, of whichever kind the chain gave them."""
        return self._now

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """What a call is signed with."""
        return self._now.get_frozen_credentials()

    def renew(self) -> bool:
        """Read the chain anew; whether it gave other credentials than before."""
        fresh = self._load()
        if fresh is None or fresh.get_frozen_credentials() == self._now.get_frozen_credentials():
            return False
        self._now = fresh
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


class Chain:
    """The SDK's own chain, as a session's provider of credentials."""

    def __init__(self) -> None:
        self.given: Renewable | None = None

    def load_credentials(self) -> Renewable | None:
        """What the chain gives now, or None."""
        found = _read()
        self.given = Renewable(_read, found) if found else None
        return self.given


def renewing_session() -> botocore.session.Session:
    """A session of the default chain whose calls go on with newer credentials, or end in SessionError, when those they had are over."""
    session, chain = botocore.session.Session(), Chain()
    session.register_component("credential_provider", chain)
    session.register_component("data_loader", _DESCRIPTIONS)

    def again(attempts: int, response: tuple[Any, dict[str, Any]] | None, **_: Any) -> float | None:
        is_over = response is not None and _code(response[1]) in OVER
        return 0.0 if is_over and attempts < 3 and chain.given is not None and chain.given.renew() else None

    for event, handler in (("needs-retry", again), ("after-call", _name_the_end), ("after-call-error", _name_the_missing_login)):
        session.register(event, cast("Any", handler))  # each is called with the arguments of its event by name
    return session


def _read() -> Credentials | None:
    return botocore.session.Session().get_credentials()


def _code(parsed: dict[str, Any]) -> str:
    return str(parsed.get("Error", {}).get("Code", ""))


def _name_the_end(parsed: dict[str, Any], **_: Any) -> None:
    code = _code(parsed)
    meaning = meaning_of(code) if code in OVER else None
    if meaning:
        raise of_meaning(meaning, code, "a call")


def _name_the_missing_login(exception: BaseException, **_: Any) -> None:
    if isinstance(exception, BotoCoreError) and isinstance(exception, _NO_LOGIN):
        raise SessionError(
            f"The SDK found no credentials in force ({type(exception).__name__}): the login is over.",
            "Log in again (aws sso login), then repeat it: what runs takes the new session by itself.",
        ) from exception
