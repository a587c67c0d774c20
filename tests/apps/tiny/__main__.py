"""A MAP application that needs neither a model nor the SDK at run time: marks bright voxels, in about a second.

It exists so that the tests can go the whole way quickly. It answers a study as a real one would (one DICOM SEG that refers to the source
series, one closed STL in LPS millimetres), and misbehaves on request, which is read from the SeriesDescription:
``tiny:fail`` ends with exit code 3, ``tiny:nothing`` writes nothing, ``tiny:foreign`` answers for another study, ``tiny:garbage`` writes a
file that is no DICOM, ``tiny:link`` answers with a link to the host's passwords, ``tiny:sleep=SECONDS`` takes its time first,
``tiny:memory`` takes all memory there is, ``tiny:take=MIB`` holds so much of it for two seconds, ``tiny:fill`` takes twenty seconds
and writes a GiB before it answers, ``tiny:fork`` starts processes without end, ``tiny:flood`` logs 200,000 lines before it answers;
``tiny:hostile=ADDRESS`` attacks its surroundings (``hostile.py``); ``tiny:litter`` leaves files and processes wherever it can, and
``tiny:look`` ends with exit code 7 if it finds anything of another study.
"""

# ruff: noqa: T201  what it prints becomes the log of the run

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import hostile
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

STARTED = "started.txt"
"""Lies in the output while the application sleeps, so that a test sees that it runs."""


def main() -> int:  # noqa: PLR0911, PLR0912, PLR0915 - one branch a wish
    """Answer the study in HOLOSCAN_INPUT_PATH; the exit code is the result."""
    work = Path(os.environ.get("HOLOSCAN_WORKDIR", "."))
    source = work / os.environ["HOLOSCAN_INPUT_PATH"]
    output = work / os.environ["HOLOSCAN_OUTPUT_PATH"]
    slices = read_series(source)
    if not slices:
        print("tiny: no MR series in the study", file=sys.stderr)
        return 2
    wish = str(slices[0].get("SeriesDescription", ""))
    if wish.startswith("tiny:sleep=") or wish == "tiny:fill":
        (output / STARTED).touch()
        time.sleep(float(wish.partition("=")[2] or 20))
        (output / STARTED).unlink()
    if wish.startswith("tiny:take="):
        taken = bytearray(b"x") * (int(wish.partition("=")[2]) << 20)
        (output / STARTED).touch()
        time.sleep(2)
        (output / STARTED).unlink()
        del taken
    if wish == "tiny:memory":
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (16 << 20)))
    if wish == "tiny:fill":
        fill(output / "filling")
    if wish == "tiny:fork":
        while os.fork():
            pass
        signal.pause()
    if wish == "tiny:flood":
        for number in range(200_000):
            print(f"line {number} of a flood")
    if wish == "tiny:link":
        (output / "segmentation.dcm").symlink_to("/etc/shadow")
        return 0
    if wish.startswith("tiny:hostile="):
        print(hostile.report(source, output, wish.partition("=")[2]))
    if wish == "tiny:fail":
        print("tiny: failing as the study asks", file=sys.stderr)
        return 3
    if wish == "tiny:nothing":
        return 0
    if wish == "tiny:garbage":
        (output / "segmentation.dcm").write_bytes(b"this is no DICOM")
        return 0

    if wish == "tiny:litter":
        litter()
    if wish == "tiny:look" and (found := traces(source, slices)):
        print(f"tiny: found {found}", file=sys.stderr)
        return 7

    volume = np.stack([item.pixel_array for item in slices])
    mask = volume > volume.mean()
    seg = segmentation(slices, mask)
    if wish == "tiny:foreign":
        seg.StudyInstanceUID = generate_uid()
    seg.save_as(output / "segmentation.dcm", enforce_file_format=True)
    (output / "surface.stl").write_bytes(box_stl(slices, mask))
    print(f"tiny: {int(mask.sum())} voxels marked in {len(slices)} slices")
    return 0


def fill(path: Path) -> None:
    """Write a GiB, where there is room for it."""
    with path.open("wb") as file:
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
    path.unlink()


PLACES = ("/tmp", "/dev/shm", "/dev/mqueue", "/var/holoscan", "/opt/holoscan", "/var/tmp", "/run")  # noqa: S108


ADDRESSES = ((socket.AF_UNIX, "\0left by a study"), (socket.AF_INET, ("127.0.0.1", 4711)))


def litter() -> None:
    """Leave a file in every folder that lets us, shared memory, and processes that try to outlive this one, one of them a server."""
    for place in PLACES:
        try:
            (Path(place) / "left by a study").write_text("left by a study")
            (Path(place) / "closed").mkdir()
            (Path(place) / "closed" / "deep").write_text("left by a study")
            (Path(place) / "closed").chmod(0)
        except OSError:
            continue
    ctypes.CDLL(None).shmget(4711, 4096, 0o1666)
    servers = [socket.socket(family) for family, _ in ADDRESSES]
    for server, (_, address) in zip(servers, ADDRESSES, strict=True):
        server.bind(address)
        server.listen()
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
            os._exit(0)
    subprocess.Popen(["sleep", "3600"], start_new_session=True)


def traces(source: Path, slices: list[Dataset]) -> list[str]:
    """What is there that a study alone in its container would not meet: names of files, processes, shared memory, servers."""
    found = [str(path) for place in PLACES for path in Path(place).rglob("*") if path.name in ("left by a study", "closed", "deep")]
    found += [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) not in (1, os.getpid())]
    found += Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    found += [path.name for path in source.rglob("*") if path.is_file()][len(slices) :]
    found += [str(path) for path in Path(os.environ["HOLOSCAN_OUTPUT_PATH"]).rglob("*")]
    for family, address in ADDRESSES:
        with socket.socket(family) as client:
            if client.connect_ex(address) == 0:
                found.append(f"a server at {address!r}")
    if os.getpid() != 1:
        for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/fd/0"):
            try:
                os.close(os.open(path, os.O_RDONLY))
                found.append(path)
            except OSError:
                continue
    return found


