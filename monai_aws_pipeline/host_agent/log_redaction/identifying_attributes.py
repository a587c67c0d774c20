"""Which DICOM attributes identify a patient, a visit, whoever was at work and where: what is gathered of every instance.

Here belong the attributes, what kind of value each holds and the labels that it stands beside in a log; and ``Identifying``, what one
instance holds of them. What a log makes of their values is in ``identifier_forms.py``. Source: PS3.15 table E.1-1, its attributes of plain
text, of dates and times, and the free texts in which a name often stands. SpecificCharacterSet is gathered as well and identifies nothing.

Gathered on every level: the first, items of sequences (OtherPatientIDsSequence, RequestAttributesSequence, functional groups), private
elements whose explicit VR is a person's name, a date, a time or an age. Not reached: what stands in bytes that the walk does not open, as
a private element of VR UN or OB. A copy of a name in there is found in a log all the same, by its own attribute.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from pydicom.datadict import DicomDictionary, tag_for_keyword  # type: ignore[attr-defined]

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom_structure import Element, Gather


class Kind(StrEnum):
    """What a value is, which decides in which forms it is looked for."""

    PERSON = "person"
    NUMBER = "number"
    """A number or short name that was given to a patient, a visit, a request or a device."""
    TEXT = "text"
    DATE = "date"
    TIME = "time"
    MOMENT = "moment"
    AGE = "age"
    UID = "uid"
    CHARACTER_SET = "character set"


_BY_VR: Final = {"PN": Kind.PERSON, "DA": Kind.DATE, "TM": Kind.TIME, "DT": Kind.MOMENT, "AS": Kind.AGE}

_NUMBERS: Final = (
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "StationName", "DeviceSerialNumber", "DeviceID",
    "AdmissionID", "IssuerOfAdmissionID", "ServiceEpisodeID", "IssuerOfServiceEpisodeID", "RequestedProcedureID",
    "ScheduledProcedureStepID", "PerformedProcedureStepID", "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest", "MedicalRecordLocator", "InsurancePlanIdentification", "DetectorID", "PlateID", "CassetteID",
    "GantryID", "GeneratorID", "ScheduledStationName", "PerformedStationName", "ScheduledStationAETitle", "PerformedStationAETitle",
    "PatientTelephoneNumbers", "PersonTelephoneNumbers", "OrderCallbackPhoneNumber", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialSiteID", "UniqueDeviceIdentifier", "SpecimenIdentifier", "ContainerIdentifier",
    "StudyIDIssuer", "ResultsID", "InterpretationID", "ReferringPhysicianTelephoneNumbers", "StationAETitle", "ResultsIDIssuer",
    "InterpretationIDIssuer", "PlacerOrderNumberProcedure", "FillerOrderNumberProcedure", "SpecimenAccessionNumber", "SlideIdentifier",
    "BarcodeValue", "LabelText", "XRaySourceID", "ClinicalTrialProtocolID", "ClinicalTrialTimePointID", "ClinicalTrialSeriesID",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber", "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
)  # fmt: skip
_TEXTS: Final = (
    "PatientAddress", "PersonAddress", "PatientTelecomInformation", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
    "RequestingService", "CurrentPatientLocation", "PatientInstitutionResidence", "CountryOfResidence", "RegionOfResidence", "MilitaryRank",
    "BranchOfService", "Occupation", "EthnicGroup", "PatientReligiousPreference", "MedicalAlerts", "Allergies", "AdditionalPatientHistory",
    "PatientState", "SpecialNeeds", "PatientComments", "ImageComments", "FrameComments", "StudyComments", "AcquisitionComments",
    "StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription", "RequestedProcedureDescription",
    "RequestedProcedureComments", "ScheduledProcedureStepDescription", "CommentsOnTheScheduledProcedureStep",
    "CommentsOnThePerformedProcedureStep", "AdmittingDiagnosesDescription", "ReasonForStudy", "ReasonForTheRequestedProcedure",
    "ReasonForVisit", "ReasonForTheImagingServiceRequest", "ImagingServiceRequestComments", "VisitComments", "ServiceEpisodeDescription",
    "DerivationDescription", "IdentifyingComments", "InterpretationText", "ResultsComments", "Impressions", "ResponsibleOrganization",
    "PerformedLocation", "ScheduledProcedureStepLocation", "RequestedProcedureLocation", "OrderEntererLocation",
    "PatientTransportArrangements", "TextComments", "ClinicalTrialSiteName", "ClinicalTrialSponsorName", "ClinicalTrialProtocolName",
    "VerifyingOrganization", "DeviceDescription", "ContrastBolusAgent", "ReferringPhysicianAddress", "PersonTelecomInformation",
    "OrderCallbackTelecomInformation", "HumanPerformerOrganization", "PreMedication", "LocalNamespaceEntityID", "UniversalEntityID",
    "ModifyingSystem", "SourceOfPreviousValues", "ContributionDescription", "DischargeDiagnosisDescription",
    "ScheduledPatientInstitutionResidence", "DistributionAddress", "SpecimenShortDescription", "SpecimenDetailedDescription",
    "ContainerDescription", "TextValue", "UnformattedTextValue", "ClinicalTrialCoordinatingCenterName",
    "ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialTimePointDescription", "ClinicalTrialSeriesDescription",
)  # fmt: skip
_UIDS: Final = ("FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID", "ReferencedFrameOfReferenceUID", "DeviceUID")

_KEYWORDS: Final = {
    **dict.fromkeys(_NUMBERS, Kind.NUMBER),
    **dict.fromkeys(_TEXTS, Kind.TEXT),
    **dict.fromkeys(_UIDS, Kind.UID),
    "SpecificCharacterSet": Kind.CHARACTER_SET,
}
_BY_TAG: Final[dict[int, Kind]] = {
    **{tag: _BY_VR[vr] for tag, (vr, *_) in DicomDictionary.items() if vr in _BY_VR},
    **{tag: kind for keyword, kind in _KEYWORDS.items() if (tag := tag_for_keyword(keyword)) is not None},
}

GATHER: Final = Gather(frozenset(_BY_TAG), frozenset(vr.encode() for vr in _BY_VR))
"""What ``dicom_structure.read_structure`` gathers of a file."""

_ALSO_CALLED: Final = {
    "PatientName": ("patient", "name", "patname", "subject", "surname", "lastname", "firstname", "familyname", "givenname"),
    "PatientID": ("patient", "mrn", "pid", "patid", "patientnumber", "subject", "subjectid", "caseid", "case"),
    "AccessionNumber": ("accession", "accessionno", "acc", "accno"),
    "StationName": ("station",),
    "InstitutionName": ("institution", "hospital", "site"),
    "InstitutionalDepartmentName": ("department",),
    "DeviceSerialNumber": ("serialnumber", "serial"),
    "StudyDescription": ("description",),
    "SeriesDescription": ("description",),
    "ProtocolName": ("protocol",),
}
_MOMENTS: Final = frozenset({Kind.DATE, Kind.TIME, Kind.MOMENT})
_VALUES_AT_MOST: Final = 500_000
_BYTES_AT_MOST: Final = 16 << 20


def kind_of(tag: int, vr: str) -> Kind | None:
    """What an element's value is; ``vr`` as in the file, which alone tells of a private element. None where it identifies nothing."""
    return _BY_TAG.get(tag) or _BY_VR.get(vr)


