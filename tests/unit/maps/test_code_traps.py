"""What the code does that the platform does not give: each trap planted, each harmless neighbour left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_aws_pipeline.maps import app_code, code_traps
from monai_aws_pipeline.maps.app_code import AppCode
from monai_aws_pipeline.maps.findings import Severity
from monai_aws_pipeline.maps.manifest import AppConfig, parse_app_config

CONFIG = "application: {{title: t, version: 1.0.0, input-formats: {formats}}}\nresources: {{cpu: 1}}\n"


def code(tmp_path: Path, text: str, **files: str) -> AppCode:
    (tmp_path / "__main__.py").write_text(text)
    for name, content in files.items():
        (tmp_path / name.replace("__", ".")).write_text(content)
    return app_code.read(tmp_path)


def config(section: str = "", formats: str = "[DICOM]") -> AppConfig:
    return parse_app_config(CONFIG.format(formats=formats) + section)


CORE = "import monai.deploy.core as md\nfrom monai.deploy.core import Operator\n"


@pytest.mark.parametrize(
    ("text", "sign", "line"),
    [
        (f"{CORE}@md.input('image', 1)\nclass A(Operator): pass", "@input", 3),
        (f"{CORE}@md.resource(cpu=1)\nclass A(Operator): pass", "@resource", 3),
        ("from monai.deploy.core import env\n@env(pip_packages=['x'])\nclass A: pass", "@env", 2),
        ("from monai.deploy.core import output, Operator\n", "'output'", 1),
        ("from monai.deploy.core.execution_context import ExecutionContext\n", "monai.deploy.core.execution_context", 1),
        (f"{CORE}class A(Operator):\n    def compute(self, i, o, context):\n        i.get().path\n", "i.get()", 5),
        (f"{CORE}class A(Operator):\n    def compute(self, i, o, context):\n        o.set(1)\n", "o.set()", 5),
        ("from monai.deploy.core import Application\nApplication(do_run=True)\n", "do_run=True", 2),
    ],
)
def test_each_sign_of_the_old_sdk_is_one_finding_with_its_line(tmp_path: Path, text: str, sign: str, line: int):
    (finding,) = code_traps.old_api(code(tmp_path, text))
    assert (finding.severity, finding.place, sign in finding.message) == (Severity.ERROR, f"__main__.py:{line}", True)


@pytest.mark.parametrize(
    "text",
    [
        "from monai.deploy.core import Application, AppContext, ConditionType, IOType, ExecutionContext, DataPath, Image, OperatorSpec",
        "from monai.deploy.core.domain import Image\nfrom monai.deploy.core.io_type import IOType",
        f"{CORE}class A(Operator):\n    def compute(self, i, o, context):\n        context.get()\n        i.receive('x')\n",
        "class Cache:\n    def compute(self, store, out):\n        store.get()\n        out.set(1)\n",
        "import click as md\n@md.output('x')\ndef f(): pass",
        "import threading\nthreading.Thread(do_run=True)",
    ],
)
def test_todays_sdk_and_other_libraries_are_not_taken_for_the_old_one(tmp_path: Path, text: str):
    assert code_traps.old_api(code(tmp_path, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "from PIL import Image\nImage.open('x')",
        "import PIL.Image\nPIL.Image.open('x')",
        "import cv2 as vision\nvision.imread('x')",
        "from skimage import io\nio.imread('x')",
        "from skimage.io import imread\nimread('x')",
        "import matplotlib.pyplot as plt\nplt.imread('x')",
    ],
)
def test_reading_images_where_nothing_reads_dicom_is_an_error(tmp_path: Path, text: str):
    (finding,) = code_traps.reads_images(code(tmp_path, text), config())
    assert (finding.severity, finding.place) == (Severity.ERROR, "__main__.py:2")
    assert "/var/holoscan/input" in finding.message
    (beside,) = code_traps.reads_images(code(tmp_path, f"{text}\nimport pydicom\npydicom.dcmread('y')"), config())
    assert beside.severity is Severity.WARNING


@pytest.mark.parametrize(
    "text", ["import nibabel\nnibabel.load('x')", "import nibabel as nib\nnib.load('x')", "import nrrd\nnrrd.read('x')"]
)
def test_reading_volumes_of_another_format_is_an_error_where_nothing_reads_dicom(tmp_path: Path, text: str):
    (finding,) = code_traps.reads_images(code(tmp_path, text), config())
    assert (finding.severity, finding.place) == (Severity.ERROR, "__main__.py:2")
    for reads in (
        "import pydicom\npydicom.dcmread('y')",
        "import SimpleITK\nSimpleITK.ReadImage('y')",
        "import subprocess\nsubprocess.run(['dcm2niix', 'y'])",
        "from pathlib import Path\nPath('y').rglob('*.dcm')",
    ):
        assert code_traps.reads_images(code(tmp_path, f"{text}\n{reads}"), config()) == []


@pytest.mark.parametrize("argument", ["'input'", "'--input', required=True", "'-i', '--input', required=True", "'images', nargs='+'"])
def test_an_argument_that_the_command_line_must_name_is_an_error(tmp_path: Path, argument: str):
    text = f"import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument({argument})\nchosen = parser.parse_args()"
    (finding,) = code_traps.needs_arguments(code(tmp_path, text))
    assert (finding.severity, finding.place, "HOLOSCAN_INPUT_PATH" in finding.remedy) == (Severity.ERROR, "__main__.py:3", True)
    for other in (
        text.replace("parse_args()", "parse_args(['x'])"),
        f"import monai.deploy.core\n{text}",
        f"{text}\nparser.add_subparsers()",
    ):
        assert code_traps.needs_arguments(code(tmp_path, other)) == []


@pytest.mark.parametrize("argument", ["'--input'", "'input', nargs='?'", "'files', nargs='*'", "'--input', required=not given", "*names"])
def test_an_argument_that_may_be_left_out_is_none(tmp_path: Path, argument: str):
    text = f"import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument({argument})\nchosen = parser.parse_args()"
    assert code_traps.needs_arguments(code(tmp_path, text)) == []


@pytest.mark.parametrize("formats", ['["file: image/png"]', "[PNG]", "[jpeg, DICOM]"])
def test_image_formats_that_app_yaml_asks_for_are_found(tmp_path: Path, formats: str):
    (finding,) = code_traps.reads_images(code(tmp_path, "import pydicom\npydicom.dcmread('x')"), config(formats=formats))
    assert (finding.severity, finding.file) == (Severity.WARNING, "app.yaml")


@pytest.mark.parametrize("text", ["from pathlib import Path\nPath('x').open()", "from PIL import Image\nImage.fromarray(1).save('x.png')"])
def test_opening_a_file_or_writing_an_image_is_none(tmp_path: Path, text: str):
    assert code_traps.reads_images(code(tmp_path, text), config(formats="[file]")) == []


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("import requests", "imports requests"),
        ("from urllib import request", "imports urllib"),
        ("from urllib.request import urlopen\nurlopen('x')", "imports urllib.request"),
        ("from huggingface_hub import hf_hub_download", "imports huggingface_hub"),
        ("from transformers import AutoModel\nAutoModel.from_pretrained('x')", "calls transformers.AutoModel.from_pretrained()"),
        ("import monai.bundle\nmonai.bundle.download('x')", "calls monai.bundle.download()"),
        ("import torch\ntorch.hub.load('x', 'y')", "calls torch.hub.load()"),
        ("import torchvision.models as m\nm.resnet18(pretrained=True)", "calls torchvision.models.resnet18()"),
        ("import tritonclient.http", "imports tritonclient.http"),
    ],
)
def test_what_needs_a_network_is_a_warning_where_there_is_none(tmp_path: Path, text: str, sign: str):
    read = code(tmp_path, text)
    (finding,) = code_traps.needs_network(read, "none")
    assert (finding.severity, sign in finding.message, "--network none" in finding.message) == (Severity.WARNING, True, True)
    assert code_traps.needs_network(read, "host") == []


@pytest.mark.parametrize(
    "text",
    [
        "from urllib.parse import urlsplit",
        "from transformers import AutoModel\nAutoModel.from_pretrained('x', local_files_only=True)",
        "try:\n    import requests\nexcept ImportError:\n    requests = None",
        "import torchvision.models as m\nm.resnet18()",
    ],
)
def test_what_needs_none_is_not_said_to(tmp_path: Path, text: str):
    assert code_traps.needs_network(code(tmp_path, text), "none") == []


SELECTOR = "from monai.deploy.operators import DICOMSeriesSelectorOperator as S, DICOMSeriesSelectorOperator\n"
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'


def test_all_series_asked_for_and_nothing_declared_is_a_warning(tmp_path: Path):
    read = code(tmp_path, f"{SELECTOR}DICOMSeriesSelectorOperator(None, rules='''{RULES}''', all_matched=True)")
    (finding,) = code_traps.series_choice(read, config())
    assert (finding.severity, finding.place, "series: largest" in finding.paste) == (Severity.WARNING, "__main__.py:2", True)
    for choice in ("largest", "all"):
        assert code_traps.series_choice(read, config(f"monai-aws: {{series: {choice}}}")) == []


@pytest.mark.parametrize(
    ("text", "files", "why"),
    [
        (f"{SELECTOR}rules = make()\nDICOMSeriesSelectorOperator(None, rules=rules)", {}, "put together by code"),
        (f"{SELECTOR}DICOMSeriesSelectorOperator(None, **options)", {}, "put together by code"),
        (f"{SELECTOR}DICOMSeriesSelectorOperator(None, name='x')", {}, "given no rules"),
        (f"{SELECTOR}DICOMSeriesSelectorOperator(None, rules='''{RULES}''')", {"more__json": RULES.replace("CT", "MR")}, "several sets"),
    ],
)
def test_rules_that_the_platform_cannot_read_are_a_warning(tmp_path: Path, text: str, files: dict[str, str], why: str):
    (finding,) = code_traps.series_choice(code(tmp_path, text, **files), config())
    assert (finding.severity, why in finding.message) == (Severity.WARNING, True)


def test_an_application_without_a_selector_needs_no_rules(tmp_path: Path):
    assert code_traps.series_choice(code(tmp_path, "import pydicom"), config()) == []


def test_volumes_of_the_sdk_are_told_with_what_they_read_wrongly(tmp_path: Path):
    read = code(tmp_path, "from monai.deploy.operators import DICOMSeriesToVolumeOperator\n")
    (finding,) = code_traps.volumes(read, config())
    assert (finding.severity, "monochrome1" in finding.message, "gantry-tilt" in finding.message) == (Severity.INFO, True, True)
    (fewer,) = code_traps.volumes(read, config("monai-aws: {handles: [monochrome1]}"))
    assert "monochrome1" not in fewer.message
    every = "[monochrome1, pixel-type, enhanced, gantry-tilt, float-pixels, color, non-square-pixels]"
    assert code_traps.volumes(read, config(f"monai-aws: {{handles: {every}}}")) == []


def test_what_no_package_decodes_is_told(tmp_path: Path):
    (finding,) = code_traps.decoders(["pydicom", "numpy"])
    assert (finding.severity, "JPEG Lossless" in finding.message) == (Severity.INFO, True)
    assert code_traps.decoders(["python-gdcm"]) == []
    assert "not known" in code_traps.decoders(None)[0].message
