"""What an application imports and nothing brings: found where pip's answer is known, tolerated where the code tolerates it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_aws_pipeline.maps import app_code, imports
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.imports import Installed, modules_in
from tests.unit.maps.wheels import make_wheel

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def written(tmp_path: Path, files: dict[str, str]) -> app_code.AppCode:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return app_code.read(tmp_path)


def found(tmp_path: Path, code: str, *packages: str, complete: bool = True, **more: str) -> list[Finding]:
    """Findings about an entry point and files beside it (``__`` in a name is a folder's end)."""
    files = {"__main__.py": code, **{f"{name.replace('__', '/')}.py": text for name, text in more.items()}}
    read = written(tmp_path, files)
    return imports.examine(read, Installed(frozenset(packages), complete=complete), packages, "3.12")


def only(tmp_path: Path, code: str, *packages: str, complete: bool = True, **more: str) -> Finding:
    findings = found(tmp_path, code, *packages, complete=complete, **more)
    assert len(findings) == 1, [str(each) for each in findings]
    return findings[0]


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("import cv2", "opencv-python-headless"),
        ("import sklearn.metrics", "scikit-learn"),
        ("from skimage import measure", "scikit-image"),
        ("from PIL import Image", "pillow"),
        ("import yaml", "pyyaml"),
        ("import stl", "numpy-stl"),
        ("from monai.transforms import Compose", "monai"),
        ("import monai.deploy.core", "monai-deploy-app-sdk"),
        ("def later():\n    import cv2", "opencv-python-headless"),
        ("import importlib\nimportlib.import_module('cv2')", "opencv-python-headless"),
    ],
)
def test_an_import_that_no_requirement_brings_is_an_error_with_the_package_to_write(tmp_path: Path, code: str, package: str):
    finding = only(tmp_path, code, "numpy")
    assert (finding.severity, finding.file, finding.paste) == (ERROR, "__main__.py", package)
    assert finding.line == len(code.splitlines())
    assert found(tmp_path, code, package) == []


@pytest.mark.parametrize("code", ["import pandas", "import torchvision.models", "from einops import rearrange"])
def test_a_package_of_the_same_name_is_known_to_bring_it(tmp_path: Path, code: str):
    name = code.split()[1].partition(".")[0]
    assert only(tmp_path, code, "numpy").severity is ERROR
    assert found(tmp_path, code, name) == []


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("cv2", "opencv-python"),
        ("magic", "python-magic"),
        ("google.protobuf.message", "protobuf"),
        ("holoscan", "holoscan-cu13"),
        ("attr", "attrs"),
    ],
)
def test_each_package_that_may_bring_it_is_enough(tmp_path: Path, module: str, package: str):
    assert found(tmp_path, f"import {module}", package) == []


def test_a_package_that_is_missing_is_one_finding_however_often_it_is_imported(tmp_path: Path):
    tried = "import json\ntry:\n    import torch.cuda\nexcept ImportError:\n    pass\n"
    code = f"{tried}import torch\nfrom torch.nn import Module\nimport odd.a\nimport odd.b\n"
    torch, odd = found(tmp_path, code, "numpy")
    assert (torch.severity, torch.paste, torch.line, "and 2 more of it" in torch.message) == (ERROR, "torch", 6, True)
    assert (odd.severity, odd.line, "and 1 more of it" in odd.message) == (ERROR, 8, True)


def test_what_is_not_known_for_sure_is_a_warning(tmp_path: Path):
    assert only(tmp_path, "import cv2", "numpy", complete=False).severity is WARNING


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    import cv2\nexcept ImportError:\n    cv2 = None",
        "try:\n    import cv2\nexcept (ValueError, ModuleNotFoundError):\n    pass",
        "try:\n    pass\nexcept ValueError:\n    import cv2",
        "from contextlib import suppress\nwith suppress(ImportError):\n    import cv2",
        "import sys\nif sys.platform == 'win32':\n    import cv2",
        "from monai.utils import optional_import\ncv2, _ = optional_import('cv2')",
    ],
)
def test_an_import_that_the_code_does_without_is_a_warning(tmp_path: Path, code: str):
    finding = only(tmp_path, code, "numpy", "monai")
    assert (finding.severity, "goes on without it" in finding.message) == (WARNING, True)


def test_a_try_that_catches_something_else_tolerates_nothing(tmp_path: Path):
    assert only(tmp_path, "try:\n    import cv2\nexcept ValueError:\n    pass", "numpy").severity is ERROR


def test_the_same_import_without_a_guard_elsewhere_counts(tmp_path: Path):
    code = "import other\ntry:\n    import cv2\nexcept ImportError:\n    pass"
    finding = only(tmp_path, code, "numpy", other="import cv2\n")
    assert (finding.severity, finding.place) == (ERROR, "other.py:1")


