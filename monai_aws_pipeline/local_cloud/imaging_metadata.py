"""The metadata document of an image set, as GetImageSetMetadata gives it: patient, study, series and instances, with the ids of frames.

Source: HealthImaging Developer Guide, "Getting image set metadata".
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from .imaging_files import LEVELS, frame_bytes
from .imaging_store import StoredInstance

Json = dict[str, Any]
_PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_BYTES: Final = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
_DEFER: Final = 1 << 20


def image_set_metadata(datastore: str, image_set: str, instances: Sequence[StoredInstance]) -> bytes:
    """The document, compressed. Headers are read one after another."""
    study: Json = {"DICOM": {}, "Series": {}}
    patient: Json = {"DICOM": {}}
    for each in instances:
        shown = header_of(each)
        patient["DICOM"] = {name: shown.pop(name) for name in _PATIENT if name in shown} or patient["DICOM"]
        study["DICOM"] = {name: shown.pop(name) for name in LEVELS["study"] if name in shown} or study["DICOM"]
        of_series = {name: shown.pop(name) for name in LEVELS["series"] if name in shown}
        series = study["Series"].setdefault(str(of_series["SeriesInstanceUID"]), {"DICOM": of_series, "Instances": {}})
        series["Instances"][each.sop_instance] = {
            "DICOM": shown,
            "DICOMVRs": {},
            "ImageFrames": [_frame(each, number, shown) for number in range(len(each.frames))],
            "StoredTransferSyntaxUID": each.transfer_syntax,
        }
    document = {"SchemaVersion": "1.1", "DatastoreID": datastore, "ImageSetID": image_set, "Patient": patient, "Study": study}
    return gzip.compress(json.dumps(document).encode())


def header_of(instance: StoredInstance) -> Json:
    """Values by keyword, without pixels and other bytes."""
    with config.disable_value_validation():
        return _values(dcmread(instance.file, stop_before_pixels=True, defer_size=_DEFER))


def _values(data: Dataset) -> Json:
    found: Json = {}
    for element in data:
        if not element.keyword or element.VR in _BYTES:
            continue
        value = element.value
        if element.VR == "SQ":
            found[element.keyword] = [_values(item) for item in value]
        elif isinstance(value, MultiValue):
            found[element.keyword] = [_value(each) for each in value]
        else:
            found[element.keyword] = _value(value)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, bool | int | float) and not hasattr(value, "original_string"):
        return value
    return None if value is None else str(getattr(value, "original_string", None) or value)


def _frame(instance: StoredInstance, number: int, shown: Json) -> Json:
    pixels = frame_bytes(instance.file, instance.frames[number])
    whole = {"Width": shown.get("Columns"), "Height": shown.get("Rows"), "Checksum": zlib.crc32(pixels)}
    return {
        "ID": instance.frame_id(number),
        "FrameSizeInBytes": len(pixels),
        "PixelDataChecksumFromBaseToFullResolution": [whole],
    }
