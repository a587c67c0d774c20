"""Header values that say nothing about the picture: empty, absent, overlong, in other scripts, in the wrong type. All of it is in use."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import UID_ROOT, Draft

DAMAGED = (Code.DICOM_DAMAGED, Code.DICOM_TRUNCATED, Code.DICOM_TOO_COMPLEX)


def _all(draft: Draft, **values: Any) -> None:
    for header in draft.headers():
        for name, value in values.items():
            setattr(header, name, value)


@variants(
    "{}_empty",
    Phase.HEADER,
    ANSWER,
    {
        name: name
        for name in (
            "SeriesNumber", "StudyID", "PatientID", "PatientName", "StudyDate", "StudyTime", "AcquisitionNumber", "AccessionNumber",
            "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "Manufacturer", "SoftwareVersions",
        )
    },
    slot="empty",
)  # fmt: skip
def _empty(draft: Draft, name: str) -> None:
    _all(draft, **{name: None})


@axis("all_type_2_empty", Phase.HEADER, ANSWER, slot="empty")
def _all_empty(draft: Draft) -> None:
    _all(
        draft, SeriesNumber=None, StudyID=None, PatientID=None, PatientName=None, StudyDate=None, StudyTime=None, AcquisitionNumber=None,
        AccessionNumber=None, ReferringPhysicianName="^^^^", PatientBirthDate=None, PatientSex=None, SeriesDate=None, SeriesTime=None,
    )  # fmt: skip


@axis("all_type_2_absent", Phase.HEADER, ANSWER, slot="empty")
def _all_absent(draft: Draft) -> None:
    for header in draft.headers():
        for name in (
            "SeriesNumber", "StudyID", "PatientID", "PatientName", "StudyDate", "StudyTime", "AcquisitionNumber", "AccessionNumber",
            "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "PositionReferenceIndicator", "Manufacturer",
        ):  # fmt: skip
            if name in header:
                delattr(header, name)


@axis("acquisition_number_empty_in_doubled_plane", Phase.STACK, either(Code.MIXED_SERIES))
def _acquisition_empty(draft: Draft) -> None:
    draft.images.append(draft.another(draft.images[3]))
    for image in draft.images:
        image.header.AcquisitionNumber = None


@variants(
    "wrong_{}",
    Phase.HEADER,
    ANSWER,
    {
        "series_number_decimal": (0x00200011, "IS", b"1.0 "),
        "series_number_text": (0x00200011, "IS", b"T1"),
        "acquisition_number_text": (0x00200012, "IS", b"none"),
        "instance_number_decimal": (0x00200013, "IS", b"7.5 "),
        "repetition_time_text": (0x00180080, "DS", b"fast"),
        "echo_train_text": (0x00180091, "IS", b"many"),
        "study_date_dotted": (0x00080020, "DA", b"2020.04.17"),
        "study_date_text": (0x00080020, "DA", b"yesterday "),
        "study_time_colons": (0x00080030, "TM", b"12:00:00"),
        "patient_age": (0x00101010, "AS", b"old "),
        "series_date_short": (0x00080021, "DA", b"2020"),
        "slice_thickness_text": (0x00180050, "DS", b"thin"),
        "weight_comma": (0x00101030, "DS", b"72,5"),
    },
    slot="wrong",
)
def _wrong(draft: Draft, value: tuple[int, str, bytes]) -> None:
    tag, vr, content = value
    element = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + struct.pack("<H", len(content)) + content

    def step(file: bytes, _: int) -> bytes:
        return _replaced(file, tag, vr, element)

    draft.bytes_steps.append(step)


def _replaced(file: bytes, tag: int, vr: str, element: bytes) -> bytes:
    """A file in explicit VR little endian with one short element replaced."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    at = file.find(head)
    if at < 0:
        raise IncompatibleAxesError
    length = struct.unpack_from("<H", file, at + 6)[0]
    return file[:at] + element + file[at + 8 + length :]


# -------------------------------------------------------------------------------------------------------------------------- scripts