@pytest.mark.parametrize("guard", ["from typing import TYPE_CHECKING\nif TYPE_CHECKING:", "import typing as t\nif t.TYPE_CHECKING:"])
def test_what_is_for_type_checkers_alone_is_ignored(tmp_path: Path, guard: str):
    assert found(tmp_path, f"{guard}\n    import cv2\nelse:\n    cv2 = None") == []


def test_the_branch_beside_it_is_read(tmp_path: Path):
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import cv2"
    assert only(tmp_path, code).severity is ERROR
    assert only(tmp_path, "if __name__ == '__main__':\n    import cv2").severity is ERROR


def test_the_standard_library_and_the_applications_own_modules_are_known(tmp_path: Path):
    code = (
        "import os, tomllib\nfrom concurrent import futures\nfrom operators import a\nfrom package.inner import b\nimport package.inner\n"
    )
    more = {"operators": "a = 1", "package__inner": "b = 1\nfrom . import inner\nfrom ..package import inner as again\n"}
    findings = found(tmp_path, code, **more)
    assert [(each.place, "relative" in each.message) for each in findings] == [("package/inner.py:3", True)]


def test_a_misspelt_module_of_its_own_is_told_with_the_nearest_name(tmp_path: Path):
    finding = only(tmp_path, "from operater import Thing", operators="Thing = 1")
    assert (finding.severity, finding.remedy.startswith("Write operators")) == (ERROR, True)
    below = only(tmp_path, "from package.iner import b", package__inner="b = 1")
    assert (below.severity, below.remedy) == (ERROR, "Write package.inner")


def test_a_name_that_a_module_of_its_own_does_not_have_is_told(tmp_path: Path):
    code = "from app import Appp, run\nfrom package import inner, nothing\nfrom package.inner import b\n"
    written(tmp_path, {"package/__init__.py": "x = 1\n"})
    findings = found(tmp_path, code, app="class App: ...\nrun: int = 1\n", package__inner="from os import path as b\n")
    assert [(each.severity, each.place, each.message) for each in findings] == [
        (ERROR, "__main__.py:1", "the application's module app has no Appp"),
        (ERROR, "__main__.py:2", "the application's module package has no nothing"),
    ]


@pytest.mark.parametrize(
    "module",
    ["from pathlib import *", "def __getattr__(name):\n    return 1", "globals().update(x=1)", "class Other: ...\nApp = Other",
     "import os as App", "try:\n    from os import App\nexcept ImportError:\n    App = None",
     "match {}:\n    case {'a': _, **App}: ...", "def make():\n    global App\n    App = 1\nmake()", "(App := 1)"],
)  # fmt: skip
def test_a_name_that_may_be_there_is_not_said_to_be_missing(tmp_path: Path, module: str):
    assert found(tmp_path, "from app import App", app=module) == []


@pytest.mark.parametrize(
    ("name", "code", "severity", "place"),
    [
        ("operator", "from operator import SegmentationOperator", ERROR, "operator.py"),
        ("logging", "import app", ERROR, "logging.py"),
        ("types", "from types import Volume", ERROR, "__main__.py:1"),
        ("queue", "import queue", WARNING, "queue.py"),
        ("types", "from types import ModuleType", None, ""),
        ("test", "import test", None, ""),
        ("operators", "import operators", None, ""),
    ],
)
def test_a_file_that_is_named_as_a_module_of_pythons_own_is_told(
    tmp_path: Path, name: str, code: str, severity: Severity | None, place: str
):
    read = written(tmp_path, {"__main__.py": code, f"{name}.py": "SegmentationOperator = Volume = 1\n", "package/logging.py": ""})
    assert [(each.severity, each.place) for each in imports.hides_pythons_own(read)] == ([(severity, place)] if severity else [])


def test_a_package_within_a_package_that_is_nobodys_is_known_by_the_name_that_is_imported(tmp_path: Path):
    assert found(tmp_path, "from nvidia import nvimgcodec", "nvidia-nvimgcodec-cu13", "numpy") == []
    assert only(tmp_path, "from nvidia import nvimgcodec", "numpy").paste == "nvidia-nvimgcodec-cu13"
    assert found(tmp_path, "from google import protobuf", "protobuf") == []
    assert found(tmp_path, "import functorch", "torch") == []


def test_a_relative_name_that_is_imported_by_a_call_is_left_to_the_image(tmp_path: Path):
    assert found(tmp_path, "import importlib\nimportlib.import_module('.inner', 'package')", package__inner="") == []


def test_a_relative_import_in_a_file_that_is_in_no_package_is_an_error(tmp_path: Path):
    finding = only(tmp_path, "from .operators import Thing", operators="Thing = 1")
    assert (finding.severity, finding.place, "relative" in finding.message) == (ERROR, "__main__.py:1", True)