def labels_of(tag: int) -> frozenset[str]:
    """What the attribute is called in a log, in lower case without anything between the words: keyword, name, tag, common short names."""
    found = {f"{tag:08x}"}
    if tag in DicomDictionary:
        _, _, name, _, keyword = DicomDictionary[tag]
        found |= {keyword.lower(), "".join(filter(str.isalnum, name)).lower(), *_ALSO_CALLED.get(keyword, ())}
    return frozenset(found)


class Identifying(NamedTuple):
    """What one instance holds: values that the instances of a study mostly share, and dates and times, which are mostly its own."""

    values: tuple[Element, ...] = ()
    moments: tuple[Element, ...] = ()

    def __repr__(self) -> str:
        return f"Identifying({len(self.values)} values, {len(self.moments)} moments)"


class Pool:
    """One object for equal values of many instances, so that 50,000 instances of one study take no more memory than they differ.

    It lives as long as the reading of one upload. Raises RefusedError where the upload holds more than any study does.
    """

    def __init__(self) -> None:
        self._elements: dict[Element, Element] = {}
        self._tuples: dict[tuple[Element, ...], tuple[Element, ...]] = {}
        self._bytes = 0

    def of(self, elements: Iterable[Element]) -> Identifying:
        """What an instance holds, in a stable order."""
        values: list[Element] = []
        moments: list[Element] = []
        for element in sorted(elements):
            tag, vr, _ = element
            (moments if kind_of(tag, vr) in _MOMENTS else values).append(self._shared(element))
        return Identifying(self._tuple(values), self._tuple(moments))

    def _shared(self, element: Element) -> Element:
        known = self._elements.setdefault(element, element)
        if known is element:
            self._bytes += len(element[2])
            if len(self._elements) > _VALUES_AT_MOST or self._bytes > _BYTES_AT_MOST:
                raise RefusedError(Code.DICOM_TOO_COMPLEX, "The upload holds more different names, numbers and dates than any study does.")
        return known

    def _tuple(self, elements: list[Element]) -> tuple[Element, ...]:
        made = tuple(elements)
        return self._tuples.setdefault(made, made)
