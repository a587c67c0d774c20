"""The application's graph: DICOM folder → MR series → volume → brain mask → DICOM SEG and STL surface.

Only the wiring lives here. What a step does is in ``operators.py`` (ours) or in the MONAI Deploy App SDK (the rest).
"""

from __future__ import annotations

import logging
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.dicom_utils import ModelInfo
from operators import BrainExtractionOperator, RequiredSeriesOperator, SurfaceWriterOperator
from pydicom.sr.codedict import codes

VERSION = "1.0.0"
MODEL_NAME = "deepbet bbox_model 1.0.2"
MODEL_UID = "2.25.76636734020951332690597859341887081362"  # the first half of the model file's SHA-256 as a number

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

        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=Path(context.input_path), name="load_dicom")
        selector = DICOMSeriesSelectorOperator(
            self, rules=MR_RULES, all_matched=True, sort_by_sop_instance_count=True, name="select_mr_series"
        )
        required = RequiredSeriesOperator(self, name="require_one_series")
        volume = DICOMSeriesToVolumeOperator(self, name="series_to_volume")
        brain = BrainExtractionOperator(self, model_folder=Path(context.model_path), name="extract_brain")
        segmentation = DICOMSegmentationWriterOperator(
            self,
            segment_descriptions=[
                SegmentDescription(
                    segment_label="Brain",
                    segmented_property_category=codes.SCT.AnatomicalStructure,
                    segmented_property_type=codes.SCT.Brain,
                    algorithm_name=MODEL_NAME,
                    algorithm_version=VERSION,
                )
            ],
            output_folder=output,
            model_info=ModelInfo(creator="monai-aws-pipeline example", name=MODEL_NAME, version=VERSION, uid=MODEL_UID),
            custom_tags={"SeriesDescription": "Brain extraction: example, not for clinical use", "ContentLabel": "BRAIN"},
            name="write_dicom_seg",
        )
        surface = SurfaceWriterOperator(self, output_file=output / "stl" / "brain.stl", name="write_stl")

        series = ("study_selected_series_list", "study_selected_series_list")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, required, {series})
        self.add_flow(required, volume, {series})
        self.add_flow(required, brain, {series})
        self.add_flow(volume, brain, {("image", "image")})
        self.add_flow(required, segmentation, {series})
        self.add_flow(brain, segmentation, {("mask", "seg_image")})
        self.add_flow(brain, surface, {("mask", "mask")})
        logging.getLogger(__name__).debug("graph composed")
