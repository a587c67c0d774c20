"""What a MAP wrote: is it an answer to this study, and under which names of ours is it kept.

Here belongs judging and naming the output folder. An application's own file names are not carried along: they may hold anything. Each
name ends in eight digits of the content's SHA-256, so that two hosts that answer the same job can never overwrite each other's files.
The agent's own files (preview, measurements, log) have plain names; ``commit.py`` writes them so that the same holds for them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom

from monai_aws_pipeline.contract.outputs import DICOM, DICOM_SEG, LOG, MEASUREMENTS, MESH, OTHER, PREVIEW, SEGMENTATION, SOURCE
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import read_instance
from monai_aws_pipeline.host_agent.intake.unpack import looks_like_dicom
from monai_aws_pipeline.host_agent.results.mesh import check_meshes
from monai_aws_pipeline.host_agent.results.segmentation import SEGMENTATIONS, Segmentation, Source
from monai_aws_pipeline.host_agent.results.segmentation_check import check_segmentation

log = logging.getLogger(__name__)

_MESHES: Final = (".stl", ".obj", ".ply", ".glb", ".gltf", ".vtk", ".vtp")
_SUFFIXES: Final = frozenset(
    (
        *_MESHES, ".3mf", ".avi", ".bmp", ".bval", ".bvec", ".bz2", ".csv", ".dat", ".gif", ".gii", ".gz", ".h5", ".hdf5", ".hdr", ".htm",
        ".html", ".img", ".jpeg", ".jpg", ".json", ".log", ".mat", ".md", ".mgz", ".mha", ".mhd", ".mp4", ".nii", ".npy", ".npz", ".nrrd",
        ".parquet", ".pdf", ".pkl", ".png", ".pt", ".pth", ".raw", ".svg", ".tar", ".tfm", ".tif", ".tiff", ".tsv", ".txt", ".usdz",
        ".webp", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
    )
)  # fmt: skip
_FOLDERS: Final = {DICOM_SEG: "dicom/seg", DICOM: "dicom/instance", MESH: "mesh/mesh", OTHER: "other/file"}
_CONTENT_TYPES: Final = {
    ".dcm": "application/dicom",
    ".stl": "model/stl",
    ".png": "image/png",
    ".json": "application/json",
    ".log": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Produced:
    """One file to be kept: where it lies, its name under ``output/STUDY/JOB/``, kind, SHA-256 and size in bytes.

    ``held_against``: what it was judged by and lies on, as the record says it.
    """

    path: Path
    name: str
    kind: str
    sha256: str
    bytes: int
    held_against: str = ""

    @property
    def named_by_content(self) -> bool:
        """Whether no other content is ever stored under its name."""
        return self.kind not in (PREVIEW, MEASUREMENTS, LOG)

    @property
    def content_type(self) -> str:
        """The MIME type to store it with."""
        return _CONTENT_TYPES.get(Path(self.name).suffix, "application/octet-stream")


def collect(folder: Path, study_uid: str, source: Source | None = None) -> tuple[Produced, ...]:
    """Judge every file below ``folder``. Raises FailedError when there is none, or when one is no answer to the study.

    Each DICOM output must parse, be whole, carry the StudyInstanceUID of the input (PS3.3 C.7.2.1), as a derived object of that study does,
    and name no other patient. A segmentation must refer to ``source`` and lie on it, the instances that the application was given, where
    they are now; none: not judged. A mesh beside a segmentation must lie on that.
    """
    found, source = [], source or Source()
    patient = _patient(next((image.instance.path for image in source.images if image.instance.patient), None))
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise FailedError(Code.OUTPUT_UNSAFE, "The application wrote a link or a special file into its output.")
        if path.is_file():
            found.append((path, _kind(path, study_uid, patient)))
    if not found:
        raise FailedError(Code.NO_OUTPUT, "The application ended well and wrote no output.")
    held = _held_against(found, source)
    numbers: Counter[str] = Counter()
    produced = []
    for path, kind in found:
        numbers[kind] += 1
        digest = sha256_of(path)
        suffix = ".dcm" if kind in (DICOM, DICOM_SEG) else known_suffix(path)
        produced.append(
            Produced(path, f"{_FOLDERS[kind]}-{numbers[kind]}-{digest[:8]}{suffix}", kind, digest, path.stat().st_size, held.get(path, ""))
        )
    return tuple(produced)


def _held_against(found: Sequence[tuple[Path, str]], source: Source) -> dict[Path, str]:
    """What each file lies on, of those that were judged by it. Raises FailedError where one does not."""
    segmentations, meshes = ([path for path, kind in found if kind == wanted] for wanted in (DICOM_SEG, MESH))
    if not segmentations:
        return {}
    for path in segmentations if source.images else ():
        check_segmentation(path, source)
    held = dict.fromkeys(segmentations if source.grids() else (), SOURCE)  # a source without geometry has nothing to lie on
    read: list[Segmentation] = []
    for path in segmentations if meshes else ():
        try:
            read.append(source.segmentation(path))
        except Exception as error:  # a segmentation that cannot be measured is still one; a mesh of it is then nobody's to judge
            log.warning("meshes are not held against a segmentation that cannot be measured (%s)", type(error).__name__)
            return held
    return held | dict.fromkeys(check_meshes(meshes, read) if meshes else (), SEGMENTATION)


def made_here(path: Path, kind: str) -> Produced:
    """A file of the agent's own (preview, measurements, log), kept under its plain name."""
    return Produced(path, path.name, kind, sha256_of(path), path.stat().st_size)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kind(path: Path, study_uid: str, patient: str) -> str:
    with path.open("rb") as stream:
        is_dicom = looks_like_dicom(stream.read(132))
    if not is_dicom:
        if path.suffix.lower() in (".dcm", ".dicom"):
            raise FailedError(Code.OUTPUT_NOT_DICOM, "The application wrote a .dcm file that is not DICOM.")
        return MESH if path.suffix.lower() in _MESHES else OTHER
    try:
        written = read_instance(path)
    except RefusedError as error:
        raise FailedError(Code.OUTPUT_NOT_DICOM, f"The application wrote a file that is no whole DICOM object: {error.cause}") from error
    if written is None or not written.sop_class:
        raise FailedError(Code.OUTPUT_NOT_DICOM, "The application wrote a DICOM file that is no object of a study.")
    if written.study_uid != study_uid:
        raise FailedError(Code.OUTPUT_OTHER_STUDY, "The application wrote a DICOM object that belongs to another study than its input.")
    if patient.isascii() and patient and _patient(path) not in ("", patient):  # others may be written in another character set
        raise FailedError(Code.OUTPUT_OTHER_STUDY, "The application wrote a DICOM object that names another patient than its input.")
    return DICOM_SEG if written.sop_class in SEGMENTATIONS else DICOM


def _patient(path: Path | None) -> str:
    """The PatientID of an object; empty where it has none. Kept nowhere."""
    if path is None:
        return ""
    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID") or "").strip(" \0")
    except Exception as error:  # the walk over the file has found it whole; what pydicom still cannot read is nobody's answer
        raise FailedError(Code.OUTPUT_NOT_DICOM, "The header of a DICOM object cannot be read.") from error


def known_suffix(path: Path) -> str:
    """The ending of a file's name where it says of which type the file is; empty for any other, which may be a part of somebody's name."""
    suffix = path.suffix.lower()
    return suffix if suffix in _SUFFIXES else ""