@variants(
    "charset_{}",
    Phase.HEADER,
    ANSWER,
    {
        "ir_87": (["", "ISO 2022 IR 87"], "Yamadazq^Tarou=山田^太郎=やまだ^たろう"),
        "ir_6_ir_87": (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamadazq^Tarou=山田^太郎"),
        "gb18030": ("GB18030", "Wangzq^XiaoDong=王^小东="),
        "latin_1": ("ISO_IR 100", "Müllerzq^Jürgen"),
        "greek": ("ISO_IR 126", "\u0394\u03b9\u03bf\u03bd\u03c5\u03c3\u03b9\u03bf\u03c2zq"),
        "thai": ("ISO_IR 166", "สมชายzq"),
        "utf_8": ("ISO_IR 192", "Müllerzq^Jürgen=山田^太郎"),
    },
    slot="charset",
)
def _charset(draft: Draft, what: tuple[Any, str]) -> None:
    _all(draft, SpecificCharacterSet=what[0], PatientName=what[1])


@variants(
    "charset_{}",
    Phase.HEADER,
    either(*DAMAGED),
    {
        "invalid_utf_8": ("ISO_IR 192", "Müllerzq^Jür".encode("latin-1")),
        "unknown": ("ISO_IR 999", "Müllerzq^Jür".encode("latin-1")),
        "misspelt": ("ISO-IR 100", "Müllerzq^Jür".encode("latin-1")),
        "absent_with_8_bit_bytes": (None, "Müllerzq^Jür".encode("latin-1")),
        "escape_that_is_not_declared": ("ISO_IR 6", b"Yamadazq\x1b$B;3ED\x1b(B"),
    },
    slot="charset",
)
def _bytes_of_a_name(draft: Draft, what: tuple[str | None, bytes]) -> None:
    charset, name = what
    name += b" " * (len(name) % 2)
    for header in draft.headers():
        header.PatientName = "Q" * len(name)
        if charset is None:
            del header.SpecificCharacterSet
        else:
            header.SpecificCharacterSet = charset
    draft.bytes_steps.append(lambda file, _: file.replace(b"Q" * len(name), name))


@variants(
    "name_{}",
    Phase.HEADER,
    ANSWER,
    {
        "without_caret": "VAUGHNZQ ZQPLANT",
        "with_comma": "Vaughnzq, Zqplant",
        "of_five_parts": "Zqplant^Vaughnzq^Middlezq^Drzq^Jrzq",
        "overlong": "Zqplant" * 40,
        "with_digits": "Zqplant^1961-02-03",
        "with_pattern_characters": "Zq(plant^Vaughn*zq[+?",
        "with_control_characters": "Zqplant\x07^Vaughnzq",
    },
    slot="name",
)
def _name(draft: Draft, name: str) -> None:
    _all(draft, PatientName=name)


@axis("name_with_two_values", Phase.HEADER, refuse(Code.DICOM_DAMAGED), slot="name")
def _two_names(draft: Draft) -> None:
    _all(draft, PatientName="Zqplant^Vaughnzq\\Zqsecond^Namezq")


@axis("name_differs_within_the_series", Phase.HEADER, ANSWER, slot="name")
def _name_differs(draft: Draft) -> None:
    for number, header in enumerate(draft.headers()):
        header.PatientName = ("Zqmaiden", "Zqmarried", f"Zqfile{number}zq")[number % 3]
        header.OtherPatientNames = f"Zqother{number}zq"


@axis("birth_date_differs_within_the_series", Phase.HEADER, ANSWER, slot="birth")
def _birth_differs(draft: Draft) -> None:
    for number, header in enumerate(draft.headers()):
        header.PatientBirthDate = "19610203" if number % 2 else "19610302"


@axis("name_in_descriptions", Phase.HEADER, ANSWER, slot="descriptions")
def _descriptions(draft: Draft) -> None:
    for header in draft.headers():
        if "SeriesDescription" in header and header.SeriesDescription:
            header.SeriesDescription = f"{header.SeriesDescription} Zqplant Vaughnzq"
        header.StudyDescription = header.ProtocolName = "Zqplant"


@axis("short_common_identifiers", Phase.HEADER, ANSWER, slot="descriptions")
def _short(draft: Draft) -> None:
    _all(draft, StudyID="10", AccessionNumber="2026", StationName="info", InstitutionName="Error in line")


@variants(
    "overlong_{}",
    Phase.HEADER,
    ANSWER,
    {
        "patient_id": {"PatientID": "PIDZQ77" * 12},
        "descriptions": {"StudyDescription": "zq" * 200, "ProtocolName": "x" * 300},
        "station": {"StationName": "STATIONZQ" * 10},
        "software": {"SoftwareVersions": "1" * 200, "DeviceSerialNumber": "9" * 200},
    },
    slot="overlong",
)
def _overlong(draft: Draft, values: dict[str, str]) -> None:
    _all(draft, **values)


@axis("patient_id_huge", Phase.HEADER, either(*DAMAGED), slot="overlong")
def _huge_id(draft: Draft) -> None:
    _all(draft, PatientID="PIDZQ77" + "P" * 1500)


@axis("patient_id_padded_otherwise", Phase.HEADER, ANSWER, slot="overlong")
def _padded_id(draft: Draft) -> None:
    for image in draft.images[::2]:
        image.header.PatientID = "PIDZQ77  "


# ------------------------------------------------------------------------------------------------------------------- what files hold


@axis("private_groups", Phase.HEADER, ANSWER, slot="private")
def _private(draft: Draft) -> None:
    for header in draft.headers():
        block = header.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", bytes(draft.random.randbytes(1000)))
        block.add_new(0x18, "SQ", Sequence([Dataset()]))
        header.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x01, "FL", 3.5)


