"""The same images in other encodings, zipped."""

from __future__ import annotations

import io

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests.support.studies import zip_of


def as_big_endian(images: list[bytes]) -> bytes:
    """Explicit VR Big Endian."""
    found = {}
    for number, content in enumerate(images):
        data = dcmread(io.BytesIO(content))
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        out = io.BytesIO()
        dcmwrite(out, data, implicit_vr=False, little_endian=False, enforce_file_format=True)
        found[f"{number}.dcm"] = out.getvalue()
    return zip_of(found)


def as_deflated(images: list[bytes]) -> bytes:
    """Deflated Explicit VR Little Endian."""
    found = {}
    for number, content in enumerate(images):
        data = dcmread(io.BytesIO(content))
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        out = io.BytesIO()
        data.save_as(out, enforce_file_format=True)
        found[f"{number}.dcm"] = out.getvalue()
    return zip_of(found)
