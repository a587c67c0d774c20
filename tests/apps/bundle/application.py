"""A bundle's application as the SDK means it: DICOM folder → CT series → volume → ``MonaiBundleInferenceOperator`` → DICOM SEG.

Every operator is the MONAI Deploy App SDK's own, so that what is tried with it is how such an application behaves, and not how we write
one. The bundle is made by ``make_model.py``; its network has seen no patient, and the result means nothing.
"""

from __future__ import annotations

from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from pydicom.sr.codedict import codes

CT_RULES = """{"selections": [{"name": "CT", "conditions": {"Modality": "(?i)^CT$"}}]}"""


class BundleSegmentation(Application):
    """Whatever the bundle segments, on the CPU or the GPU."""

    def compose(self) -> None:
        """Create the operators and connect them."""
        context: AppContext = Application.init_app_context(self.argv)
        air = SegmentDescription(
            segment_label="Air",
            segmented_property_category=codes.SCT.BodySubstance,
            segmented_property_type=codes.SCT.Air,
            algorithm_name="random weights",
            algorithm_version="1",
        )
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=Path(context.input_path), name="load_dicom")
        selector = DICOMSeriesSelectorOperator(self, rules=CT_RULES, name="select_ct_series")
        volume = DICOMSeriesToVolumeOperator(self, name="read_volume")
        bundle = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            name="run_bundle",
        )
        writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=[air], output_folder=Path(context.output_path), name="write_dicom_seg"
        )

        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, bundle, {("image", "image")})
        self.add_flow(selector, writer, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(bundle, writer, {("pred", "seg_image")})