@axis("icon_image", Phase.HEADER, ANSWER, slot="private")
def _icon(draft: Draft) -> None:
    for image in draft.images:
        icon = Dataset()
        icon.Rows = icon.Columns = 8
        icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
        icon.BitsAllocated = icon.BitsStored = 8
        icon.HighBit, icon.PixelRepresentation = 7, 0
        icon.PixelData = bytes(64)
        icon["PixelData"].VR = "OB"
        image.header.IconImageSequence = Sequence([icon])


@axis("many_private_elements", Phase.HEADER, ANSWER, slot="private")
def _many(draft: Draft) -> None:
    for image in draft.images:
        block = image.header.private_block(0x0011, "ZQVENDOR", create=True)
        for number in range(200):
            block.add_new(number, "LO", f"Zqplant {number}")


@axis("unknown_vr_of_undefined_length", Phase.HEADER, ANSWER, slot="bytes")
def _unknown(draft: Draft) -> None:
    inner = b"\x08\0\x50\x11" + struct.pack("<I", 4) + b"1.2\0"
    found = b"\x09\0\x10\0LO\x08\0ZQVENDOR" + b"\x09\0\x01\x10UN\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0"
    found += struct.pack("<I", len(inner)) + inner + b"\xfe\xff\xdd\xe0\0\0\0\0"
    draft.bytes_steps.append(lambda file, _: _inserted(file, b"\x10\0\x10\0PN", found))


@axis("group_length_elements", Phase.HEADER, ANSWER, slot="bytes")
def _group_length(draft: Draft) -> None:
    found = b"\x08\0\0\0UL\x04\0" + struct.pack("<I", 500)
    draft.bytes_steps.append(lambda file, _: _inserted(file, b"\x08\0\x05\0CS", found))


def _inserted(file: bytes, before: bytes, more: bytes) -> bytes:
    at = file.find(before)
    if at < 0:
        raise IncompatibleAxesError
    return file[:at] + more + file[at:]


@axis("meta_group_length_absent", Phase.HEADER, ANSWER, slot="bytes")
def _no_meta_length(draft: Draft) -> None:
    draft.bytes_steps.append(lambda file, _: file[:132] + file[144:])


@axis("meta_class_and_instance_absent", Phase.HEADER, either(*DAMAGED), slot="bytes")
def _poor_meta(draft: Draft) -> None:
    def step(file: bytes, _: int) -> bytes:
        length = struct.unpack_from("<I", file, 140)[0]
        syntax = file.find(b"\x02\0\x10\0UI", 132, 144 + length)
        size = 8 + struct.unpack_from("<H", file, syntax + 6)[0]
        kept = file[syntax : syntax + size]
        return file[:132] + b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(kept)) + kept + file[144 + length :]

    draft.bytes_steps.append(step)


@axis("meta_instance_differs", Phase.HEADER, either(*DAMAGED, Code.DICOM_INCOMPLETE), slot="bytes")
def _meta_differs(draft: Draft) -> None:
    def step(file: bytes, _: int) -> bytes:
        at = file.find(b"\x02\0\x03\0UI")
        size = struct.unpack_from("<H", file, at + 6)[0]
        return file[: at + 8] + file[at + 8 : at + 8 + size].replace(b"7077", b"7078") + file[at + 8 + size :]

    draft.bytes_steps.append(step)


@axis("preamble_of_a_picture", Phase.HEADER, ANSWER, slot="preamble")
def _preamble(draft: Draft) -> None:
    """A TIFF's first bytes in the preamble, as dual-personality files have them (PS3.10 section 7.1)."""
    draft.bytes_steps.append(lambda file, _: b"II*\0\x08\0\0\0" + file[8:])


@variants(
    "{}_at_the_end",
    Phase.HEADER,
    either(*DAMAGED),
    {"nuls": lambda draft: bytes(2048), "garbage": lambda draft: draft.random.randbytes(512), "one_byte": lambda draft: b"\0"},
    slot="tail",
)
def _tail(draft: Draft, made: Callable[[Draft], bytes]) -> None:
    tail = made(draft)
    draft.bytes_steps.append(lambda file, _: file + tail)


@axis("trailing_padding_element", Phase.HEADER, ANSWER, slot="tail")
def _padding(draft: Draft) -> None:
    for image in draft.images:
        image.header.add_new(0xFFFCFFFC, "OB", bytes(100))


@axis("one_file_truncated", Phase.HEADER, refuse(Code.DICOM_TRUNCATED, Code.DICOM_DAMAGED), slot="tail")
def _truncated(draft: Draft) -> None:
    which = len(draft.images) // 2
    draft.bytes_steps.append(lambda file, number: file[: len(file) - 900] if number == which else file)
    draft.main.truth.clear()


