"""Transfer syntaxes: those that every reader has, those that the application has no decoder for, and those that lie."""

from __future__ import annotations

import copy
import io

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Draft, encode_explicit, saved, with_meta

UNDECODED = refuse(Code.TRANSFER_SYNTAX)


@axis("implicit", Phase.ENCODING, ANSWER)
def _implicit(draft: Draft) -> None:
    _no_bytes_steps(draft)
    draft.encode = _encode_implicit


def _encode_implicit(header: Dataset, _: int) -> bytes:
    return saved(with_meta(header, ImplicitVRLittleEndian), implicit_vr=True, little_endian=True)


@axis("deflated", Phase.ENCODING, ANSWER)
def _deflated(draft: Draft) -> None:
    _no_bytes_steps(draft)
    draft.encode = lambda header, _: saved(with_meta(header, DeflatedExplicitVRLittleEndian))


@axis("big_endian", Phase.ENCODING, ANSWER)
def _big(draft: Draft) -> None:
    _no_bytes_steps(draft)
    draft.encode = _encode_big


def _encode_big(header: Dataset, _: int) -> bytes:
    if "PixelData" in header and header.BitsAllocated > 8:
        kind = {16: "u2", 32: "u4"}[header.BitsAllocated]
        header.PixelData = np.frombuffer(header.PixelData, "<" + kind).astype(">" + kind).tobytes()
    elif "PixelData" not in header:
        raise IncompatibleAxesError
    found = Dataset()
    for element in header:
        found.add(copy.deepcopy(element))
    with_meta(found, ExplicitVRBigEndian)
    stream = io.BytesIO()
    found.save_as(stream, implicit_vr=False, little_endian=False, enforce_file_format=True)
    return stream.getvalue()


@axis("rle", Phase.ENCODING, ANSWER)
def _rle(draft: Draft) -> None:
    draft.encode = _encode_rle


@axis("rle_in_some", Phase.ENCODING, ANSWER)
def _some_rle(draft: Draft) -> None:
    draft.encode = lambda header, number: _encode_rle(header, number) if number % 2 else encode_explicit(header, number)


@axis("implicit_in_some", Phase.ENCODING, ANSWER)
def _some_implicit(draft: Draft) -> None:
    _no_bytes_steps(draft)
    draft.encode = lambda header, number: _encode_implicit(header, number) if number % 2 else encode_explicit(header, number)


def _encode_rle(header: Dataset, _: int) -> bytes:
    if "PixelData" not in header or not header.PixelData:
        raise IncompatibleAxesError
    with_meta(header, ExplicitVRLittleEndian)
    header.compress(RLELossless, generate_instance_uid=False)
    return saved(header)


@axis("rle_damaged_in_one", Phase.ENCODING, refuse(Code.DICOM_DAMAGED, Code.DICOM_TRUNCATED))
def _rle_damaged(draft: Draft) -> None:
    """The header of the segments points beyond them."""

    def encode(header: Dataset, number: int) -> bytes:
        file = _encode_rle(header, number)
        at = file.find(b"\xfe\xff\x00\xe0", file.rfind(b"\xe0\x7f\x10\x00") + 12 + 8)
        return file[: at + 12] + b"\xff\xff\xff\x0f" + file[at + 16 :] if number == 7 else file

    draft.encode = encode
    draft.main.truth.clear()


