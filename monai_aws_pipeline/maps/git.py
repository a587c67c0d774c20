"""git as a child process: what it may do, whom it is for a private repository, and what its words mean.

Here belong the environment git runs in, the login and the named errors; what is fetched and why is in ``source.py``. Addresses and refs are
handed over as arguments of their own behind ``--``; only the protocols https, ssh, git and file are allowed, and git never asks a question.

A login never stands in an argument, an address, an environment variable or a log: it lies in files that only this user can read, in memory
(a tmpfs) where the machine has that, for as long as one git command takes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.scratch import scratch

ALLOWED: Final = "file:https:ssh:git"
SETTING: Final = "MONAI_AWS_APP_SOURCE_SECRET"
_TIMEOUT_S: Final = 300
_REFUSED: Final = (
    "terminal prompts disabled",
    "authentication failed",
    "permission denied",
    "could not read username",
    "could not read password",
    "error: 403",
    "error: 401",
)
_UNKNOWN_HOST: Final = ("host key verification failed", "no matching host key", "known_hosts")
_ABSENT: Final = ("not found", "does not appear to be a git repository", "no such file", "does not exist", "could not resolve host")
# git asks "Password for 'https://user@host': ". Only the host of the address gets an answer, wherever it may redirect to.
_ASKPASS: Final = """\
#!/bin/sh
here=$(dirname "$0")
host=$(cat "$here/host")
asked=${1#*\\'https://}
[ "$asked" != "$1" ] || exit 1
asked=${asked%%\\'*}
asked=${asked%%/*}
[ "${asked##*@}" = "$host" ] || exit 1
case "$1" in Username*) cat "$here/username";; *) cat "$here/token";; esac
"""


class SourceError(NamedError):
    """The application's source cannot be used. The message says why; ``remedy`` where to correct it."""

    remedy = "Correct MONAI_AWS_APP_SOURCE, MONAI_AWS_APP_REF or MONAI_AWS_APP_DIR"

    def __str__(self) -> str:
        return f"{self.cause}. {self.remedy}"


class SourceMissingError(SourceError):
    """There is no folder or repository at the given place."""

    remedy = "Correct MONAI_AWS_APP_SOURCE; if the repository is private, set MONAI_AWS_APP_SOURCE_SECRET"


class RefMissingError(SourceError):
    """The repository has no such ref."""

    remedy = "Set MONAI_AWS_APP_REF to a branch, a tag or a full commit of the repository"


class NoApplicationError(SourceError):
    """The folder holds no ``app.yaml``."""

    remedy = "Set MONAI_AWS_APP_DIR to the folder that holds app.yaml"


class CredentialsMissingError(SourceError):
    """The repository is private and git has no credentials for it."""

    remedy = "Set MONAI_AWS_APP_SOURCE_SECRET; docs/building.md, 'A private repository', shows how"


class CredentialsRefusedError(SourceError):
    """The repository does not accept the login it was given."""

    remedy = "Store a token or key that may read the repository in the secret of MONAI_AWS_APP_SOURCE_SECRET"


class LoginUnusableError(SourceError):
    """The secret holds no login, or one that does not fit the address."""

    remedy = "Correct the secret, or MONAI_AWS_APP_SOURCE_SECRET; docs/building.md, 'A private repository', shows how"


class HostUnknownError(SourceError):
    """The SSH server's host key is not known."""

    remedy = "Ask the server's administrator for its host key, and pin that"


class SourceRefusedError(SourceError):
    """The address, ref or content is of a kind that is not allowed."""


class GitError(SourceError):
    """git failed for another reason; its own words are in the message."""

    remedy = "Read git's words, and check the network and MONAI_AWS_APP_SOURCE"


@dataclass(frozen=True)
class Login:
    """Who git is for one repository: a token for ``https:``, or a deploy key (OpenSSH's private form) for ``ssh:``.

    ``known_hosts``: host keys that an ``ssh:`` server must have, as lines of OpenSSH's file of that name; empty: those this user knows.
    """

    username: str = "x-access-token"
    token: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    known_hosts: str = ""


def parse_login(text: str) -> Login:
    """The login that a secret holds: a token alone, a private key alone, or JSON with ``token`` and ``username``, or ``private_key`` and
    ``known_hosts``. Raises LoginUnusableError, which repeats nothing of it.
    """
    stripped = text.strip()
    values: dict[str, str] = {}
    if stripped.startswith("{"):
        try:
            found = json.loads(stripped)
            values = {name: value for name, value in found.items() if isinstance(value, str)}
        except (ValueError, RecursionError):
            raise LoginUnusableError(f"the secret of {SETTING} starts like JSON and is none; correct it") from None
    elif stripped.startswith("-----BEGIN"):
        values["private_key"] = stripped
    else:
        values["token"] = stripped
    token, key = values.get("token", "").strip(), values.get("private_key", "").strip()
    username = values.get("username", "") or Login.username
    if bool(token) == bool(key):
        raise LoginUnusableError(
            f"the secret of {SETTING} must hold a token or a private key: as its whole text, or in JSON under 'token' or 'private_key'"
        )
    if any(not letter.isprintable() or letter == " " for letter in token + username):
        raise LoginUnusableError(f"the token or username in the secret of {SETTING} holds a space or line break; store it again without")
    if key and not re.fullmatch(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s.*-----END [A-Z ]*PRIVATE KEY-----", key, re.DOTALL):
        raise LoginUnusableError(f"the private key in the secret of {SETTING} is incomplete; store the whole file, with its line breaks")
    return Login(username, token, key and f"{key}\n", values.get("known_hosts", ""))


def text(arguments: list[str], *, trusted: bool = False, address: str = "", login: Login | None = None) -> str:
    """What a git command prints. Raises the SourceError that fits when it fails."""
    done = run(arguments, trusted=trusted, address=address, login=login)
    if done.returncode:
        raise named(done.stderr, login)
    return done.stdout


def run(arguments: list[str], *, trusted: bool = False, address: str = "", login: Login | None = None) -> subprocess.CompletedProcess[str]:
    """Run a git command and return its end, whatever it is.

    Args:
        arguments: Behind ``git``.
        trusted: Read a repository that belongs to another user.
        address: The remote repository that ``login`` is for; nobody else gets it.
        login: None for what git finds itself: a credential helper, an SSH key of this user.
    """
    if not shutil.which("git"):
        raise GitError("git is not installed; install it, or point MONAI_AWS_APP_SOURCE at a folder")
    kept = ("GIT_SSH_COMMAND", "GIT_SSL_CAINFO")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in kept}
    # A repository's own configuration may name programs to run; those two are the ones our commands would start.
    options = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", *(["-c", "safe.directory=*"] if trusted else [])]
    with _proof(login, address) as (variables, more):
        environment = {
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
            **inherited,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_ALLOW_PROTOCOL": ALLOWED,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "LC_ALL": "C",
            **variables,
        }
        try:
            return subprocess.run(
                ["git", *options, *more, *arguments], check=False, capture_output=True, text=True, errors="surrogateescape",
                env=environment, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git did not answer within {_TIMEOUT_S} s; check the network and MONAI_AWS_APP_SOURCE") from error


@contextmanager
def _proof(login: Login | None, address: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Variables and options with which git proves who it is; the files behind them are gone when the block ends."""
    if login is None:
        yield {}, []
        return
    scheme, found, _ = address.partition("://")
    over_ssh = scheme == "ssh" if found else True  # user@host:path
    if found and scheme not in ("https", "ssh"):
        raise LoginUnusableError(f"{SETTING} is set, but MONAI_AWS_APP_SOURCE is neither an https: nor an ssh: address; empty one of them")
    if over_ssh != bool(login.private_key):
        has, needs = ("a private key", "an ssh:") if login.private_key else ("a token", "an https:")
        raise LoginUnusableError(f"the secret of {SETTING} holds {has}, which needs {needs} address in MONAI_AWS_APP_SOURCE")
    with scratch("monai-aws-git", _memory()) as folder:
        if over_ssh:
            command = ["ssh", "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oIdentityAgent=none", f"-oIdentityFile={folder / 'key'}"]
            _write(folder / "key", login.private_key)
            if login.known_hosts:
                _write(folder / "known_hosts", login.known_hosts.strip() + "\n")
                command += ["-oStrictHostKeyChecking=yes", f"-oUserKnownHostsFile={folder / 'known_hosts'}", "-oGlobalKnownHostsFile=none"]
            yield {"GIT_SSH_COMMAND": shlex.join(command)}, []
            return
        for part, value in (("host", urlsplit(address).netloc.rpartition("@")[2]), ("username", login.username), ("token", login.token)):
            _write(folder / part, value + "\n")
        _write(folder / "askpass", _ASKPASS, mode=0o700)
        # No helper of the user's: it would be asked first, and would keep the token afterwards.
        yield {"GIT_ASKPASS": str(folder / "askpass")}, ["-c", "credential.helper="]


def _memory() -> Path | None:
    """A folder in memory that programs may be started from; None where this machine has none."""
    folder = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    try:
        return None if os.statvfs(folder).f_flag & os.ST_NOEXEC else folder
    except OSError:
        return None


def _write(path: Path, content: str, mode: int = 0o600) -> None:
    path.touch(mode, exist_ok=False)  # the mode first, the content then
    path.write_text(content, "utf-8")


def named(said: str, login: Login | None = None) -> SourceError:
    """The error that git's words mean."""
    if login and login.token:
        said = said.replace(login.token, "[redacted]")
    low = said.lower()
    last = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "nothing")
    if any(sign in low for sign in _UNKNOWN_HOST):
        return HostUnknownError(
            "the repository's SSH server has a host key that is not known here; add it to known_hosts, or put its line into the secret of "
            f"{SETTING} under 'known_hosts' (JSON, beside 'private_key')"
        )
    if any(sign in low for sign in _REFUSED):
        if login is None:
            return CredentialsMissingError(
                "the repository needs a login that git has not: put a read-only token or deploy key into Secrets Manager and name that "
                f"secret in {SETTING}, or configure a credential helper or an SSH key here. git said: {last}"
            )
        return CredentialsRefusedError(
            f"the repository does not accept the login in the secret of {SETTING}: it may have expired, or may not read this repository; "
            f"store a new one. git said: {last}"
        )
    if any(sign in low for sign in _ABSENT):
        return SourceMissingError(
            f"there is no git repository at MONAI_AWS_APP_SOURCE (a private one may look like that). git said: {last}"
        )
    if "not allowed" in low and "transport" in low:
        return SourceRefusedError("this protocol is not allowed; use https:, ssh:, git: or file:")
    return GitError("git failed: " + last)
