"""This application's own MONAI Deploy operators: thin shells around the modules beside this one, which know nothing of the SDK.

An operator receives, calls one function and emits. Anything worth a test lives in the functions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from choice import SeriesChoiceError, largest
from errors import NoAnswerError, no_values_quoted
from frames import Stack, stack_of
from geometry import from_ras, to_ras, voxel_millilitres
from instances import read_folder, rule_header
from mesh import write_stl
from monai.deploy.core import Fragment, Image, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from numpy.typing import NDArray
from pixels import volume_of
from pydicom.dataset import Dataset
from seg import write_segmentation
from segmentation import brain_mask, load_model
from surface import closed_surface


class NoSuitableSeriesError(NoAnswerError):
    """The study holds no series that the selection rules accept."""


@dataclass(frozen=True, eq=False)
class Volume:
    """What the series reader emits: float32 [slice, row, column], and the planes that it was read from."""

    voxels: NDArray[np.float32]
    stack: Stack


class StudyLoaderOperator(DICOMDataLoaderOperator):
    """The SDK's loader, which keeps every image: the SDK's own leaves out what it takes for a duplicate, see instances.py.

    Named output: dicom_study_list, as the SDK's.
    """

    def _load_data(self, files: list[str]) -> list[DICOMStudy]:
        """Studies of the SDK's kind, with the series that hold images. Called by the SDK."""
        studies: dict[str, DICOMStudy] = {}
        with no_values_quoted("reading the files"):
            for found in read_folder(files):
                header = rule_header(found) if found.images else Dataset()
                if found.study_uid not in studies:
                    studies[found.study_uid] = DICOMStudy(found.study_uid)
                    self.populate_study_attributes(studies[found.study_uid], header)
                if found.images:
                    series = DICOMSeries(found.uid)
                    self.populate_series_attributes(series, header)
                    for image in found.images:
                        series.add_sop_instance(image)
                    studies[found.study_uid].add_series(series)
        return list(studies.values())


class LargestSeriesOperator(Operator):
    """Passes on the one series that is answered: the largest of those that the rules select.

    Without it a rule that matches nothing ends as a successful run without output, and of two series that fit as well, chance takes one.

    Named input: study_selected_series_list. Named output: images (list of pydicom datasets).
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("study_selected_series_list")
        spec.output("images")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Raise NoSuitableSeriesError where no series is selected, SeriesChoiceError where no single one is the largest."""
        selected = [study for study in op_input.receive("study_selected_series_list") or [] if study.selected_series]
        if not selected:
            raise NoSuitableSeriesError("no original MR series in the study; this application reads T1-weighted MR of the head")
        if len(selected) > 1:
            raise SeriesChoiceError(
                f"the folder holds {len(selected)} studies with an original MR series; this application answers one study"
            )
        found = [item.series.get_sop_instances() for item in selected[0].selected_series]
        series = [[instance.get_native_sop_instance() for instance in instances] for instances in found]
        with no_values_quoted("choosing a series"):
            images = largest(series)
        op_output.emit(images, "images")


class VolumeReaderOperator(Operator):
    """Reads the images of a series as one volume, in the place of the SDK's operator, see pixels.py.

    Named input: images. Named output: volume (Volume).
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("images")
        spec.output("volume")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Sort the planes, then read their pixels."""
        with no_values_quoted("reading the series"):
            stack = stack_of(op_input.receive("images"))
            volume = Volume(volume_of(stack.frames), stack)
        op_output.emit(volume, "volume")


class BrainExtractionOperator(Operator):
    """Runs the model on a volume.

    Named input: volume (Volume). Named output: mask (Image of uint8 on the same grid; metadata ``affine_lps``).
    """

    def __init__(self, fragment: Fragment, *args: Any, model_folder: Path, **kwargs: Any) -> None:
        self._model_folder = model_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("volume")
        spec.output("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Segment the volume."""
        volume = op_input.receive("volume")
        affine = volume.stack.affine
        started = time.monotonic()
        model, device = load_model(self._model_folder)
        mask = from_ras(brain_mask(model, device, to_ras(volume.voxels, affine)), affine)
        millilitres = float(mask.sum()) * voxel_millilitres(affine)
        print(f"brain {millilitres:.0f} ml on {device.type} in {time.monotonic() - started:.1f} s", flush=True)
        op_output.emit(Image(np.ascontiguousarray(mask, dtype=np.uint8), {"affine_lps": affine}), "mask")


class SegmentationWriterOperator(Operator):
    """Writes the mask as DICOM SEG, in the place of the SDK's writer, see seg.py.

    Named inputs: volume (Volume), mask (Image of uint8). No output port.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, version: str, **kwargs: Any) -> None:
        self._output_folder = output_folder
        self._version = version
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("volume")
        spec.input("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:  # noqa: ARG002  the signature is the SDK's
        """Write the file."""
        volume, mask = op_input.receive("volume"), op_input.receive("mask")
        with no_values_quoted("writing the DICOM SEG"):
            write_segmentation(self._output_folder, volume.stack, mask.asnumpy(), version=self._version)


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