@axis("one_file_cut_in_its_header", Phase.HEADER, refuse(Code.DICOM_TRUNCATED, Code.DICOM_DAMAGED, Code.DICOM_INCOMPLETE), slot="tail")
def _cut(draft: Draft) -> None:
    draft.bytes_steps.append(lambda file, number: file[:700] if number == 0 else file)
    draft.main.truth.clear()


# ----------------------------------------------------------------------------------------------------------------------------- UIDs


def _uids(draft: Draft, made: Callable[[int], bytes]) -> None:
    """Write the StudyInstanceUID as these bytes, by the number of the file."""
    old = str(draft.images[0].header.StudyInstanceUID).encode()

    def step(file: bytes, number: int) -> bytes:
        new = made(number)
        head = b"\x20\0\x0d\0UI"
        at = file.find(head)
        if at < 0 or old not in file[at : at + 80]:
            raise IncompatibleAxesError
        length = struct.unpack_from("<H", file, at + 6)[0]
        return file[: at + 6] + struct.pack("<H", len(new)) + new + file[at + 8 + length :]

    draft.bytes_steps.append(step)


@axis("study_uid_padded_by_nul_and_by_space", Phase.HEADER, ANSWER, slot="uid")
def _padded(draft: Draft) -> None:
    uid = f"{UID_ROOT}.55.12345678".encode()
    uid += b"1" * (1 - len(uid) % 2)
    _uids(draft, lambda number: uid + (b"\0" if number % 2 else b" "))


@variants(
    "{}_padded_otherwise",
    Phase.HEADER,
    ANSWER,
    {"series_uid": b"\x20\0\x0e\0UI", "frame_of_reference": b"\x20\0\x52\0UI"},
    slot="uid",
)
def _padded_in_some(draft: Draft, head: bytes) -> None:
    """A NUL behind the UID in some files, a space and a NUL in others."""

    def step(file: bytes, number: int) -> bytes:
        at = file.find(head)
        if at < 0:
            raise IncompatibleAxesError
        length = struct.unpack_from("<H", file, at + 6)[0]
        value = file[at + 8 : at + 8 + length].rstrip(b" \0")
        value += (b" " if number % 2 else b"\0") * (len(value) % 2) + (b" \0" if number % 3 == 0 else b"")
        return file[: at + 6] + struct.pack("<H", len(value)) + value + file[at + 8 + length :]

    draft.bytes_steps.append(step)


@axis("study_uid_followed_by_two_nuls", Phase.HEADER, ANSWER, slot="uid")
def _two_nuls(draft: Draft) -> None:
    uid = f"{UID_ROOT}.66.1234567".encode()
    uid += b"1" * (len(uid) % 2)
    _uids(draft, lambda _: uid + b"\0\0")


@axis("study_uid_of_64_characters", Phase.HEADER, ANSWER, slot="uid")
def _long(draft: Draft) -> None:
    uid = (UID_ROOT + ".7" + "3" * 64)[:64].encode()
    _uids(draft, lambda _: uid)


@axis("study_uid_with_a_leading_zero", Phase.HEADER, either(Code.DICOM_BAD_UID), slot="uid")
def _zero(draft: Draft) -> None:
    uid = f"{UID_ROOT}.007.11".encode()
    _uids(draft, lambda _: uid + b"\0" * (len(uid) % 2))


@variants(
    "study_uid_{}",
    Phase.HEADER,
    refuse(Code.DICOM_BAD_UID, Code.DICOM_INCOMPLETE),
    {"of_66_characters": b"1.2." + b"3" * 62, "of_letters": b"1.2.ABCDEFzq", "empty": b""},
    slot="uid",
)
def _bad(draft: Draft, uid: bytes) -> None:
    _uids(draft, lambda _: uid)
    draft.main.truth.clear()


@axis("class_is_unknown", Phase.HEADER, either(Code.NO_IMAGES, Code.UNSUPPORTED_IMAGE), slot="class")
def _class(draft: Draft) -> None:
    for image in draft.images:
        image.header.SOPClassUID = "1.2.840.113619.4.2"


@axis("class_is_secondary_capture", Phase.HEADER, either(Code.NO_IMAGES, Code.UNSUPPORTED_IMAGE), slot="class")
def _capture(draft: Draft) -> None:
    for image in draft.images:
        image.header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


@axis("class_is_absent", Phase.HEADER, either(Code.DICOM_INCOMPLETE, Code.NO_IMAGES, Code.UNSUPPORTED_IMAGE), slot="class")
def _no_class(draft: Draft) -> None:
    for image in draft.images:
        del image.header.SOPClassUID
