"""What the command line says when something is wrong: one text that can be read and acted upon, never a traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from monai_aws_pipeline.cli import LOCAL_EXTRA, cli
from monai_aws_pipeline.cloud.stack import PlainHttpError, Proposal
from monai_aws_pipeline.local_cloud.__main__ import main as local_cloud_main
from monai_aws_pipeline.settings import PROJECT_ROOT

# The web server of Dagster brings h11 in any case.
WITHOUT_THE_EXTRA = f"""
import sys
from pathlib import Path

class Without:
    '''A finder of modules where these packages are not installed.'''
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {sorted(LOCAL_EXTRA - {"h11"})!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
from monai_aws_pipeline import settings
settings.PROJECT_ROOT = Path.cwd()  # another clone: nobody's demo is touched
from monai_aws_pipeline.cli import main
main()
"""

TAKEN = "a port that is taken"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor"], "SettingsError: These settings are wrong:\n  MONAI_AWS_DEPLOYMENT"),
        (["upload", "nowhere.zip"], "UploadError: "),
        (["local", "up", "--port", TAKEN], "PackagesError: ministack, moto, hypercorn of the extra 'local'"),
        (["demo", "--rollback"], "is not installed, which the demo and the embedded AWS need."),
        (["ui"], "is not installed, which the demo and the embedded AWS need."),
    ],
)
def test_without_the_extra_a_named_error_is_one_text_and_an_exit_code(arguments: list[str], said: str, tmp_path: Path):
    (tmp_path / "examples").symlink_to(PROJECT_ROOT / "examples")
    wrong = {"MONAI_AWS_DEPLOYMENT": "Not Valid"} if arguments == ["doctor"] else {"MONAI_AWS_BUCKET": "studies"}
    with socket.socket() as taken:  # where nothing could be started, should it be tried
        taken.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                WITHOUT_THE_EXTRA,
                *(str(taken.getsockname()[1]) if each == TAKEN else each for each in arguments),
            ],
            env={"PYTHONPATH": str(PROJECT_ROOT), "PATH": "/usr/bin:/bin", "AWS_EC2_METADATA_DISABLED": "true", **wrong},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert "Traceback" not in done.stdout + done.stderr
    assert said in done.stdout
    assert done.returncode == 1


def test_the_embedded_aws_on_its_own_names_wrong_settings_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MONAI_AWS_REGION", "moon")
    assert local_cloud_main(["status"]) == 1
    assert "MONAI_AWS_REGION = 'moon'" in capsys.readouterr().err


def test_the_extra_is_known_by_what_it_installs():
    extra = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["local"]
    assert {Requirement(line).name for line in extra} == LOCAL_EXTRA


def test_the_demo_finds_its_example_in_the_clone_although_it_is_not_installed(tmp_path: Path):
    (tmp_path / "monai_aws_pipeline").symlink_to(PROJECT_ROOT / "monai_aws_pipeline")
    (tmp_path / "lambda_fn").symlink_to(PROJECT_ROOT / "lambda_fn")
    code = """
import sys
# Whatever the tests' own environment has installed: an editable installation is these finders and a placeholder in the path.
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in getattr(each, "__module__", "")]
sys.path[:] = [each for each in sys.path if "__editable__" not in each]
from importlib.util import find_spec
assert find_spec("examples") is None
from monai_aws_pipeline.cli import _find_the_example
_find_the_example()
from examples.brain_mri import fetch
print(fetch.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert Path(done.stdout.strip()) == PROJECT_ROOT / "examples" / "brain_mri" / "fetch.py", done.stderr


ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:monai-aws/dev/study-key-[red]-AbCdEf"


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The parameters of each stack that ``bootstrap`` would deploy, instead of deploying it."""
    asked: list[object] = []
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr("monai_aws_pipeline.operations.bootstrap.check_bucket", lambda *_, **__: None)
    monkeypatch.setattr("monai_aws_pipeline.cloud.stack.stack_parameters", lambda *_: {})
    proposal = Proposal("monai-aws-dev", "stack", "changes", creates=True, changes=())
    monkeypatch.setattr("monai_aws_pipeline.cloud.stack.propose", lambda *given: asked.append(given[3]) or proposal)
    monkeypatch.setattr("monai_aws_pipeline.cloud.stack.apply", lambda *_: {"StudyKeySecretArn": ARN})
    return asked


def test_an_arn_is_printed_as_it_is(deployed: list[object]):
    result = CliRunner().invoke(cli, ["bootstrap", "--bucket", "studies"])
    assert result.output == f"StudyKeySecretArn: {ARN}\n"


@pytest.mark.parametrize("options", [[], ["--require-tls"]])
def test_bootstrap_makes_no_bucket_that_only_answers_to_tls_where_there_is_none(
    options: list[str], deployed: list[object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(cli, ["bootstrap", "--bucket", "studies", *options])
    assert isinstance(result.exception, PlainHttpError)
    assert "http://127.0.0.1:1 speaks plain HTTP" in result.exception.cause
    assert "--allow-plain-http" in result.exception.remedy
    assert not deployed


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        ("http://127.0.0.1:1", ["--allow-plain-http"]),
        ("http://127.0.0.1:1", ["--existing-bucket"]),
        ("https://127.0.0.1:1", []),
        (None, []),
    ],
)
def test_bootstrap_asks_nothing_more_where_the_bucket_can_be_reached(
    endpoint: str | None, options: list[str], deployed: list[object], monkeypatch: pytest.MonkeyPatch
):
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    result = CliRunner().invoke(cli, ["bootstrap", "--bucket", "studies", *options])
    assert (result.exit_code, len(deployed)) == (0, 1), result.output
