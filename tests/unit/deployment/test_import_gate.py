"""Every image makes its application's imports before it is pushed: the probe is run for real, by a docker that isolates nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from dagster import Failure
from moto import mock_aws

from monai_aws_pipeline.deployment import import_gate
from monai_aws_pipeline.deployment.import_gate import Bench, asked_of, hold, hold_below, remedy_for
from monai_aws_pipeline.maps import app_code
from monai_aws_pipeline.maps.build_context import BuildContext, write_context
from monai_aws_pipeline.maps.source import Source
from monai_aws_pipeline.remote import RemoteCommandError
from monai_aws_pipeline.settings import load_settings

DIGEST = "sha256:" + "d" * 64
DOCKER = '''#!{python}
"""docker run: what follows the image, with the container's folders where they lie on this machine."""
import json, os, subprocess, sys
words = sys.argv[1:]
with open("{calls}", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words[0] == "image":
    print("PATH=/home/holoscan/.local/bin:/usr/bin")
if words[0] != "run":
    sys.exit(0)
places = {{"/opt/holoscan/app": "{application}"}}
for option, value in zip(words, words[1:]):
    if option == "--volume":
        outside, inside = value.split(":")[:2]
        places[inside] = outside
    if option == "--entrypoint":
        program = value
rest = words[words.index("--entrypoint") + 3:]
for inside, outside in places.items():
    rest = [word.replace(inside, outside) for word in rest]
program = "{python}" if program == "python3" else program
code = subprocess.run([program, *rest], env={{**os.environ, "PYTHONPATH": "{modules}"}}).returncode
sys.exit(code if code >= 0 else 128 - code)
'''


class Here:
    """In the place of a build machine: its commands are run on this one."""

    def __init__(self, programs: Path) -> None:
        self._environment = {"PATH": f"{programs}:/usr/bin:/bin"}
        self.ran: list[str] = []

    def run(self, command: str, on_line: Callable[[str], None], *, what: str, seconds: float) -> list[str]:
        self.ran.append(what)
        done = subprocess.run(["bash", "-c", command], env=self._environment, capture_output=True, text=True, check=False, timeout=seconds)
        lines = (done.stderr + done.stdout).splitlines()
        for line in lines:
            on_line(line)
        if done.returncode:
            raise RemoteCommandError(what, done.returncode, lines[-20:])
        return lines

    def send_folder(self, local: Path, remote: str, on_line: Callable[[str], None], *, what: str) -> int:
        subprocess.run(["cp", "-r", str(local), remote], check=True)
        return 0


class Place:
    """A machine, an application on it, and what was said and called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.modules = folder / "modules"
        self.said: list[str] = []
        self._number = 0
        (folder / "bin").mkdir()
        self.modules.mkdir()
        (folder / "bin" / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        self.remote = Here(folder / "bin")
        self._monkeypatch = monkeypatch

    def application(self, **files: str) -> BuildContext:
        self._number += 1
        app = self.folder / f"app{self._number}"
        app.mkdir()
        (app / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
        for name, text in files.items():
            (app / f"{name}.py").write_text(text)
        context = write_context(Source(app, "0" * 40, False, ""), self.folder / f"context{self._number}", base_image="b:1")
        docker = DOCKER.format(
            python=sys.executable, calls=self.folder / "calls", application=context.application, modules=self.modules
        )  # fmt: skip
        (self.folder / "bin" / "docker").write_text(docker)
        for program in (self.folder / "bin").iterdir():
            program.chmod(0o755)
        self._monkeypatch.setattr(import_gate, "FOLDER", str(self.folder / f"there{self._number}"))
        return context

    def build_host(self, **settings: str) -> Bench:
        return Bench(self.remote, load_settings(gpus="", **settings), self.said.append, self.folder / f"work{self._number}")  # type: ignore[arg-type]

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def refused(place: Place, **files: str) -> str:
    with pytest.raises(Failure) as caught:
        hold(place.build_host(), "map:1", place.application(**files))
    assert caught.value.allow_retries is False
    return str(caught.value.description)


def test_an_image_that_holds_everything_passes(place: Place):
    (place.modules / "tool.py").write_text("print('noise of its own')\nname = 1\n")
    context = place.application(__main__="import json\nfrom tool import name\nimport own\n", own="raise SystemExit('never run')\n")
    assert hold(place.build_host(), "map:1", context) == 2
    assert any("noise of its own" in line for line in place.said)


def test_it_is_run_as_isolated_as_a_study(place: Place):
    hold(place.build_host(map_memory_mib="777"), "map:1", place.application(__main__="import json\n"))
    run, removed = place.calls()
    words = " ".join(run)
    for option in (
        "--network none", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--tmpfs /tmp", "--user 1000:1000",
        "--memory 777m", "--pids-limit 512", "--pull never",
    ):  # fmt: skip
        assert option in words
    assert removed == ["rm", "--force", "monai-aws-imports"]


@pytest.mark.parametrize(
    ("code", "said", "remedy"),
    [
        ("import cv2\n", "cv2 (__main__.py:1): ModuleNotFoundError: No module named 'cv2'", "opencv-python-headless==VERSION"),
        ("\n\ndef f():\n    import cv2\n", "cv2 (__main__.py:4)", "opencv-python-headless"),
        ("from json import nothing_such\n", "json (__main__.py:1): ImportError: cannot import name 'nothing_such'", "Correct the name"),
        ("import links_gl\n", "libGL.so.1: cannot open shared object file", "system-packages: [libgl1]"),
        (
            "import needs_sklearn\n",
            "No module named 'sklearn'",
            "scikit-learn==VERSION into requirements.txt (which needs_sklearn imports)",
        ),
        ("import ends\n", "ends (__main__.py:1): SystemExit", "Correct the import"),
        ("import dies\n", "Python ended with a segmentation fault", "container of the image"),
    ],
)
def test_a_failure_names_module_place_last_line_and_remedy(place: Place, code: str, said: str, remedy: str):
    (place.modules / "links_gl.py").write_text(
        "raise ImportError('first\\nlibGL.so.1: cannot open shared object file: No such file or directory')"
    )
    (place.modules / "needs_sklearn.py").write_text("import sklearn\n")
    (place.modules / "ends.py").write_text("import sys\nsys.exit(3)\n")
    (place.modules / "dies.py").write_text("import os, sys\nsys.stdout.flush()\nos.kill(os.getpid(), 11)\n")
    text = refused(place, __main__=code)
    assert said in text
    assert remedy in text
    assert "the MAP was not pushed" in text


def test_everything_that_fails_is_said_at_once(place: Place):
    text = refused(place, __main__="import cv2\nimport json\nimport polars\n")
    assert ("cv2 (__main__.py:1)" in text, "polars (__main__.py:3)" in text, "json" in text) == (True, True, False)


def test_a_file_that_the_images_python_does_not_compile_is_a_failure(place: Place):
    context = place.application(__main__="import other\n", other="x = 1\n")
    (context.application / "other.py").write_text("def f(:\n")
    with pytest.raises(Failure, match=r"other\.py:1"):
        hold(place.build_host(), "map:1", context)


def test_what_the_code_does_without_is_told_and_tolerated(place: Place):
    context = place.application(__main__="try:\n    import cv2\nexcept ImportError:\n    pass\n", train="import never_there\n")
    assert hold(place.build_host(), "map:1", context) == 0
    assert sum("does without" in line for line in place.said) == 2


def test_packages_of_the_official_packager_lie_with_the_user(place: Place):
    hold(place.build_host(packager="monai-deploy"), "map:1", place.application(__main__="import json\n"))
    assert "PYTHONUSERBASE=/home/holoscan/.local" in " ".join(place.calls()[1])


def test_a_container_that_cannot_start_is_the_machines_failure(place: Place):
    context = place.application(__main__="import json\n")
    (place.folder / "bin" / "docker").write_text("#!/bin/sh\n[ $1 = run ] && exit 125 || exit 0\n")
    with pytest.raises(RemoteCommandError):
        hold(place.build_host(), "map:1", context)


# ---------------------------------------------------------------------------------------------------------- the dependency image


def pulls(place: Place, times: list[str]) -> Callable[[], str]:
    def pull() -> str:
        times.append("pulled")
        return "dependencies@sha256"

    return pull


def test_a_dependency_image_is_asked_once_for_each_import_and_never_pulled_for_a_change_that_imports_nothing_new(place: Place):
    pulled: list[str] = []
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="studies")

        def ask(**files: str) -> str:
            context = place.application(**files)
            return hold_below(place.build_host(bucket="studies"), s3, DIGEST, pulls(place, pulled), context)

        assert ask(__main__="import json\nfrom os import path\nimport own\n", own="x = 1\n") == "passed (2)"
        assert ask(__main__="import json\nimport own\n# changed\n", own="x = 2\n") == "passed before (1)"
        assert pulled == ["pulled"]
        assert ask(__main__="import json\nimport csv\nimport own\n", own="") == "passed (2)"
        assert ask(__main__="import csv\nfrom os import path\nimport own\n", own="") == "passed before (3)"
        assert ask(__main__="import csv\nimport hides\n", hides="") == "passed (1)", "a new name of its own may hide a module"
        assert pulled == ["pulled"] * 3
        with pytest.raises(Failure, match="cv2"):
            ask(__main__="import csv\nimport cv2\nimport hides\n", hides="")
        with pytest.raises(Failure, match="cv2"):
            ask(__main__="import csv\nimport cv2\nimport hides\n", hides="")
        s3.put_object(Bucket="studies", Key=import_gate._key(DIGEST), Body=b"damaged")
        assert ask(__main__="import csv\nimport hides\n", hides="") == "passed (1)"


def test_without_a_bucket_the_image_is_asked_each_time(place: Place):
    pulled: list[str] = []
    for _ in range(2):
        hold_below(place.build_host(), None, DIGEST, pulls(place, pulled), place.application(__main__="import json\n"))  # type: ignore[arg-type]
    assert pulled == ["pulled"] * 2


def test_the_application_is_sent_along_where_the_image_has_not_got_it(place: Place):
    context = place.application(__main__="import own\nimport json\n", own="def f(:\n")
    with pytest.raises(Failure, match=r"own\.py:1"):
        hold_below(place.build_host(), None, DIGEST, lambda: "dependencies", context)  # type: ignore[arg-type]
    assert "/var/holoscan/input/app" in place.calls()[0]


def test_the_applications_own_files_hide_modules_as_they_will_in_a_study(place: Place):
    text = refused(place, __main__="import wave\nimport sunau_like\n", chunk="raise RuntimeError('hidden')\n")
    assert "sunau_like" in text
    (place.modules / "uses_queue.py").write_text("import queue\n")
    assert "hidden" in refused(place, __main__="import uses_queue\n", queue="raise RuntimeError('hidden')\n")


# ------------------------------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("module", "absent", "error", "words"),
    [
        ("holoscan", "", "libcudart.so.13: cannot open shared object file", "cuda-toolkit[cudart]==13.0.3"),
        ("x", "", "libunheard.so.2: cannot open shared object file", "holds libunheard.so.2"),
        ("x", "", "OSError: [Errno 30] Read-only file system: '/opt/x'", "HOME or TMPDIR"),
        ("skimage", "", "cannot import name 'y' from 'skimage'", "scikit-image"),
    ],
)
def test_the_remedy_fits_what_was_said(module: str, absent: str, error: str, words: str):
    assert words in remedy_for(module, absent, error)


def test_imports_are_asked_once_and_the_standard_library_with_them(tmp_path: Path):
    (tmp_path / "__main__.py").write_text("import json\nimport json\nfrom a.b import c, d\nfrom .x import y\nimport own\n")
    (tmp_path / "own.py").write_text("import json\n")
    asked = asked_of(app_code.read(tmp_path))
    assert [(each.module, each.names, each.line) for each in asked] == [("json", (), 1), ("a.b", ("c", "d"), 3)]