def read_series(folder: Path) -> list[Dataset]:
    """The MR instances below a folder that belong to the first series, sorted from feet to head."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            item = pydicom.dcmread(path)
        except InvalidDicomError:
            continue
        if item.get("Modality") == "MR" and "PixelData" in item:
            found.append(item)
    chosen = [item for item in found if item.SeriesInstanceUID == found[0].SeriesInstanceUID]
    return sorted(chosen, key=lambda item: float(item.ImagePositionPatient[2]))


def segmentation(slices: list[Dataset], mask: np.ndarray) -> Dataset:
    """A binary DICOM SEG (PS3.3 A.51) with one frame a slice."""
    first = slices[0]
    seg = Dataset()
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
        "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "SpecificCharacterSet",
    ):  # fmt: skip
        if keyword in first:
            seg[keyword] = first[keyword]
    seg.PositionReferenceIndicator = ""
    seg.SOPClassUID, seg.SOPInstanceUID = SegmentationStorage, generate_uid()
    seg.Modality, seg.SeriesInstanceUID, seg.SeriesNumber, seg.InstanceNumber = "SEG", generate_uid(), 900, 1
    seg.Manufacturer, seg.ManufacturerModelName = "monai-aws-pipeline tests", "tiny"
    seg.DeviceSerialNumber, seg.SoftwareVersions = "0", "0.1.0"
    seg.ContentDate, seg.ContentTime = time.strftime("%Y%m%d", time.gmtime()), time.strftime("%H%M%S", time.gmtime())
    seg.ContentLabel, seg.ContentDescription, seg.ContentCreatorName = "BRIGHT", "Bright voxels", "TINY^"
    seg.ImageType = ["DERIVED", "PRIMARY"]
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 1, 1, 0, 0
    seg.LossyImageCompression = "00"
    seg.SegmentationType = "BINARY"
    seg.Rows, seg.Columns, seg.NumberOfFrames = first.Rows, first.Columns, len(slices)

    dimensions = Dataset()
    dimensions.DimensionOrganizationUID = generate_uid()
    seg.DimensionOrganizationSequence = [dimensions]
    by_segment, by_position = Dataset(), Dataset()
    by_segment.DimensionIndexPointer, by_segment.FunctionalGroupPointer = 0x0062000B, 0x0062000A
    by_position.DimensionIndexPointer, by_position.FunctionalGroupPointer = 0x00200032, 0x00209113
    for index in (by_segment, by_position):
        index.DimensionOrganizationUID = dimensions.DimensionOrganizationUID
    seg.DimensionIndexSequence = [by_segment, by_position]

    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "Bright"
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "AUTOMATIC", "threshold"
    segment.SegmentedPropertyCategoryCodeSequence = [code("85756007", "Tissue")]
    segment.SegmentedPropertyTypeCodeSequence = [code("85756007", "Tissue")]
    seg.SegmentSequence = [segment]

    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ReferencedInstanceSequence = [reference(item) for item in slices]
    seg.ReferencedSeriesSequence = [series]

    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    measures.SpacingBetweenSlices = first.SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    seg.SharedFunctionalGroupsSequence = [shared]
    seg.PerFrameFunctionalGroupsSequence = [frame(item, place) for place, item in enumerate(slices, 1)]
    packed = np.packbits(mask.astype(np.uint8).ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)

    seg.file_meta = FileMetaDataset()
    seg.file_meta.MediaStorageSOPClassUID, seg.file_meta.MediaStorageSOPInstanceUID = SegmentationStorage, seg.SOPInstanceUID
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return seg


def frame(item: Dataset, place: int) -> Dataset:
    """The functional groups of one frame."""
    content, position, derivation, number, source, group = Dataset(), Dataset(), Dataset(), Dataset(), reference(item), Dataset()
    number.ReferencedSegmentNumber = 1
    group.SegmentIdentificationSequence = [number]
    content.DimensionIndexValues = [1, place]
    position.ImagePositionPatient = item.ImagePositionPatient
    source.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation", "DCM")]
    derivation.SourceImageSequence = [source]
    derivation.DerivationCodeSequence = [code("113076", "Segmentation", "DCM")]
    group.FrameContentSequence, group.PlanePositionSequence, group.DerivationImageSequence = [content], [position], [derivation]
    return group


def reference(item: Dataset) -> Dataset:
    """A reference to one source instance."""
    found = Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = item.SOPClassUID, item.SOPInstanceUID
    return found


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    """One coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def box_stl(slices: list[Dataset], mask: np.ndarray) -> bytes:
    """The bounding box of a mask as a closed binary STL in LPS millimetres; slices are axial."""
    where = np.argwhere(mask)
    first = slices[0]
    spacing = np.array([first.SliceThickness, *first.PixelSpacing], dtype=float)
    low, high = (where.min(0) - 0.5) * spacing, (where.max(0) + 0.5) * spacing
    origin = np.array(first.ImagePositionPatient, dtype=float)
    corners = np.array([[x, y, z] for z in (low[0], high[0]) for y in (low[1], high[1]) for x in (low[2], high[2])]) + origin
    quads = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
    faces = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    record = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["corners"] = corners[np.array(faces)]
    return b"unit: millimetre; coordinates: DICOM patient LPS".ljust(80) + np.uint32(len(faces)).tobytes() + record.tobytes()


if __name__ == "__main__":
    raise SystemExit(main())
