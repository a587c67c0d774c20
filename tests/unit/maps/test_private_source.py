"""Private repositories: a real git over HTTPS with basic authentication and over SSH with a key, and who gets to see the login."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import git
from monai_aws_pipeline.maps.git import (
    CredentialsMissingError,
    CredentialsRefusedError,
    HostUnknownError,
    Login,
    LoginUnusableError,
    parse_login,
)
from monai_aws_pipeline.maps.source import checkout, observe
from monai_aws_pipeline.remote import KeyPair
from tests.support.git_server import HttpsServer, https_server, ssh_server

TOKEN = "planted-token-0123456789"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository ``app.git``."""
    root = tmp_path_factory.mktemp("served")
    work = root / "work"
    work.mkdir()
    (work / "app.yaml").write_text("application: {}\n")
    variables = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        [*who, "commit", "-qm", "one"],
        ["clone", "-q", "--bare", ".", "../app.git"],
    ):
        subprocess.run(["git", "-C", str(work), *arguments], check=True, env=variables, capture_output=True)
    return root


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory):
    with https_server(root, "app.git", tmp_path_factory.mktemp("tls"), username="x-access-token", token=TOKEN) as server:
        yield server


@pytest.fixture
def trusted(served: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> HttpsServer:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(served.certificate))
    served.asked.clear()
    return served


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Everything that another user's ``ps`` could show of git: arguments and environment; temporary files go to a folder of the test."""
    noted: list[str] = []
    genuine = subprocess.run

    def watched(command: list[str], **options: object):
        noted.extend(command)
        noted.extend(f"{name}={value}" for name, value in dict(options.get("env") or {}).items())  # type: ignore[call-overload]
        return genuine(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(git.subprocess, "run", watched)
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(git, "_memory", lambda: place)
    return noted


def test_a_token_opens_a_private_repository_and_nobody_sees_it(trusted: HttpsServer, seen: list[str], root: Path, tmp_path: Path):
    login = parse_login(TOKEN)
    found = checkout(trusted.address, "main", ".", tmp_path / "out", login)
    assert found.commit == observe(trusted.address, "main", login)
    assert (found.path / "app.yaml").is_file()
    assert trusted.asked
    assert not [word for word in seen if TOKEN in word]
    assert "credential.helper=" in seen
    assert list((tmp_path / "memory").iterdir()) == []  # removed behind every command


def test_without_a_login_the_error_names_the_setting(trusted: HttpsServer):
    with pytest.raises(CredentialsMissingError, match="MONAI_AWS_APP_SOURCE_SECRET"):
        observe(trusted.address, "main")


def test_a_refused_token_has_an_error_of_its_own_that_does_not_repeat_it(trusted: HttpsServer):
    with pytest.raises(CredentialsRefusedError, match="expired") as error:
        observe(trusted.address, "main", Login(token="another-token-9876543210"))
    assert "another-token" not in str(error.value)


def test_another_host_gets_no_answer_although_the_server_redirects_to_it(trusted: HttpsServer):
    elsewhere = trusted.address.replace("/app.git", "/elsewhere/app.git")
    with pytest.raises(git.SourceError):
        observe(elsewhere, "main", parse_login(TOKEN))
    assert trusted.asked == []


needs_ssh = pytest.mark.skipif(not shutil.which("ssh"), reason="needs an ssh client")


@needs_ssh
def test_a_deploy_key_opens_a_private_repository(root: Path, seen: list[str], tmp_path: Path):
    pair = KeyPair.fresh()
    with ssh_server(root / "app.git", allowed=pair.public) as server:
        login = parse_login(json.dumps({"private_key": pair.private, "known_hosts": server.known_hosts}))
        assert (checkout(server.address, "main", ".", tmp_path / "out", login).path / "app.yaml").is_file()
    assert not [word for word in seen if pair.private.splitlines()[1] in word]
    assert list((tmp_path / "memory").iterdir()) == []


@needs_ssh
def test_a_refused_key_and_an_unknown_host_key_have_errors_of_their_own(root: Path):
    pair, other = KeyPair.fresh(), KeyPair.fresh()
    with ssh_server(root / "app.git", allowed=pair.public) as server:
        with pytest.raises(CredentialsRefusedError):
            observe(server.address, "main", Login(private_key=other.private, known_hosts=server.known_hosts))
        wrong = f"{server.known_hosts.split()[0]} {other.public}"
        with pytest.raises(HostUnknownError, match="known_hosts"):
            observe(server.address, "main", Login(private_key=pair.private, known_hosts=wrong))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f" {TOKEN}\n", Login(token=TOKEN)),
        (json.dumps({"token": TOKEN, "username": "deploy"}), Login(username="deploy", token=TOKEN)),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----",
            Login(private_key="-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"),
        ),
    ],
)
def test_a_secret_is_a_token_a_key_or_json(text: str, expected: Login):
    assert parse_login(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a":' * 100000,
        "{}",
        '{"token": 7}',
        f'{{"token": "{TOKEN}", "private_key": "x"}}',
        f"{TOKEN} and more",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
    ids=range(8),
)
def test_a_secret_that_holds_no_login_is_refused_without_repeating_it(text: str):
    with pytest.raises(LoginUnusableError) as error:
        parse_login(text)
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize(
    ("address", "login"),
    [
        ("ssh://git@example.org/app.git", Login(token=TOKEN)),
        ("git@example.org:app.git", Login(token=TOKEN)),
        ("https://example.org/app.git", Login(private_key="key")),
        ("file:///srv/app.git", Login(token=TOKEN)),
    ],
)
def test_a_login_that_does_not_fit_the_address_is_refused_before_git_runs(address: str, login: Login, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(git.subprocess, "run", lambda *_, **__: pytest.fail("git was run"))
    with pytest.raises(LoginUnusableError, match="MONAI_AWS_APP_SOURCE"):
        observe(address, "main", login)


def test_a_login_shows_nothing_of_itself():
    assert TOKEN not in repr(Login(token=TOKEN, private_key=TOKEN))
