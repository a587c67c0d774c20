"""Applications in the shapes that public MAP applications are documented in, written by hand: what they read, import and ask for.

Nothing of them is copied; each is as short as its shape allows. ``SHAPES`` maps a name to the files of its folder.
"""

from __future__ import annotations

from pathlib import Path

_MAIN = "import logging\n\nfrom app import App\n\nif __name__ == '__main__':\n    logging.info('begin')\n    App().run()\n"
_YAML = """\
application:
  title: {title}
  version: {version}
  {inputs}
  output-formats: ["file"]

resources:
  cpu: 1
  gpu: 1
  memory: 1Gi
  gpu-memory: 6Gi
"""


def app_yaml(title: str, version: str = "1.0.0", inputs: str = 'input-formats: ["file"]') -> str:
    """An app.yaml as the SDK's examples have it."""
    return _YAML.format(title=title, version=version, inputs=inputs)


_RULES = '''
RULES = """
{"selections": [{"name": "CT Series", "conditions": {"Modality": "(?i)CT", "ImageType": ["PRIMARY", "ORIGINAL"]}}]}
"""
'''

_SPLEEN = (
    """
from pathlib import Path

from pydicom.sr.codedict import codes

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.core.domain import Image
from monai.deploy.core.io_type import IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import BundleConfigNames, IOMapping, MonaiBundleInferenceOperator
from monai.deploy.operators.stl_conversion_operator import STLConversionOperator


class App(Application):
    def compose(self):
        context: AppContext = Application.init_app_context(self.argv)
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=Path(context.input_path), name="loader")
        selector = DICOMSeriesSelectorOperator(self, rules=RULES, name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        bundle = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            bundle_path=Path(context.model_path),
            name="bundle",
        )
        described = [SegmentDescription("Spleen", codes.SCT.Organ, codes.SCT.Spleen, "net", "1")]
        writer = DICOMSegmentationWriterOperator(self, segment_descriptions=described, output_folder=Path(context.output_path))
        mesh = STLConversionOperator(self, output_file=Path(context.output_path) / "spleen.stl")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, bundle, {("image", "image")})
        self.add_flow(bundle, writer, {("pred", "seg_image")})
        self.add_flow(bundle, mesh, {("pred", "image")})
"""
    + _RULES
)

_LUNG_OPERATOR = """
import logging

from numpy import uint8

from monai.data import DataLoader, Dataset
from monai.deploy.core import Application, ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.operators.monai_seg_inference_operator import InfererType, InMemImageReader, MonaiSegInferenceOperator
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged


class LungSegOperator(Operator):
    def __init__(self, fragment: Fragment, *args, app_context, **kwargs):
        self.app_context = app_context
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec):
        spec.input("image")
        spec.output("seg_image").condition(ConditionType.NONE)

    def compute(self, op_input, op_output, context):
        image = op_input.receive("image")
        infer = MonaiSegInferenceOperator(self.fragment, roi_size=(96, 96, 96), pre_transforms=Compose([]), post_transforms=Compose([]))
        op_output.emit(infer.compute_impl(image, context), "seg_image")
"""

_LUNG_APP = (
    """
from lung_seg_operator import LungSegOperator
from monai.deploy.core import Application
from monai.deploy.operators import DICOMDataLoaderOperator, DICOMSeriesSelectorOperator, DICOMSeriesToVolumeOperator


class App(Application):
    def compose(self):
        context = Application.init_app_context(self.argv)
        loader = DICOMDataLoaderOperator(self, input_folder=context.input_path)
        selector = DICOMSeriesSelectorOperator(self, rules=RULES, all_matched=True)
        volume = DICOMSeriesToVolumeOperator(self)
        lung = LungSegOperator(self, app_context=context, model_path=context.model_path)
        self.add_flow(loader, selector)
        self.add_flow(selector, volume)
        self.add_flow(volume, lung)
"""
    + _RULES
)

_MEDNIST = """
from pathlib import Path

import torch
from PIL import Image as PILImage

from monai.deploy.core import AppContext, Application, ConditionType, Fragment, Image, Operator, OperatorSpec
from monai.deploy.operators.dicom_text_sr_writer_operator import DICOMTextSRWriterOperator, EquipmentInfo, ModelInfo
from monai.transforms import Activations, Compose, EnsureType


class LoadPILOperator(Operator):
    def __init__(self, fragment: Fragment, *args, input_folder: Path, **kwargs):
        self.input_folder = input_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec):
        spec.output("image")

    def compute(self, op_input, op_output, context):
        first = next(self.input_folder.glob("*.*"))
        op_output.emit(Image(PILImage.open(first).convert("L")), "image")


class App(Application):
    def compose(self):
        context: AppContext = Application.init_app_context(self.argv)
        load = LoadPILOperator(self, input_folder=Path(context.input_path))
        net = torch.jit.load(next(Path(context.model_path).rglob("*.pt")))
        text = DICOMTextSRWriterOperator(self, copy_tags=False, output_folder=Path(context.output_path))
        self.add_flow(load, text)
"""

_TRITON = """
import os

import numpy as np
import pydicom
import tritonclient.grpc as triton


class App:
    def run(self):
        client = triton.InferenceServerClient(url=os.environ.get("TRITON_URL", "localhost:8001"))
        for name in os.listdir(os.environ["HOLOSCAN_INPUT_PATH"]):
            pixels = pydicom.dcmread(os.path.join(os.environ["HOLOSCAN_INPUT_PATH"], name)).pixel_array
            client.infer("spleen_ct", inputs=[triton.InferInput("image", list(pixels.shape), "FP32")])
"""

