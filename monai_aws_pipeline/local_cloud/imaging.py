"""HealthImaging's API as boto3 knows it: data stores, import jobs, image sets, frames, tags, with AWS's states, codes and rates.

Here belong requests and answers; the data is ``imaging_store``'s, jobs run in ``imaging_jobs``, DICOMweb is answered by ``dicomweb``. A
data store is ACTIVE once it was described as CREATING: AWS takes a while to make one, and a test should not.
Sources: HealthImaging API Reference and Developer Guide; botocore's service model ``medical-imaging``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import unquote

from ministack.core import iam_actions, responses, router
from ministack.services.cloudformation import provisioners

from . import identity
from .config import ACCOUNT
from .faults import FaultBoard
from .imaging_files import frame_bytes
from .imaging_jobs import ImportJobs
from .imaging_metadata import image_set_metadata
from .imaging_store import ImageStore, Row
from .throttles import Throttles

Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
SERVICE: Final = "medical-imaging"
REGIONS: Final = ("us-east-1", "us-west-2", "ap-southeast-2", "eu-west-1", "eu-west-2")
STATUS: Final = {
    "AccessDeniedException": 403, "ConflictException": 409, "InternalServerException": 500, "NotAcceptableException": 406,
    "ResourceNotFoundException": 404, "ServiceQuotaExceededException": 402, "ThrottlingException": 429, "ValidationException": 400,
}  # fmt: skip
"""HTTP status by code, as the service model has it."""
_ID: Final = re.compile(r"[0-9a-z]{32}")
_S3_URI: Final = re.compile(r"s3://[a-z0-9][.\-a-z0-9]{1,61}[a-z0-9](/.*)?")
_PATH: Final = re.compile(r"/(?:\w+/)?datastore/(?P<datastore>[^/]+)(?:/(?:imageSet|job)/(?P<other>[^/]+))?(?:/\w+)?")
_SEARCHED: Final = {
    "DICOMPatientId": "PatientID", "DICOMAccessionNumber": "AccessionNumber", "DICOMStudyId": "StudyID",
    "DICOMStudyInstanceUID": "StudyInstanceUID", "DICOMSeriesInstanceUID": "SeriesInstanceUID",
}  # fmt: skip
_TAGS_SHOWN: Final = {
    **_SEARCHED, "DICOMPatientName": "PatientName", "DICOMPatientBirthDate": "PatientBirthDate", "DICOMPatientSex": "PatientSex",
    "DICOMStudyDescription": "StudyDescription", "DICOMSeriesModality": "Modality", "DICOMSeriesBodyPart": "BodyPartExamined",
    "DICOMSeriesNumber": "SeriesNumber", "DICOMStudyDate": "StudyDate", "DICOMStudyTime": "StudyTime",
}  # fmt: skip
_MOST: Final = 50


class RefusedCall(Exception):  # noqa: N818 - an answer, not what went wrong here
    """A call that is refused, with AWS's code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def datastore_arn(region: str, name: str) -> str:
    """ARN of a data store."""
    return f"arn:aws:{SERVICE}:{region}:{ACCOUNT}:datastore/{name}"


def resources(path: str, region: str) -> list[str]:
    """ARNs that a call is authorised on: the data store, and the image set where one is named; ``["*"]`` for calls on neither."""
    if path.startswith("/tags/"):
        return [unquote(path.removeprefix("/tags/"))]
    found = _PATH.fullmatch(path)
    if not found:
        return ["*"]
    store = datastore_arn(region, found["datastore"])
    return [store, f"{store}/imageset/{found['other']}"] if "/imageSet/" in path else [store]


