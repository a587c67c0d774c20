"""What an application says of itself in app.yaml, what its code shows, and how both reach a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from monai_aws_pipeline.contract import ExpectedVolume
from monai_aws_pipeline.maps.spec.study_contract import (
    LABEL_STUDY_CONTRACT,
    Declared,
    Handles,
    SeriesChoice,
    StudyContract,
    contract_for,
    contract_of,
    decoded_syntaxes,
    parse_section,
    takes_all_matched,
)


def read(section: Any) -> Declared:
    findings: list[str] = []
    declared = parse_section(section, findings)
    assert findings == []
    return declared


def test_the_whole_section_is_read() -> None:
    section = {
        "require-volume": True, "min-slices": 20, "series": "all", "stack": {"EchoTime": 90, "ImageType": "M"},
        "handles": ["monochrome1", "enhanced"], "companions": True,
        "volumes-ml": {"Liver": {"min": 300.5}, "Brain": {"min": 600, "max": 2200}},
    }  # fmt: skip
    assert read(section) == Declared(
        True,
        20,
        SeriesChoice.ALL,
        (("EchoTime", "90"), ("ImageType", "M")),
        frozenset({Handles.MONOCHROME1, Handles.ENHANCED}),
        companions=True,
        volumes=(ExpectedVolume("Brain", 600, 2200), ExpectedVolume("Liver", 300.5)),
    )
    assert read(None) == read({}) == Declared()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("yes", "must be a mapping"),
        ({"require-volumes": True}, "'require-volumes'"),
        ({"require-volume": "yes"}, "true or false"),
        ({"min-slices": 2}, "from 3"),
        ({"min-slices": True}, "from 3"),
        ({"series": "first"}, "'largest' or 'all'"),
        ({"stack": {"EchoTme": 90}}, "DICOM attributes"),
        ({"stack": {"EchoTime": [90]}}, "DICOM attributes"),
        ({"stack": {"EchoTime": float("nan")}}, "DICOM attributes"),
        ({"handles": "monochrome1"}, "a list of these"),
        ({"handles": ["everything"]}, "a list of these"),
        ({"volumes-ml": ["Brain"]}, "segment labels"),
        ({"volumes-ml": {"Brain": {}}}, "min, max or both"),
        ({"volumes-ml": {"Brain": {"min": 2, "max": 1}}}, "min, max or both"),
        ({"volumes-ml": {"Brain": {"min": -1}}}, "min, max or both"),
        ({"volumes-ml": {"Brain": {"min": float("nan")}}}, "min, max or both"),
        ({"volumes-ml": {"Brain": {"min": 1, "most": 2}}}, "min, max or both"),
        ({"volumes-ml": {"Brain": 1400}}, "min, max or both"),
        ({"volumes-ml": {"B" * 65: {"min": 1}}}, "min, max or both"),
    ],
)
def test_what_is_wrong_with_it_is_said(section: Any, said: str) -> None:
    findings: list[str] = []
    parse_section(section, findings)
    assert len(findings) == 1
    assert said in findings[0]


def test_the_label_says_the_same_again() -> None:
    contract = StudyContract(
        True,
        20,
        SeriesChoice.ALL,
        (("EchoTime", "90"),),
        frozenset({Handles.GANTRY_TILT}),
        sdk_volume=True,
        syntaxes=frozenset({RLELossless}),
        volumes=(ExpectedVolume("Brain", 600, 2200), ExpectedVolume("Liver", high=300.5)),
    )
    assert contract_of({LABEL_STUDY_CONTRACT: contract.to_label()}) == contract
    assert contract_of({LABEL_STUDY_CONTRACT: StudyContract().to_label()}) == StudyContract()


VOLUME_CODE = "from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator as Volume\n"


@pytest.mark.parametrize(
    ("code", "volume", "sdk"),
    [
        (VOLUME_CODE, True, True),
        ("import monai.deploy.operators as o\no.MonaiBundleInferenceOperator()\n", True, False),
        ("# DICOMSeriesToVolumeOperator is not used here\nx = 'DICOMSeriesToVolumeOperator'\n", False, False),
        ("def broken(:\n", False, False),
    ],
)
def test_an_application_that_builds_volumes_needs_one_unless_it_says_otherwise(tmp_path: Path, code: str, volume: bool, sdk: bool) -> None:
    (tmp_path / "application.py").write_text(code)
    contract = contract_for(tmp_path, Declared(), ["pydicom"])
    assert (contract.volume, contract.sdk_volume) == (volume, sdk)
    assert not contract_for(tmp_path, Declared(volume=False), None).volume
    assert contract_for(tmp_path, Declared(volume=True), None).volume


def test_it_is_seen_that_the_code_asks_for_every_series_that_matches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("DICOMSeriesSelectorOperator(self, rules=R, all_matched=False)\n")
    assert not takes_all_matched(tmp_path)
    (tmp_path / "b.py").write_text("DICOMSeriesSelectorOperator(self, rules=R, all_matched=True)\n")
    assert takes_all_matched(tmp_path)


def test_decoders_are_known_by_the_packages_that_bring_them() -> None:
    assert {RLELossless} <= decoded_syntaxes([])
    assert not {JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless} & decoded_syntaxes(["numpy"])
    assert {JPEGLSLossless} <= decoded_syntaxes(["highdicom"])
    assert {JPEGLosslessSV1, JPEGLSLossless} <= decoded_syntaxes(["Python_GDCM"])
    assert {HTJ2KLossless} <= decoded_syntaxes(["pylibjpeg-openjpeg"])
