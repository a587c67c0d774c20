"""The application's graph: DICOM folder → MR series → volume → brain mask → DICOM SEG and STL surface.

Only the wiring lives here. What a step does is in ``operators.py`` (ours) or in the MONAI Deploy App SDK (the rest).
"""

from __future__ import annotations

import logging
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from operators import (
    BrainExtractionOperator,
    LargestSeriesOperator,
    SegmentationWriterOperator,
    StudyLoaderOperator,
    SurfaceWriterOperator,
    VolumeReaderOperator,
)

VERSION = "1.0.0"

# The largest original MR series of the study; a scout has fewer instances and comes later.
MR_RULES = """
{"selections": [{"name": "MR", "conditions": {"Modality": "(?i)^MR$", "ImageType": ["PRIMARY", "ORIGINAL"]}}]}
"""


class BrainExtraction(Application):
    """Brain extraction with a TorchScript 3D U-Net, on the CPU or the GPU."""

    def compose(self) -> None:
        """Create the operators and connect them."""
        context: AppContext = Application.init_app_context(self.argv)
        output = Path(context.output_path)

        loader = StudyLoaderOperator(self, CountCondition(self, 1), input_folder=Path(context.input_path), name="load_dicom")
        selector = DICOMSeriesSelectorOperator(
            self, rules=MR_RULES, all_matched=True, sort_by_sop_instance_count=True, name="select_mr_series"
        )
        largest = LargestSeriesOperator(self, name="choose_largest_series")
        reader = VolumeReaderOperator(self, name="read_volume")
        brain = BrainExtractionOperator(self, model_folder=Path(context.model_path), name="extract_brain")
        segmentation = SegmentationWriterOperator(self, output_folder=output, version=VERSION, name="write_dicom_seg")
        surface = SurfaceWriterOperator(self, output_file=output / "stl" / "brain.stl", name="write_stl")

        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, largest, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(largest, reader, {("images", "images")})
        self.add_flow(reader, brain, {("volume", "volume")})
        self.add_flow(reader, segmentation, {("volume", "volume")})
        self.add_flow(brain, segmentation, {("mask", "mask")})
        self.add_flow(brain, surface, {("mask", "mask")})
        logging.getLogger(__name__).debug("graph composed")
