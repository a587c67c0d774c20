"""The part of the register about HealthImaging, and how the archive adapter lives through it."""

from __future__ import annotations

from tests.fidelity.behaviour import Behaviour

GUIDE = "HealthImaging Developer Guide"

IMAGING = (
    Behaviour(
        "imaging-hidden",
        "what contradicts the primary image sets of its study in one of seven attributes is stored, and no search or retrieval shows it",
        "found before it is stored, by attribute; corrected in a copy where that is safe; the record says what is hidden",
        f"{GUIDE}, Understanding image sets",
    ),
    Behaviour(
        "imaging-by-instance",
        "STOW-RS answers for each instance: 200, 202 where some were refused, 409 where all were",
        "the record counts stored and refused by series and code; what an answer leaves out is no success",
        "DICOM PS3.18 10.5.3; " + f"{GUIDE}, Storing instances with STOW-RS",
    ),
    Behaviour(
        "imaging-again",
        "an instance that is stored again makes a new version of its set, and both stay stored",
        "what is there, hidden or not, is looked for first, and is not sent",
        f"{GUIDE}, Understanding import jobs",
    ),
    Behaviour(
        "imaging-rates",
        "calls are limited by action, DeleteImageSet to one in four seconds: `ThrottlingException`, HTTP 429",
        "tried again with growing pauses, then named",
        f"{GUIDE}, Throttling limits",
    ),
    Behaviour(
        "imaging-not-consistent-yet",
        "two imports of one set at once: `ConflictException`, HTTP 409, which passes",
        "told from a 409 that refuses instances, and tried again",
        "HealthImaging API Reference, Common errors",
    ),
    Behaviour(
        "imaging-binary-seg",
        "a binary segmentation is taken in Explicit VR Little Endian; pages contradict each other, so nothing else is",
        "a refused segmentation is named by its code; the copy in S3 is the one that counts",
        f"{GUIDE}, DICOM support; Release notes of November 2024",
    ),
    Behaviour(
        "imaging-request-size",
        "a request to store holds at most 1 GB",
        "requests are bounded by bytes and instances, and are read from disk while they are sent",
        f"{GUIDE}, Storing instances with STOW-RS",
    ),
    Behaviour(
        "imaging-permissions",
        "each call of DICOMweb needs its own action on the data store, with conditions on study and series",
        "four actions are enough to archive; a missing one is named",
        "Service Authorization Reference, AWS HealthImaging",
    ),
    Behaviour(
        "imaging-not-empty",
        "a data store goes only when no image set is left in it: `ConflictException`",
        "all image sets of a study are listed, hidden ones too, so that they can be removed",
        "HealthImaging API Reference, DeleteDatastore",
    ),
)

NOT_IMITATED_OF_IMAGING = (
    ("HealthImaging transcodes nothing to HTJ2K or from it: frames and instances come back as they were stored", "no encoder is at hand"),
    ("CopyImageSet, UpdateImageSetMetadata, export, bulk data, imports of DICOM JSON, OpenID tokens", "nothing here uses them"),
    ("Bodies that are signed in chunks (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`)", "a body is signed as a whole here"),
    ("Regions without HealthImaging answer, and say so", "AWS has no such host there"),
    ("A data store is active once it was described; a deleted image set is gone at once", "a test need not wait"),
)
