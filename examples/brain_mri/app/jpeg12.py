"""Lossy JPEG of 12 bits (transfer syntax JPEG Extended), which pydicom has no decoder under a permissive licence for. numpy and gdcm.

pydicom hands such a stream to no library but a GPL one. GDCM reads it: told the precision of the stream, it gives the values that
libjpeg-turbo gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGExtended12Bit


def frames_of(image: Dataset) -> Iterator[NDArray[np.uint16]]:
    """Each frame of a gray image, [row, column]. Raises ValueError where a stream does not hold what the header says."""
    for stream in generate_frames(image.PixelData, number_of_frames=int(image.get("NumberOfFrames") or 1)):
        pixels = np.frombuffer(_decoded(stream, image), "<u2")
        if pixels.size != image.Rows * image.Columns:
            raise ValueError("the stream has another matrix than the header")
        yield pixels.reshape(image.Rows, image.Columns)


def _decoded(stream: bytes, image: Dataset) -> bytes:
    import gdcm  # type: ignore[import-not-found]  # here: what is tested without it needs none

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    picture: Any = gdcm.Image()
    picture.SetNumberOfDimensions(2)
    picture.SetDimensions((image.Columns, image.Rows, 1))
    picture.SetDataElement(element)
    picture.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    picture.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    picture.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    return bytes(picture.GetBuffer().encode("utf-8", "surrogateescape"))  # it gives bytes as a text