_OLD = """
import monai.deploy.core as md
from monai.deploy.core import Application, DataPath, ExecutionContext, Image, InputContext, IOType, Operator, OutputContext
from skimage import filters, io


@md.input("image", DataPath, IOType.DISK)
@md.output("image", Image, IOType.IN_MEMORY)
@md.env(pip_packages=["scikit-image >= 0.17.2"])
class SobelOperator(Operator):
    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext):
        data = io.imread(op_input.get().path)
        op_output.set(Image(filters.sobel(data)))


@md.resource(cpu=1)
class App(Application):
    def compose(self):
        self.add_operator(SobelOperator())


if __name__ == "__main__":
    App(do_run=True)
"""

_TOTAL = """
import os
from pathlib import Path

import nibabel
import SimpleITK
from totalsegmentator.python_api import totalsegmentator


class App:
    def run(self):
        given, written = Path(os.environ["HOLOSCAN_INPUT_PATH"]), Path(os.environ["HOLOSCAN_OUTPUT_PATH"])
        os.environ["TOTALSEG_WEIGHTS_PATH"] = os.environ["HOLOSCAN_MODEL_PATH"]
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(given)))
        SimpleITK.WriteImage(reader.Execute(), "/tmp/ct.nii.gz")
        nibabel.save(totalsegmentator(nibabel.load("/tmp/ct.nii.gz"), None), written / "segments.nii.gz")
"""

_BREAST = """
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import models, transforms

from monai.deploy.core import AppContext, Application, ConditionType, Fragment, Operator, OperatorSpec


class DensityOperator(Operator):
    def setup(self, spec: OperatorSpec):
        spec.output("result")

    def compute(self, op_input, op_output, context):
        for path in Path(self.folder).glob("*.png"):
            op_output.emit(np.asarray(Image.open(path)), "result")


class App(Application):
    def compose(self):
        context: AppContext = Application.init_app_context(self.argv)
        self.net = torch.load(Path(context.model_path) / "density.pt")
        self.add_operator(DensityOperator(self))
"""

_OPENCV = """
import os
from pathlib import Path

import cv2
import pydicom


class App:
    def run(self):
        for path in Path(os.environ["HOLOSCAN_INPUT_PATH"]).iterdir():
            image = pydicom.dcmread(path).pixel_array
            cv2.imwrite(str(Path(os.environ["HOLOSCAN_OUTPUT_PATH"]) / f"{path.stem}.png"), cv2.GaussianBlur(image, (5, 5), 0))
"""

_PLAIN = """
import os
from pathlib import Path

import pydicom


class App:
    def run(self):
        for path in Path(os.environ["HOLOSCAN_INPUT_PATH"]).iterdir():
            print(pydicom.dcmread(path).Modality)
"""

SHAPES: dict[str, dict[str, str]] = {
    "spleen": {
        "__main__.py": _MAIN,
        "app.py": _SPLEEN,
        "app.yaml": app_yaml("MONAI Deploy App Package - Spleen"),
        "requirements.txt": (
            "highdicom==0.28.2\nmonai==1.6.1\nnibabel==5.3.2\nnumpy==2.4.6\nnumpy-stl==3.2.0\npydicom==3.0.2\nscikit-image==0.26.0\n"
            "SimpleITK==2.5.2\ntorch==2.13.0\ntrimesh==4.8.0\n"
        ),
    },
    "lung": {
        "__main__.py": _MAIN,
        "app.py": _LUNG_APP,
        "lung_seg_operator.py": _LUNG_OPERATOR,
        "app.yaml": app_yaml("Lung"),
        "requirements.txt": "monai==1.6.1\nnumpy==2.4.6\npydicom==2.4.4\ntorch==2.13.0\n",
    },
    "mednist": {
        "__main__.py": _MAIN,
        "app.py": _MEDNIST,
        "app.yaml": app_yaml("MedNIST", inputs='input-formats: ["file: image/jpeg"]'),
        "requirements.txt": "monai==1.6.1\npillow==12.0.0\npydicom==3.0.2\ntorch==2.13.0\n",
    },
    "triton": {
        "__main__.py": _MAIN,
        "app.py": _TRITON,
        "app.yaml": app_yaml("Remote spleen"),
        "requirements.txt": "numpy==2.4.6\npydicom==3.0.2\ntritonclient[all]==2.60.0\n",
    },
    "old": {
        "__main__.py": _MAIN.replace("App().run()", "App(do_run=True)"),
        "app.py": _OLD,
        "app.yaml": app_yaml("Sobel"),
        "requirements.txt": "monai-deploy-app-sdk==0.5.1\nscikit-image==0.26.0\n",
    },
    "total": {
        "__main__.py": _MAIN,
        "app.py": _TOTAL,
        "app.yaml": app_yaml("TotalSegmentator"),
        "requirements.txt": "nibabel==5.3.2\nSimpleITK==2.5.2\nTotalSegmentator==2.11.0\n",
    },
    "breast": {
        "__main__.py": _MAIN,
        "app.py": _BREAST,
        "app.yaml": app_yaml("Breast density"),
        "requirements.txt": "monai==1.6.1\nnumpy==2.4.6\npillow==12.0.0\ntorch==2.13.0\ntorchvision==0.28.0\n",
    },
    "opencv": {
        "__main__.py": _MAIN,
        "app.py": _OPENCV,
        "app.yaml": app_yaml("Blur"),
        "requirements.txt": "pydicom==3.0.2\nnumpy==2.4.6\n",
    },
    "floating": {
        "__main__.py": _MAIN,
        "app.py": _PLAIN,
        "app.yaml": app_yaml("Plain", version="1.0", inputs='inputFormats: ["DICOM"]'),
        "requirements.txt": "pydicom==3.0.2\n",
    },
}


def write_shape(name: str, folder: Path) -> Path:
    """Write an application's folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in SHAPES[name].items():
        (folder / file).write_text(text)
    return folder