class HealthImaging:
    """The API of one cloud."""

    def __init__(self, store: ImageStore, jobs: ImportJobs, faults: FaultBoard) -> None:
        self.store, self._jobs = store, jobs
        self.throttles = Throttles(lambda: faults.account.imaging_rate)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="imaging")
        self._operations: dict[str, Callable[[str, Json, str, str], Json | Answer]] = {
            "CreateDatastore": self._create_datastore,
            "GetDatastore": self._get_datastore,
            "ListDatastores": self._list_datastores,
            "DeleteDatastore": self._delete_datastore,
            "StartDICOMImportJob": self._start_job,
            "GetDICOMImportJob": self._get_job,
            "ListDICOMImportJobs": self._list_jobs,
            "SearchImageSets": self._search,
            "GetImageSet": self._get_image_set,
            "GetImageSetMetadata": self._get_metadata,
            "GetImageFrame": self._get_frame,
            "ListImageSetVersions": self._list_versions,
            "DeleteImageSet": self._delete_image_set,
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "ListTagsForResource": self._list_tags,
        }

    def install(self, handlers: dict[str, Any]) -> None:
        """Add the service, which ministack lacks."""
        router.SERVICE_PATTERNS[SERVICE] = {"credential_scope": SERVICE}
        iam_actions.SERVICE_TO_IAM_NAMESPACE[SERVICE] = SERVICE
        iam_actions._BOTOCORE_SERVICE_MAP[SERVICE] = [SERVICE]
        handlers[SERVICE] = self.handle
        provisioners._RESOURCE_HANDLERS["AWS::HealthImaging::Datastore"] = {"create": self._provide, "delete": self._withdraw}

    def _provide(self, _: str, properties: Json, stack: str) -> tuple[str, Json]:
        """Make a data store for a stack, which waits until it is active."""
        region, name = responses.get_region(), str(properties.get("DatastoreName", ""))
        made = self.store.create_datastore(region, name, f"{stack}-{uuid.uuid4()}", str(properties.get("KmsKeyArn", "")))["id"]
        self.store.set_status(made, "ACTIVE")
        arn = datastore_arn(region, made)
        self.store.tag(arn, properties.get("Tags") or {})
        return made, {"DatastoreId": made, "DatastoreArn": arn}

    def _withdraw(self, name: str, _: Json) -> None:
        """Remove a stack's data store. Raises ValueError, which CloudFormation shows, where it holds something."""
        if not self.store.is_empty(name):
            raise ValueError("ConflictException: Data store is not empty: delete its image sets first")
        self.store.set_status(name, "DELETED")

    def resume(self) -> None:
        """Go on with the import jobs that the end of the server cut short."""
        for job in self.store.unfinished_jobs():
            self._jobs.start(str(job["id"]))

    def tags_of(self, arn: str) -> dict[str, str]:
        """Tags of a resource of this service, none of any other."""
        return self.store.tags(arn) if arn.startswith(f"arn:aws:{SERVICE}:") else {}

    def check(self, region: str, action: str) -> None:
        """Raises RefusedCall in a region where AWS has no HealthImaging, or for one call too many."""
        if region not in REGIONS:
            raise RefusedCall("ResourceNotFoundException", f"HealthImaging is not in {region}: AWS has no such host.")
        if not self.throttles.allows(region, action):
            raise RefusedCall("ThrottlingException", "Rate exceeded")

    def active_datastore(self, region: str, name: str) -> Row:
        """A data store that takes and gives data. Raises RefusedCall."""
        found = self._datastore(region, name)
        if found["status"] != "ACTIVE":
            raise RefusedCall("ConflictException", f"Data store is {found['status']} and not ACTIVE")
        return found

    async def handle(self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Answer:
        """Answer a call."""
        action = iam_actions._match_rest_action(SERVICE, method, path, query) or ""
        region = router.extract_region(headers, query)

        def answer() -> Answer:
            identity.as_account()
            try:
                return self._answer(action, region, path, body, query)
            except RefusedCall as refused:
                return refusal(refused)

        return await asyncio.get_running_loop().run_in_executor(self._threads, answer)

    def _answer(self, action: str, region: str, path: str, body: bytes, query: Mapping[str, list[str]]) -> Answer:
        if action not in self._operations:
            raise RefusedCall("ValidationException", f"{action or 'This call'} is not emulated.")
        self.check(region, action)
        try:
            data = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise RefusedCall("ValidationException", "The body is no JSON object.")
        found = _PATH.fullmatch(path)
        names = (found["datastore"] or "", found["other"] or "") if found else ("", "")
        if path.startswith("/tags/"):
            names = (unquote(path.removeprefix("/tags/")), "")
        elif any(name and not _ID.fullmatch(name) for name in names):
            raise RefusedCall("ValidationException", "An identifier has 32 characters, 0-9 and a-z.")
        asked = {name: values if name == "tagKeys" else values[0] for name, values in query.items()}
        answered = self._operations[action](region, {**data, **asked}, *names)
        return answered if isinstance(answered, tuple) else responses.json_response(answered, content_type="application/json")

    # ------------------------------------------------------------------------------------------------------------------ data stores

    def _datastore(self, region: str, name: str) -> Row:
        found = self.store.datastore(region, name)
        if found is None:
            raise RefusedCall("ResourceNotFoundException", f"Data store {name} does not exist")
        return found

    def _create_datastore(self, region: str, data: Json, *_: str) -> Json:
        name = str(data.get("datastoreName", ""))
        if name and not re.fullmatch(r"[A-Za-z0-9._/#-]{1,256}", name):
            raise RefusedCall("ValidationException", "datastoreName has other characters than A-Z, a-z, 0-9 and ._/#-")
        storage = str(data.get("losslessStorageFormat", "HTJ2K"))
        made = self.store.create_datastore(region, name, str(data.get("clientToken", "")), str(data.get("kmsKeyArn", "")), storage)
        self.store.tag(datastore_arn(region, made["id"]), data.get("tags") or {})
        return {"datastoreId": made["id"], "datastoreStatus": made["status"]}

    def _summary(self, region: str, found: Row) -> Json:
        return {
            "datastoreId": found["id"],
            "datastoreName": found["name"],
            "datastoreStatus": found["status"],
            "datastoreArn": datastore_arn(region, found["id"]),
            "createdAt": found["created"],
            "updatedAt": found["updated"],
        }

    def _get_datastore(self, region: str, _: Json, name: str, *__: str) -> Json:
        found = self.store.describe(self._datastore(region, name))
        more = {"kmsKeyArn": found["kms"]} if found["kms"] else {}
        return {"datastoreProperties": {**self._summary(region, found), **more, "losslessStorageFormat": found["format"]}}

    def _list_datastores(self, region: str, data: Json, *_: str) -> Json:
        wanted = data.get("datastoreStatus")
        found = [self.store.describe(each) for each in self.store.datastores(region)]
        shown = [self._summary(region, each) for each in found if wanted in (None, each["status"])]
        return _page("datastoreSummaries", shown, data)

    def _delete_datastore(self, region: str, _: Json, name: str, *__: str) -> Json:
        found = self._datastore(region, name)
        if found["status"] not in ("ACTIVE", "DELETING"):
            raise RefusedCall("ConflictException", f"Data store is {found['status']} and not ACTIVE")
        if not self.store.is_empty(name):
            raise RefusedCall("ConflictException", "Data store is not empty: delete its image sets first")
        self.store.set_status(name, "DELETING")
        return {"datastoreId": name, "datastoreStatus": "DELETING"}

    # ------------------------------------------------------------------------------------------------------------------ import jobs

    def _start_job(self, region: str, data: Json, name: str, *_: str) -> Json:
        self.active_datastore(region, name)
        for field in ("inputS3Uri", "outputS3Uri"):
            if not _S3_URI.fullmatch(str(data.get(field, ""))):
                raise RefusedCall("ValidationException", f"{field} is no S3 URI")
        if data.get("importConfiguration"):
            raise RefusedCall("ValidationException", "importConfiguration is not emulated.")
        role = identity.role(str(data.get("dataAccessRoleArn", "")))
        if role is None or not identity.trusts(role, f"{SERVICE}.amazonaws.com"):
            raise RefusedCall("ValidationException", "HealthImaging cannot assume the role that dataAccessRoleArn names")
        kept: Json = {key: str(data[key]) for key in ("jobName", "dataAccessRoleArn", "inputS3Uri", "outputS3Uri") if key in data}
        kept["region"] = region
        job, is_new = self.store.create_job(name, str(data.get("clientToken", "")), kept)
        if is_new:
            self._jobs.start(str(job["id"]))
        return {"datastoreId": name, "jobId": job["id"], "jobStatus": job["status"], "submittedAt": job["submitted"]}

    @staticmethod
    def _job(found: Row) -> Json:
        properties = json.loads(found["properties"])
        properties.pop("region", None)
        return {**properties, "jobStatus": found["status"], "datastoreId": found["datastore"], "submittedAt": found["submitted"]}

    def _get_job(self, region: str, _: Json, name: str, job: str) -> Json:
        self._datastore(region, name)
        found = next((each for each in self.store.jobs(name) if each["id"] == job), None)
        if found is None:
            raise RefusedCall("ResourceNotFoundException", f"Import job {job} does not exist")
        return {"jobProperties": self._job(found)}

    def _list_jobs(self, region: str, data: Json, name: str, *_: str) -> Json:
        self._datastore(region, name)
        wanted = data.get("jobStatus")
        shown = [self._job(each) for each in self.store.jobs(name) if wanted in (None, each["status"])]
        for each in shown:
            each.pop("inputS3Uri"), each.pop("outputS3Uri")
        return _page("jobSummaries", shown, data)

    # ------------------------------------------------------------------------------------------------------------------- image sets

    def _image_set(self, region: str, datastore: str, name: str) -> Row:
        self._datastore(region, datastore)
        found = self.store.image_set(datastore, name)
        if found is None:
            raise RefusedCall("ResourceNotFoundException", f"Image set {name} does not exist")
        return found

    def _search(self, region: str, data: Json, name: str, *_: str) -> Json:
        self._datastore(region, name)
        filters, sort = data.get("filters") or [], data.get("sort") or {}
        if len(filters) > 2:
            raise RefusedCall("ValidationException", "At most two filters are taken")
        named = {key: str(value) for one in filters if len(one.get("values") or []) == 1 for key, value in one["values"][0].items()}
        sets = self.store.image_sets(name, named.get("DICOMStudyInstanceUID", ""), named.get("DICOMSeriesInstanceUID", ""))
        shown = [self._searched(each) for each in sets]
        shown = [each for each in shown if all(_matches(each, one) for one in filters)]
        if sort:
            field = sort.get("sortField", "updatedAt")
            key = _study_time if field == "DICOMStudyDateAndTime" else lambda each: each[field]
            shown.sort(key=key, reverse=sort.get("sortOrder") == "DESC")
        return {**_page("imageSetsMetadataSummaries", shown, data), **({"sort": sort} if sort else {})}

    def _searched(self, found: Row) -> Json:
        instances = self.store.instances(found["datastore"], image_set=found["id"])
        first = instances[0].attributes if instances else {}
        tags = {name: value for name, keyword in _TAGS_SHOWN.items() if (value := plain(first.get(keyword))) is not None}
        return {
            "imageSetId": found["id"],
            "version": found["version"],
            "createdAt": found["created"],
            "updatedAt": found["updated"],
            "storageTier": "FREQUENT_ACCESS",
            "isPrimary": bool(found["is_primary"]),
            "DICOMTags": {**tags, "DICOMNumberOfStudyRelatedInstances": len(instances)},
        }

    def _get_image_set(self, region: str, data: Json, datastore: str, name: str) -> Json:
        found = self._image_set(region, datastore, name)
        version, workflow = self._version(found, data)
        return {
            "datastoreId": datastore,
            "imageSetId": name,
            "versionId": str(version),
            "imageSetState": found["state"],
            "imageSetWorkflowStatus": workflow,
            "createdAt": found["created"],
            "updatedAt": found["updated"],
            **({"deletedAt": found["deleted"]} if found["deleted"] else {}),
            "imageSetArn": f"{datastore_arn(region, datastore)}/imageset/{name}",
            "isPrimary": bool(found["is_primary"]),
            "storageTier": "FREQUENT_ACCESS",
        }

    def _version(self, found: Row, data: Json) -> tuple[int, str]:
        """The version that is asked for, or the latest, and its workflow status."""
        if found["state"] == "DELETED":
            return int(found["version"]), "DELETED"
        wanted = str(data.get("version") or found["version"])
        for each in self.store.versions(found["id"]):
            if str(each["version"]) == wanted:
                return int(wanted), str(each["workflow"])
        raise RefusedCall("ResourceNotFoundException", f"Image set {found['id']} has no version {wanted}")

    def _get_metadata(self, region: str, data: Json, datastore: str, name: str) -> Answer:
        found = self._image_set(region, datastore, name)
        version, workflow = self._version(found, data)
        if workflow == "DELETED":
            raise RefusedCall("ResourceNotFoundException", f"Image set {name} does not exist")
        instances = self.store.instances(datastore, image_set=name, version=version)
        blob = image_set_metadata(datastore, name, instances)
        return 200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, blob

    def _get_frame(self, region: str, data: Json, datastore: str, name: str) -> Answer:
        self._image_set(region, datastore, name)
        wanted = str(data.get("imageFrameId") or "")
        for each in self.store.instances(datastore, image_set=name):
            for number, frame in enumerate(each.frames):
                if each.frame_id(number) == wanted:
                    return 200, {"Content-Type": "application/octet-stream"}, frame_bytes(each.file, frame)
        raise RefusedCall("ResourceNotFoundException", f"Image frame {wanted} does not exist")

    def _list_versions(self, region: str, data: Json, datastore: str, name: str) -> Json:
        found = self._image_set(region, datastore, name)
        shown = [
            {
                "imageSetId": name,
                "versionId": str(each["version"]),
                "imageSetState": "ACTIVE",
                "ImageSetWorkflowStatus": each["workflow"],
                "createdAt": found["created"],
                "updatedAt": each["updated"],
                "isPrimary": bool(found["is_primary"]),
            }
            for each in self.store.versions(name)
        ]
        return _page("imageSetPropertiesList", shown, data)

    def _delete_image_set(self, region: str, _: Json, datastore: str, name: str) -> Json:
        found = self._image_set(region, datastore, name)
        if found["state"] == "DELETED":
            raise RefusedCall("ConflictException", f"Image set {name} is deleted")
        self.store.delete_image_set(name)
        return {"datastoreId": datastore, "imageSetId": name, "imageSetState": "LOCKED", "imageSetWorkflowStatus": "DELETING"}

    # ------------------------------------------------------------------------------------------------------------------------- tags

    def _tagged(self, region: str, arn: str) -> str:
        found = re.fullmatch(rf"{re.escape(datastore_arn(region, ''))}([0-9a-z]{{32}})(?:/imageset/([0-9a-z]{{32}}))?", arn)
        if not found:
            raise RefusedCall("ValidationException", "resourceArn names no data store or image set here")
        self._image_set(region, found[1], found[2]) if found[2] else self._datastore(region, found[1])
        return arn

    def _tag(self, region: str, data: Json, arn: str, *_: str) -> Json:
        self.store.tag(self._tagged(region, arn), data.get("tags") or {})
        return {}

    def _untag(self, region: str, data: Json, arn: str, *_: str) -> Json:
        self.store.untag(self._tagged(region, arn), data.get("tagKeys") or [])
        return {}

    def _list_tags(self, region: str, _: Json, arn: str, *__: str) -> Json:
        return {"tags": self.store.tags(self._tagged(region, arn))}


def refusal(refused: RefusedCall) -> Answer:
    """A refused call as AWS sends it."""
    sent: Answer = responses.error_response_json(
        refused.code, refused.message, STATUS.get(refused.code, 400), content_type="application/json"
    )
    return sent


def plain(shown: Mapping[str, Any] | None) -> Any:
    """The one value of an attribute in DICOM JSON, a name as its letters; None where it has none."""
    value = next(iter((shown or {}).get("Value") or [None]))
    return value.get("Alphabetic", "") if isinstance(value, dict) else value


def _page(name: str, found: Sequence[Json], data: Json) -> Json:
    try:
        most = int(data.get("maxResults") or _MOST)
        start = int(base64.b64decode(str(data.get("nextToken", "")) or b"MA==", validate=True))
    except ValueError:
        raise RefusedCall("ValidationException", "maxResults or nextToken is not one of ours") from None
    if not 1 <= most <= _MOST or start < 0:
        raise RefusedCall("ValidationException", f"maxResults is between 1 and {_MOST}")
    more = {"nextToken": base64.b64encode(str(start + most).encode()).decode()} if start + most < len(found) else {}
    return {name: list(found[start : start + most]), **more}


def _study_time(found: Json) -> str:
    return f"{found['DICOMTags'].get('DICOMStudyDate', '')}{found['DICOMTags'].get('DICOMStudyTime', '')}"


def _matches(found: Json, asked: Json) -> bool:
    """Whether an image set is what one filter asks for."""
    values = [_compared(found, *next(iter(value.items()))) for value in asked.get("values") or []]
    if asked.get("operator") == "BETWEEN" and len(values) == 2:
        return bool(values[0][1] <= values[0][0] <= values[1][1])
    return any(is_value == wanted for is_value, wanted in values)


def _compared(found: Json, name: str, wanted: Any) -> tuple[Any, Any]:
    """(what an image set has, what is asked for) by the filter's name."""
    if name in _SEARCHED:
        return str(found["DICOMTags"].get(name, "")), str(wanted)
    if name == "DICOMStudyDateAndTime":
        return _study_time(found), f"{wanted.get('DICOMStudyDate', '')}{wanted.get('DICOMStudyTime', '')}"
    if name in ("createdAt", "updatedAt"):
        return found[name], float(wanted)
    return found.get(name), wanted
