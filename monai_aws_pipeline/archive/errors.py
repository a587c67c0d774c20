"""What keeps a study out of its archive, by what follows from it: wait and try again, or mend what the error names."""

from __future__ import annotations

from monai_aws_pipeline.errors import NamedError


class ArchiveError(NamedError):
    """Base of all. No text holds an identifier of a study, nor what an archive wrote about a patient."""


class ArchiveAwayError(ArchiveError):
    """The archive did not answer, was too busy, or broke; what was not stored yet can be tried again later, without harm."""

    remedy = "Nothing is lost: materialise archived_study for this study once the archive answers again."


class ArchiveAccessError(ArchiveError):
    """The archive does not let us in."""


class ArchiveRefusalError(ArchiveError):
    """The archive refuses requests as such: wrong address, wrong media type, too large."""


class ArchiveAnswerError(ArchiveError):
    """What answered is no DICOMweb archive, or says nothing that can be read."""

    remedy = "Check the archive's address: a proxy or a login page may answer in its place."


class ArchiveFileError(ArchiveError):
    """A file of the study is no DICOM file that can be read, so that nobody can say what the archive has of it."""

    remedy = "The original under processed/ is as it was received; leave the file out, or have the study sent again."