@axis("rle_cut_in_one", Phase.ENCODING, refuse(Code.DICOM_DAMAGED, Code.DICOM_TRUNCATED))
def _rle_cut(draft: Draft) -> None:
    """Whole as a file, but the compressed pixels end after a third."""
    if len(draft.images) < 8:
        raise IncompatibleAxesError

    def encode(header: Dataset, number: int) -> bytes:
        if number != 7:
            return _encode_rle(header, number)
        with_meta(header, ExplicitVRLittleEndian)
        header.compress(RLELossless, generate_instance_uid=False)
        from pydicom.encaps import generate_frames

        frame = next(generate_frames(header.PixelData, number_of_frames=1))
        header.PixelData = encapsulate([frame[: len(frame) // 3 // 2 * 2]])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        return saved(header)

    draft.encode = encode
    draft.main.truth.clear()


@variants(
    "undecoded_{}",
    Phase.ENCODING,
    UNDECODED,
    {
        "jpeg_lossless": "1.2.840.10008.1.2.4.70",
        "jpeg_baseline": "1.2.840.10008.1.2.4.50",
        "jpeg_2000": "1.2.840.10008.1.2.4.90",
        "htj2k": "1.2.840.10008.1.2.4.201",
        "jpeg_xl": "1.2.840.10008.1.2.4.110",
        "mpeg": "1.2.840.10008.1.2.4.102",
    },
)
def _undecoded(draft: Draft, syntax: str) -> None:
    draft.encode = lambda header, _: _fragments(header, syntax, b"\xff\xd8\xff" + bytes(range(256)) * 3 + b"\0\xff\xd9")
    draft.main.truth.clear()


@axis("undecoded_jpeg_ls", Phase.ENCODING, UNDECODED)
def _jpeg_ls(draft: Draft) -> None:
    """Real JPEG-LS, which the application has no decoder for."""
    draft.encode = _encode_jpeg_ls


@axis("undecoded_jpeg_ls_in_one", Phase.ENCODING, UNDECODED)
def _jpeg_ls_one(draft: Draft) -> None:
    which = len(draft.images) // 2
    draft.encode = lambda header, number: (_encode_jpeg_ls if number == which else encode_explicit)(header, number)


def _encode_jpeg_ls(header: Dataset, _: int) -> bytes:
    if "PixelData" not in header or not header.PixelData or header.get("NumberOfFrames"):
        raise IncompatibleAxesError
    with_meta(header, ExplicitVRLittleEndian)
    try:
        header.compress(JPEGLSLossless, generate_instance_uid=False)
    except Exception as error:
        raise IncompatibleAxesError from error
    return saved(header)


def _fragments(header: Dataset, syntax: str, frame: bytes) -> bytes:
    if "PixelData" not in header:
        raise IncompatibleAxesError
    frames = int(header.get("NumberOfFrames") or 1)
    header.PixelData = encapsulate([frame] * frames)
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    return _said(saved(with_meta(header, JPEGLSLossless)), syntax)


@axis("private_syntax", Phase.ENCODING, either(Code.TRANSFER_SYNTAX, Code.DICOM_DAMAGED))
def _private(draft: Draft) -> None:
    """GE's own syntax is declared, which swaps the bytes of the pixels; here they are not swapped."""
    draft.encode = lambda header, number: _said(encode_explicit(header, number), "1.2.840.113619.5.2")


@axis(
    "implicit_said_explicit", Phase.ENCODING, either(Code.DICOM_DAMAGED, Code.DICOM_INCOMPLETE, Code.DICOM_TRUNCATED, Code.TRANSFER_SYNTAX)
)
def _lie(draft: Draft) -> None:
    _no_bytes_steps(draft)

    draft.encode = lambda header, number: _said(_encode_implicit(header, number), ExplicitVRLittleEndian)


@axis(
    "explicit_said_implicit", Phase.ENCODING, either(Code.DICOM_DAMAGED, Code.DICOM_INCOMPLETE, Code.DICOM_TRUNCATED, Code.TRANSFER_SYNTAX)
)
def _other_lie(draft: Draft) -> None:
    _no_bytes_steps(draft)

    draft.encode = lambda header, number: _said(encode_explicit(header, number), ImplicitVRLittleEndian)


@axis("same_instances_in_two_syntaxes", Phase.PACKAGING, either(Code.INSTANCE_CONFLICT), slot="twice")
def _twice(draft: Draft) -> None:
    for number, image in enumerate(draft.images):
        header = copy.deepcopy(image.header)
        image.store(header, image.values)
        draft.members.append((f"again/{number}.dcm", _encode_rle(header, number)))


@axis("same_files_twice", Phase.PACKAGING, ANSWER, slot="twice")
def _same(draft: Draft) -> None:
    pack = draft.pack
    draft.pack = lambda members: pack([*members, *[(f"copy/{name}", content) for name, content in members]])


def _said(file: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax in its file meta information."""
    head = b"\x02\0\x10\0UI"
    at = file.find(head, 132)
    if at < 0:
        raise IncompatibleAxesError
    old, new = int.from_bytes(file[at + 6 : at + 8], "little"), syntax.encode() + b"\0" * (len(syntax) % 2)
    length = int.from_bytes(file[140:144], "little") + len(new) - old
    head += len(new).to_bytes(2, "little") + new
    return file[:140] + length.to_bytes(4, "little") + file[144:at] + head + file[at + 8 + old :]


def _no_bytes_steps(draft: Draft) -> None:
    """Byte-wise changes look for explicit VR little endian."""
    if draft.bytes_steps:
        raise IncompatibleAxesError
