"""Why a job was not answered: one code for each reason, with its cause in the case at hand and the remedy for whoever reads it.

Here belong codes and the exceptions that carry them. No text here or raised with these names a file, a key or a person: the causes
are written into records, logs and the lineage.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from monai_aws_pipeline.errors import NamedError


class Code(StrEnum):
    """Every way a job can end without a result."""

    # refused at first sight: the upload itself is wrong, and trying again cannot help
    EMPTY_UPLOAD = "empty_upload"
    UPLOAD_TOO_LARGE = "upload_too_large"
    UPLOAD_REPLACED = "upload_replaced"
    UPLOAD_MISSING = "upload_missing"
    UPLOAD_TYPE = "upload_type"
    BAD_REQUEST = "bad_request"
    NOT_A_ZIP = "not_a_zip"
    ZIP_TRUNCATED = "zip_truncated"
    ZIP_DAMAGED = "zip_damaged"
    ZIP_SPLIT = "zip_split"
    ZIP_ENCRYPTED = "zip_encrypted"
    ZIP_COMPRESSION = "zip_compression"
    ZIP_UNSAFE_NAME = "zip_unsafe_name"
    ZIP_LINK = "zip_link"
    ZIP_TOO_MANY_FILES = "zip_too_many_files"
    ZIP_TOO_LARGE = "zip_too_large"
    ZIP_RATIO = "zip_ratio"
    ZIP_OVERLAP = "zip_overlap"
    ZIP_NESTED = "zip_nested"
    UNPACK_TIME = "unpack_time"
    NO_DICOM = "no_dicom"
    DICOM_HEADLESS = "dicom_headless"
    DICOM_DAMAGED = "dicom_damaged"
    DICOM_TRUNCATED = "dicom_truncated"
    DICOM_TOO_COMPLEX = "dicom_too_complex"
    DICOM_TOO_LARGE = "dicom_too_large"
    DICOM_INCOMPLETE = "dicom_incomplete"
    DICOM_BAD_UID = "dicom_bad_uid"
    INSTANCE_CONFLICT = "instance_conflict"
    STUDY_MIXED = "study_mixed"
    NO_MATCHING_SERIES = "no_matching_series"
    AMBIGUOUS_SERIES = "ambiguous_series"
    NO_IMAGES = "no_images"
    NO_GEOMETRY = "no_geometry"
    IRREGULAR_VOLUME = "irregular_volume"
    MIXED_SERIES = "mixed_series"
    GANTRY_TILT = "gantry_tilt"
    UNSUPPORTED_IMAGE = "unsupported_image"
    TRANSFER_SYNTAX = "transfer_syntax"
    # the MAP did not answer
    MAP_FAILED = "map_failed"
    MAP_TIMEOUT = "map_timeout"
    MAP_OUT_OF_MEMORY = "map_out_of_memory"
    MAP_MANIFEST = "map_manifest"
    NO_OUTPUT = "no_output"
    OUTPUT_UNSAFE = "output_unsafe"
    OUTPUT_NOT_DICOM = "output_not_dicom"
    OUTPUT_OTHER_STUDY = "output_other_study"
    OUTPUT_GEOMETRY = "output_geometry"
    # this host or its surroundings
    NO_LIVE_MAP = "no_live_map"
    PULL_FAILED = "pull_failed"
    ENGINE_FAILED = "engine_failed"
    STORAGE_FAILED = "storage_failed"
    DISK_FULL = "disk_full"
    GOLDEN_MISSING = "golden_missing"
    INTERNAL = "internal"


_LOG: Final = "the application's log (monai-aws get JOB, or map.log under quarantine/JOB/)"
"""Where it is, from wherever a remedy is read: a terminal, a page, a file, a table in Dagster that longer words would push out of sight."""

REMEDIES: Final[dict[Code, str]] = {
    Code.EMPTY_UPLOAD: "Upload the study again; the file arrived with no content.",
    Code.UPLOAD_TOO_LARGE: "Upload one study at a time, or raise MONAI_AWS_UPLOAD_MAX_MIB.",
    Code.UPLOAD_REPLACED: (
        "Nothing to do if the newer upload of that name was meant: it has its own result. If the older was, upload it under another name."
    ),
    Code.UPLOAD_MISSING: "Upload the study again under another name; it was removed before it could be read.",
    Code.UPLOAD_TYPE: "Upload a .zip, or a folder followed by its _READY marker.",
    Code.BAD_REQUEST: "Ask for the re-run again from the lineage; it names a kept original, a study of it, and a MAP digest.",
    Code.NOT_A_ZIP: "Zip the DICOM files of one study and upload the .zip.",
    Code.ZIP_TRUNCATED: "Upload the file again; the end of the zip is missing.",
    Code.ZIP_DAMAGED: "Create the zip again and check it with `unzip -t` before uploading.",
    Code.ZIP_SPLIT: "Create one zip in one piece; a zip that was split into parts (.z01, .zip.001) is not put together here.",
    Code.ZIP_ENCRYPTED: "Create the zip without a password; the bucket encrypts it at rest.",
    Code.ZIP_COMPRESSION: "Create the zip with one of the usual methods, stored or deflate.",
    Code.ZIP_UNSAFE_NAME: "Create the zip with plain relative names inside one folder.",
    Code.ZIP_LINK: "Create the zip from plain files, without links or devices (`zip -r` follows links by default).",
    Code.ZIP_TOO_MANY_FILES: "Upload one study at a time, or raise MONAI_AWS_UPLOAD_MAX_FILES.",
    Code.ZIP_TOO_LARGE: "Upload one study at a time, raise MONAI_AWS_UNPACKED_MAX_MIB, or use a larger root volume.",
    Code.ZIP_RATIO: "Create the zip from the plain DICOM files; this one unpacks far too large (MONAI_AWS_UNPACK_MAX_RATIO).",
    Code.ZIP_OVERLAP: "Create the zip again; entries of this one share their bytes, which no zip program does.",
    Code.ZIP_NESTED: "Put the DICOM files into one zip; zips inside a zip are opened down to MONAI_AWS_UNPACK_MAX_DEPTH levels.",
    Code.UNPACK_TIME: "Upload one study at a time, or raise MONAI_AWS_UNPACK_MAX_SECONDS.",
    Code.NO_DICOM: "Upload DICOM files with the 128-byte preamble (PS3.10); pictures, texts and a DICOMDIR alone are no study.",
    Code.DICOM_HEADLESS: "Export the study again as DICOM files (PS3.10); one lacks its preamble, and applications would pass over it.",
    Code.DICOM_DAMAGED: "Export the study again; an incomplete study is not inferred, because its result could mislead.",
    Code.DICOM_TRUNCATED: "Export or transfer the study again; a file ends too early, and half a study could mislead.",
    Code.DICOM_TOO_COMPLEX: "Export the study again without private elements; no image nests or counts its elements like this.",
    Code.DICOM_TOO_LARGE: "Export the study again uncompressed; a file claims far more pixels than it can hold.",
    Code.DICOM_INCOMPLETE: "Export the study again with StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID in each file.",
    Code.DICOM_BAD_UID: "Export the study again; an identifier is not made of digits and dots (PS3.5 section 9).",
    Code.INSTANCE_CONFLICT: "Export the study again; two files claim one SOPInstanceUID with different content.",
    Code.STUDY_MIXED: "Export each study by itself; results must not mix two patients or two studies.",
    Code.NO_MATCHING_SERIES: "Send a study that the application is made for, or correct its series rules and build it again.",
    Code.AMBIGUOUS_SERIES: "Send only the series that is meant, or make the application's series rules tell them apart and build it again.",
    Code.NO_IMAGES: "Send the study with its images; reports, segmentations and raw data alone are not inferred.",
    Code.NO_GEOMETRY: "Send the original images; no series tells where its planes lie, and the application needs a volume.",
    Code.IRREGULAR_VOLUME: "Send the complete series; planes are missing or do not fit together, and the application needs a volume.",
    Code.MIXED_SERIES: (
        "Send one stack of images a series, or let the application say which it wants (app.yaml, monai-aws: {stack: {ATTRIBUTE: VALUE}})."
    ),
    Code.GANTRY_TILT: "Send the series resampled to straight planes, or use an application that handles gantry-tilt (app.yaml).",
    Code.UNSUPPORTED_IMAGE: "Send images of another kind, or use an application whose app.yaml says that it handles these.",
    Code.TRANSFER_SYNTAX: "Send the study uncompressed, or add a decoder for this syntax to the application's requirements.",
    Code.MAP_FAILED: f"Read {_LOG}; it ended this study with an error.",
    Code.MAP_TIMEOUT: f"Read {_LOG}; raise MONAI_AWS_MAP_TIMEOUT_S or use a larger instance type.",
    Code.MAP_OUT_OF_MEMORY: "Raise MONAI_AWS_MAP_MEMORY_MIB or use a larger instance type.",
    Code.MAP_MANIFEST: "Rebuild the MAP; its app.json cannot be used to run it.",
    Code.NO_OUTPUT: f"Read {_LOG}; often no series of the study matches its selection rules.",
    Code.OUTPUT_UNSAFE: "Let the application write plain files only.",
    Code.OUTPUT_NOT_DICOM: "Let the application write valid DICOM (PS3.10) into its .dcm files.",
    Code.OUTPUT_OTHER_STUDY: "Let the application copy StudyInstanceUID and PatientID from its input.",
    Code.OUTPUT_GEOMETRY: (
        "Let the application take frame of reference, orientation, spacing and positions from the whole series it segmented, refer to all "
        "of its images, and write surfaces in patient millimetres (LPS or RAS)."
    ),
    Code.NO_LIVE_MAP: "Materialise map_image; no MAP was published for this deployment yet.",
    Code.PULL_FAILED: "Check that the host may read the repository and that it has the digest; then: monai-aws upload --again.",
    Code.ENGINE_FAILED: "Look at the container engine on the host (`systemctl status docker`); then: monai-aws upload --again.",
    Code.STORAGE_FAILED: "Check the bucket and the host's role; then: monai-aws upload --again.",
    Code.DISK_FULL: (
        "Set MONAI_AWS_ROOT_VOLUME_GIB higher and materialise inference_host, which makes the hosts anew; then: monai-aws upload --again."
    ),
    Code.GOLDEN_MISSING: "Materialise map_image again: it puts the golden study of an image into the bucket.",
    Code.INTERNAL: "Report this with the agent's log; then: monai-aws upload --again.",
}


FINAL: Final = frozenset(
    {Code.NO_OUTPUT, Code.OUTPUT_UNSAFE, Code.OUTPUT_NOT_DICOM, Code.OUTPUT_OTHER_STUDY, Code.OUTPUT_GEOMETRY, Code.MAP_MANIFEST}
)
"""The same MAP ends the same study like this each time, so it is not asked again."""


class JobError(NamedError):
    """A job that ends without a result. ``cause`` says what was found, never in which file of whom.

    ``last_line``: what the application said last, without identifiers. ``final``: trying again would end the same way.
    """

    def __init__(self, code: Code, cause: str, *, last_line: str = "", final: bool | None = None):
        super().__init__(cause, REMEDIES[code])
        self.code = code
        self.last_line = last_line
        self.final = code in FINAL if final is None else final

    def __str__(self) -> str:
        return f"{self.code}: {self.cause}"

    @property
    def message(self) -> str:
        """Cause and remedy in one line, as the result record has it."""
        return f"{self.cause} {self.remedy}"


class RefusedError(JobError):
    """The upload is wrong: refused at its first receipt, without retry."""


class FailedError(JobError):
    """Tried and did not work: given back to the queue until its last receipt, unless it is ``final``."""


class InterruptedJobError(Exception):
    """The agent was told to stop while a job ran; the message goes back to the queue and no try is counted where that is possible."""
