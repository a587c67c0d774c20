"""This application's own MONAI Deploy operators: thin shells around segmentation.py, surface.py, mesh.py and geometry.py.

An operator receives, calls one function and emits. Anything worth a test lives in the functions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from geometry import affine_lps, from_ras, to_ras, voxel_millilitres
from mesh import write_stl
from monai.deploy.core import Fragment, Image, Operator, OperatorSpec
from segmentation import brain_mask, load_model
from surface import closed_surface


class NoSuitableSeriesError(ValueError):
    """The study holds no series that the selection rules accept."""


class RequiredSeriesOperator(Operator):
    """Passes the selected series on, and fails where there is none.

    Without it a rule that matches nothing ends as a successful run without output.

    Named input and output: study_selected_series_list.
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("study_selected_series_list")
        spec.output("study_selected_series_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Raise NoSuitableSeriesError unless a study has a selected series."""
        selected = [study for study in op_input.receive("study_selected_series_list") or [] if study.selected_series]
        if not selected:
            raise NoSuitableSeriesError("no original MR series in the study; this application reads T1-weighted MR of the head")
        op_output.emit(selected, "study_selected_series_list")


class BrainExtractionOperator(Operator):
    """Runs the model on a volume.

    Named inputs: image (Image, [slice, row, column]), study_selected_series_list.
    Named output: mask (Image of uint8 on the same grid; metadata ``affine_lps``).
    """

    def __init__(self, fragment: Fragment, *args: Any, model_folder: Path, **kwargs: Any) -> None:
        self._model_folder = model_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("image")
        spec.input("study_selected_series_list")
        spec.output("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Segment the first selected series of the first study."""
        image = op_input.receive("image")
        series = op_input.receive("study_selected_series_list")[0].selected_series[0].series
        affine = affine_lps([instance.get_native_sop_instance() for instance in series.get_sop_instances()])
        started = time.monotonic()
        model, device = load_model(self._model_folder)
        mask = from_ras(brain_mask(model, device, to_ras(image.asnumpy(), affine)), affine)
        millilitres = float(mask.sum()) * voxel_millilitres(affine)
        print(f"brain {millilitres:.0f} ml on {device.type} in {time.monotonic() - started:.1f} s", flush=True)
        op_output.emit(Image(np.ascontiguousarray(mask, dtype=np.uint8), {"affine_lps": affine}), "mask")


class SurfaceWriterOperator(Operator):
    """Writes the surface of a mask as STL in LPS millimetres.

    Named input: mask (Image of uint8 with metadata ``affine_lps``). No output port.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_file: Path, **kwargs: Any) -> None:
        self._output_file = output_file
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Write the file."""
        mask = op_input.receive("mask")
        vertices, faces = closed_surface(mask.asnumpy(), mask.metadata()["affine_lps"])
        write_stl(self._output_file, vertices, faces)