def test_a_file_that_the_entry_point_never_leads_to_decides_nothing(tmp_path: Path):
    finding = only(tmp_path, "import app", app="x = 1", train="import ignite\n")
    assert (finding.severity, finding.place) == (WARNING, "train.py:1")
    assert only(tmp_path, "import app", app="import train", train="import ignite\n").severity is ERROR


@pytest.mark.parametrize(
    "code",
    [
        "import runpy, pathlib\nrunpy.run_path(str(pathlib.Path(__file__).with_name('worker.py')))",
        "import subprocess, sys\nsubprocess.run([sys.executable, '/opt/holoscan/app/worker.py'])",
        "import runpy\nrunpy.run_module('worker')",
    ],
)
def test_a_file_that_the_entry_point_starts_by_its_name_counts(tmp_path: Path, code: str):
    finding = only(tmp_path, code, worker="import ignite\n")
    assert (finding.severity, finding.place) == (ERROR, "worker.py:1")


def test_an_import_of_an_unknown_name_may_be_brought_by_a_requirement_of_another_name(tmp_path: Path):
    finding = only(tmp_path, "import strange", "numpy", "their-odd-package")
    assert (finding.severity, "unless their-odd-package brings it" in finding.remedy) == (WARNING, True)
    assert only(tmp_path, "import strange", "numpy").severity is ERROR
    assert only(tmp_path, "import strange\nimport their_odd_package", "numpy", "their-odd-package").severity is ERROR


def test_gathered_wheels_say_themselves_what_they_bring(tmp_path: Path):
    wheels = [make_wheel(tmp_path, "their_odd_package", "1.0"), make_wheel(tmp_path, "strange", "1.0")]
    assert modules_in([*wheels, tmp_path / "none.whl"]) == {"their_odd_package", "strange"}
    code = written(tmp_path / "app", {"__main__.py": "import strange\nimport missing\n"})
    installed = Installed(frozenset({"their-odd-package"}), complete=True, modules=modules_in(wheels))
    (finding,) = imports.examine(code, installed, ["their-odd-package"], "3.12")
    assert "missing" in finding.message


def test_code_that_changes_the_path_of_modules_may_have_them_anywhere(tmp_path: Path):
    code = "import sys\nfrom pathlib import Path\nsys.path.append(str(Path(__file__).parent / 'lib'))\nimport deep\nimport deep.part\n"
    assert found(tmp_path, code, lib__deep____init__="", lib__deep__part="import cv2\n", complete=False)[0].place == "lib/deep/part.py:1"


@pytest.mark.parametrize(("module", "python", "there"), [("distutils", "3.11", True), ("distutils", "3.12", False), ("cgi", "3.13", False)])
def test_what_has_left_the_standard_library_depends_on_the_maps_python(tmp_path: Path, module: str, python: str, there: bool):
    code = written(tmp_path, {"__main__.py": f"import {module}\n"})
    findings = imports.examine(code, Installed(frozenset(), complete=True), [], python)
    assert [each.severity for each in findings] == ([] if there else [ERROR])


def test_operators_of_the_sdk_need_what_neither_an_import_nor_a_start_shows(tmp_path: Path):
    code = "from monai.deploy.operators import DICOMSegmentationWriterOperator, MonaiBundleInferenceOperator\n"
    sdk = ("monai-deploy-app-sdk", "pydicom")
    findings = found(tmp_path, code, *sdk)
    assert {each.paste for each in findings} == {"highdicom", "torch", "monai"}
    assert {(each.severity, each.place) for each in findings} == {(ERROR, "__main__.py:1")}
    assert found(tmp_path, code, *sdk, "highdicom", "torch", "monai") == []


def test_opencv_for_screens_needs_packages_of_the_system(tmp_path: Path):
    code = written(tmp_path, {"__main__.py": "import cv2\n"})
    for_screens = Installed(frozenset({"opencv-python"}), complete=True)
    (finding,) = imports.links_gl(code, for_screens, ())
    assert (finding.severity, "system-packages: [libgl1, libglib2.0-0]" in finding.paste) == (WARNING, True)
    assert imports.links_gl(code, for_screens, ("libgl1",)) == []
    assert imports.links_gl(code, Installed(frozenset({"opencv-python-headless"})), ()) == []


def test_a_hostile_file_is_read_within_bounds(tmp_path: Path):
    deep = "x = " + "-" * 60_000 + "1"
    code = written(tmp_path, {"__main__.py": deep, "b.py": "\0", "c.py": "import cv2 as \n", "d.py": "import " + "a." * 500 + "a\n"})
    assert {each.file for each in code.unreadable} >= {"b.py", "c.py"}
    assert imports.examine(code, Installed(frozenset()), [], "3.12")
