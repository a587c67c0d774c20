"""The embedded HealthImaging by boto3 and by DICOMweb: data stores, storing, hidden sets, import jobs, permissions, rates."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.imaging_files import read_instance
from tests.integration.local_cloud.conftest import Account, eventually, unique
from tests.integration.local_cloud.dicomweb_client import DicomWebClient
from tests.unit.local_cloud.dicom import write, write_binary_seg

pytestmark = pytest.mark.cloud
ACCOUNT = "123456789012"
NO_PREFIX = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})


def imaging(account: Account, keys: tuple[str, str, str | None] | None = None, region: str = "us-east-1") -> Any:
    access, secret, token = keys or (*account.admin_keys(), None)
    session = boto3.Session(aws_access_key_id=access, aws_secret_access_key=secret, aws_session_token=token, region_name=region)
    return session.client("medical-imaging", endpoint_url=account.cloud.endpoint, config=NO_PREFIX)


@pytest.fixture(autouse=True)
def as_often_as_wanted(local_cloud: LocalCloud) -> Iterator[None]:
    local_cloud.order_fault(account={"imaging_rate": 1000})
    yield
    local_cloud.clear_faults()


@pytest.fixture
def datastore(account: Account) -> str:
    return new_datastore(account)


def new_datastore(account: Account, region: str = "us-east-1", **options: Any) -> str:
    client = imaging(account, region=region)
    made = client.create_datastore(datastoreName=unique("store"), **options)
    assert made["datastoreStatus"] == "CREATING"
    eventually(lambda: client.get_datastore(datastoreId=made["datastoreId"])["datastoreProperties"]["datastoreStatus"] == "ACTIVE")
    return str(made["datastoreId"])


@pytest.fixture
def web(account: Account, datastore: str) -> DicomWebClient:
    return DicomWebClient(account, datastore)


def refused(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


# ------------------------------------------------------------------------------------------------------------------------ data stores


def test_a_data_store_takes_nothing_before_it_is_active_and_goes_only_when_it_is_empty(account: Account, tmp_path: Path):
    client = imaging(account)
    made = client.create_datastore(datastoreName="early")["datastoreId"]
    web = DicomWebClient(account, made)
    assert web.store(write(tmp_path / "a.dcm")).status == 409
    assert [client.get_datastore(datastoreId=made)["datastoreProperties"]["datastoreStatus"] for _ in range(2)] == ["CREATING", "ACTIVE"]
    assert web.store(tmp_path / "a.dcm").status == 200
    with pytest.raises(ClientError) as error:
        client.delete_datastore(datastoreId=made)
    assert refused(error) == ("ConflictException", 409)
    (found,) = client.search_image_sets(datastoreId=made)["imageSetsMetadataSummaries"]
    gone = client.delete_image_set(datastoreId=made, imageSetId=found["imageSetId"])
    assert (gone["imageSetState"], gone["imageSetWorkflowStatus"]) == ("LOCKED", "DELETING")
    assert client.get_image_set(datastoreId=made, imageSetId=found["imageSetId"])["imageSetState"] == "DELETED"
    assert client.delete_datastore(datastoreId=made)["datastoreStatus"] == "DELETING"
    assert made not in [each["datastoreId"] for each in client.list_datastores(datastoreStatus="ACTIVE")["datastoreSummaries"]]


@pytest.mark.parametrize("name", ["f" * 32, "0" * 31 + "z"])
def test_what_does_not_exist_is_said_to_be_not_there(account: Account, name: str):
    client = imaging(account)
    for call in (client.get_datastore, client.delete_datastore, client.list_dicom_import_jobs, client.search_image_sets):
        with pytest.raises(ClientError) as error:
            call(datastoreId=name)
        assert refused(error) == ("ResourceNotFoundException", 404)


def test_tags_are_kept_and_a_region_knows_its_own(account: Account):
    other = new_datastore(account, "eu-west-1", tags={"monai-aws:deployment": "dev"})
    client = imaging(account, region="eu-west-1")
    arn = client.get_datastore(datastoreId=other)["datastoreProperties"]["datastoreArn"]
    client.tag_resource(resourceArn=arn, tags={"more": "x"})
    client.untag_resource(resourceArn=arn, tagKeys=["more"])
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"monai-aws:deployment": "dev"}
    with pytest.raises(ClientError) as error:
        imaging(account).get_datastore(datastoreId=other)
    assert refused(error)[1] == 404
    with pytest.raises(ClientError, match="AWS has no such host"):
        imaging(account, region="eu-central-1").list_datastores()


def test_a_stack_makes_a_data_store_that_can_be_used_at_once_and_keeps_one_that_holds_something(account: Account, tmp_path: Path):
    cloudformation, name = account.client("cloudformation"), unique("stack")
    store = {"Type": "AWS::HealthImaging::Datastore", "Properties": {"DatastoreName": name, "Tags": {"monai-aws:deployment": "dev"}}}
    template = {
        "Resources": {"Store": store},
        "Outputs": {"Id": {"Value": {"Ref": "Store"}}, "Arn": {"Value": {"Fn::GetAtt": ["Store", "DatastoreArn"]}}},
    }
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    ask = lambda: cloudformation.describe_stacks(StackName=name)["Stacks"][0]  # noqa: E731
    eventually(lambda: ask()["StackStatus"] == "CREATE_COMPLETE")
    outputs = {each["OutputKey"]: each["OutputValue"] for each in ask()["Outputs"]}
    assert outputs["Arn"].endswith(f"datastore/{outputs['Id']}")
    assert imaging(account).list_tags_for_resource(resourceArn=outputs["Arn"])["tags"] == {"monai-aws:deployment": "dev"}
    web = DicomWebClient(account, outputs["Id"])
    assert web.store(write(tmp_path / "a.dcm")).status == 200
    cloudformation.delete_stack(StackName=name)
    eventually(lambda: ask()["StackStatus"] == "DELETE_FAILED")
    assert len(web.found("/studies")) == 1


def test_an_sdk_that_knows_the_environment_alone_reaches_every_call(cloud_environment: LocalCloud, datastore: str):
    assert boto3.client("medical-imaging").search_image_sets(datastoreId=datastore)["imageSetsMetadataSummaries"] == []


# ------------------------------------------------------------------------------------------------------------------------------ store


def test_a_study_and_its_segmentation_are_stored_found_and_given_back(account: Account, web: DicomWebClient, tmp_path: Path):
    images = [write(tmp_path / f"{number}.dcm", SOPInstanceUID=f"1.2.3.1.{number}", InstanceNumber=number) for number in (1, 2, 3)]
    seg = write_binary_seg(tmp_path / "seg.dcm", SOPInstanceUID="1.2.3.2.1")
    answered = web.store(*images, seg)
    assert answered.status == 200
    assert [item["00081155"]["Value"][0] for item in answered.json["00081199"]["Value"]] == [
        "1.2.3.1.1",
        "1.2.3.1.2",
        "1.2.3.1.3",
        "1.2.3.2.1",
    ]
    assert "00081198" not in answered.json
    (study,) = web.found("/studies?StudyInstanceUID=1.2.3")
    assert (study["00201206"]["Value"], study["00201208"]["Value"]) == ([2], [4])
    assert sorted(study["00080061"]["Value"]) == ["MR", "SEG"]
    assert [each["0020000E"]["Value"] for each in web.found("/studies/1.2.3/series?Modality=SEG")] == [["1.2.3.2"]]
    asked = "/studies/1.2.3/series/1.2.3.1/instances?SOPInstanceUID=1.2.3.1.1,1.2.3.1.3,9.9"
    assert [each["00080018"]["Value"] for each in web.found(asked)] == [["1.2.3.1.1"], ["1.2.3.1.3"]]
    given = web.call("GET", "/studies/1.2.3/series/1.2.3.1/instances/1.2.3.1.2", accept="application/dicom; transfer-syntax=*")
    assert given.body == images[1].read_bytes()
    metadata = web.found("/studies/1.2.3/series/1.2.3.2/metadata")
    assert (metadata[0]["00080060"]["Value"], "7FE00010" in metadata[0]) == (["SEG"], False)
    frames = web.call("GET", "/studies/1.2.3/series/1.2.3.2/instances/1.2.3.2.1/frames/1,3")
    assert (frames.status, frames.body.count(b"Content-Type: application/octet-stream")) == (200, 2)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID=INV-1", 1),
        ("00100020=INV-2", 0),
        ("PatientName=invented*", 1),
        ("StudyDate=20191231-20200101", 1),
        ("StudyDate=20200102-", 0),
        ("AccessionNumber=A?", 1),
        ("AccessionNumber=a1", 0),
        ("ModalitiesInStudy=MR&limit=1&includefield=all", 1),
        ("offset=1", 0),
    ],
)
def test_studies_are_searched_by_the_usual_keys(web: DicomWebClient, tmp_path: Path, query: str, expected: int):
    web.store(write(tmp_path / "a.dcm"))
    assert len(web.found(f"/studies?{query}")) == expected
    assert [web.call("GET", f"/studies?{asked}").status for asked in ("PixelSpacing=1", "limit=x", "offset=-1")] == [400, 400, 400]


def test_each_instance_is_answered_for_itself(web: DicomWebClient, tmp_path: Path):
    good, cut = write(tmp_path / "a.dcm", SOPInstanceUID="1.1"), tmp_path / "cut.dcm"
    cut.write_bytes(write(tmp_path / "b.dcm", SOPInstanceUID="1.2").read_bytes()[:-4])
    (tmp_path / "text").write_bytes(b"no DICOM")
    odd = write(tmp_path / "c.dcm", SOPInstanceUID="1.3", Rows=5)
    answered = web.store(good, cut, tmp_path / "text", odd)
    assert answered.status == 202
    referenced, failed = (answered.json[tag]["Value"] for tag in ("00081199", "00081198"))
    assert [each["00081155"]["Value"][0] for each in referenced] == ["1.1", "1.3"]
    assert ([each["00081155"]["Value"][0] for each in failed], failed[0]["00081197"]["Value"]) == (["1.2"], [0xC000])
    assert referenced[1]["00081196"]["Value"] == [0xB110]
    assert [each["00081197"]["Value"][0] for each in answered.json["0008119A"]["Value"]] == [0xC000]
    nothing = web.store(cut)
    assert (nothing.status, "00081199" in nothing.json) == (409, False)


def test_an_instance_of_another_study_than_the_path_names_is_refused(web: DicomWebClient, tmp_path: Path):
    answered = web.store(write(tmp_path / "a.dcm"), study="1.2.4")
    assert (answered.status, answered.json["00081198"]["Value"][0]["00081197"]["Value"]) == (409, [0xA900])
    assert web.store(tmp_path / "a.dcm", study="1.2.3").status == 200


def test_what_is_no_message_of_dicom_files_is_refused_as_a_whole(web: DicomWebClient, tmp_path: Path):
    path = write(tmp_path / "a.dcm")
    assert web.call("POST", "/studies", b"x", content_type="application/json").status == 415
    assert (
        web.call("POST", "/studies", b"--mark\r\n\r\nx", content_type='multipart/related; type="application/dicom"; boundary=mark').status
        == 400
    )
    assert web.call("POST", "/studies", path.read_bytes(), content_type="application/dicom").status == 200
    assert web.call("POST", "/elsewhere", b"").status in (400, 403, 404)


def test_a_result_that_contradicts_its_study_is_stored_and_hidden(account: Account, web: DicomWebClient, tmp_path: Path):
    web.store(write(tmp_path / "a.dcm"))
    hidden = write_binary_seg(tmp_path / "seg.dcm", SOPInstanceUID="1.9", AccessionNumber="")
    assert web.store(hidden).status == 200
    assert web.found("/studies/1.2.3/series?Modality=SEG") == []
    place = "/studies/1.2.3/series/1.2.3.2/instances/1.9"
    assert web.call("GET", place).status == 404
    filters = [{"values": [{"DICOMSeriesInstanceUID": "1.2.3.2"}], "operator": "EQUAL"}]
    (found,) = imaging(account).search_image_sets(datastoreId=web.datastore, searchCriteria={"filters": filters})[
        "imageSetsMetadataSummaries"
    ]
    assert (found["isPrimary"], found["DICOMTags"]["DICOMStudyInstanceUID"]) == (False, "1.2.3")
    assert web.call("GET", f"{place}?imageSetId={found['imageSetId']}").body == hidden.read_bytes()


def test_storing_again_makes_a_version_whose_frames_and_metadata_are_read(account: Account, web: DicomWebClient, tmp_path: Path):
    web.store(write(tmp_path / "a.dcm", SOPInstanceUID="1.1"))
    web.store(write(tmp_path / "b.dcm", SOPInstanceUID="1.1", StudyTime="130000"))
    client = imaging(account)
    (found,) = client.search_image_sets(datastoreId=web.datastore)["imageSetsMetadataSummaries"]
    named = {"datastoreId": web.datastore, "imageSetId": found["imageSetId"]}
    versions = client.list_image_set_versions(**named)["imageSetPropertiesList"]
    assert [(each["versionId"], each["ImageSetWorkflowStatus"]) for each in versions] == [("2", "UPDATED"), ("1", "CREATED")]
    documents = [
        json.loads(gzip.decompress(client.get_image_set_metadata(**named, versionId=each)["imageSetMetadataBlob"].read())) for each in "12"
    ]
    assert [each["Study"]["DICOM"]["StudyTime"] for each in documents] == ["120000", "130000"]
    frame = documents[1]["Study"]["Series"]["1.2.3.1"]["Instances"]["1.1"]["ImageFrames"][0]["ID"]
    pixels = client.get_image_frame(**named, imageFrameInformation={"imageFrameId": frame})["imageFrameBlob"].read()
    assert pixels == (tmp_path / "b.dcm").read_bytes()[-32:]


# ------------------------------------------------------------------------------------------------------------------- who may do what


def test_permissions_name_actions_data_stores_studies_and_tags(account: Account, web: DicomWebClient, tmp_path: Path):
    arn = f"arn:aws:medical-imaging:us-east-1:{ACCOUNT}:datastore/{web.datastore}"
    one_study = {"StringEquals": {"medical-imaging:StudyInstanceUID": "1.2.3"}}
    tagged = {"StringEquals": {"aws:ResourceTag/who": "me"}}
    stores = ["medical-imaging:StoreDICOMStudy", "medical-imaging:SearchDICOMSeries"]
    keys = account.assume(
        [
            {"Effect": "Allow", "Action": stores, "Resource": arn, "Condition": one_study},
            {"Effect": "Allow", "Action": "medical-imaging:SearchImageSets", "Resource": "*", "Condition": tagged},
            {"Effect": "Allow", "Action": "medical-imaging:DeleteImageSet", "Resource": arn},
        ]
    )
    theirs, client = DicomWebClient(account, web.datastore, keys=keys), imaging(account, keys)
    path = write(tmp_path / "a.dcm")
    assert theirs.store(path, study="1.2.3").status == 200
    assert theirs.store(path, study="1.2.4").status == 403
    denied = theirs.store(path)
    assert (denied.status, "to perform: medical-imaging:StoreDICOM " in denied.json["message"]) == (403, True), denied
    assert len(theirs.found("/studies/1.2.3/series")) == 1
    assert theirs.call("GET", "/series").status == 403
    with pytest.raises(ClientError) as error:
        client.search_image_sets(datastoreId=web.datastore)
    assert refused(error) == ("AccessDeniedException", 403)
    imaging(account).tag_resource(resourceArn=arn, tags={"who": "me"})
    (found,) = client.search_image_sets(datastoreId=web.datastore)["imageSetsMetadataSummaries"]
    with pytest.raises(ClientError) as error:  # it asks for the image set too
        client.delete_image_set(datastoreId=web.datastore, imageSetId=found["imageSetId"])
    assert refused(error) == ("AccessDeniedException", 403)


def test_a_signature_that_is_missing_wrong_or_of_another_body_stores_nothing(account: Account, web: DicomWebClient, tmp_path: Path):
    path = write(tmp_path / "a.dcm")
    access, secret = account.admin_keys()
    assert DicomWebClient(account, web.datastore, keys=(access, f"{secret}x", None)).store(path).status == 403
    assert DicomWebClient(account, web.datastore, keys=("AKIA" + "0" * 16, secret, None)).store(path).status == 403
    changed = write(tmp_path / "b.dcm", SOPInstanceUID="6.6").read_bytes()
    for hashed in (True, False):
        assert web.call("POST", "/studies", path.read_bytes(), hashed=hashed, sent=changed, content_type="application/dicom").status == 403
    assert web.found("/studies") == []
    assert web.store(path, hashed=False).status == 200


def test_calls_are_limited_as_on_aws(account: Account, local_cloud: LocalCloud):
    client = imaging(account)
    kept = new_datastore(account)
    local_cloud.clear_faults()
    codes = []
    for _ in range(3):
        with pytest.raises(ClientError) as error:
            client.delete_image_set(datastoreId=kept, imageSetId="0" * 32)
        codes.append(refused(error))
    assert (codes[0], ("ThrottlingException", 429) in codes) == (("ResourceNotFoundException", 404), True)


def test_ordered_faults_strike_dicomweb_as_the_api(local_cloud: LocalCloud, web: DicomWebClient, tmp_path: Path):
    path = write(tmp_path / "a.dcm")
    for code, status in (("ThrottlingException", 429), ("ConflictException", 409), ("InternalServerException", 500)):
        local_cloud.order_fault(service="medical-imaging", action="StoreDICOM", code=code)
        answered = web.store(path)
        assert (answered.status, answered.headers["x-amzn-errortype"]) == (status, code)
    assert web.store(path).status == 200


# ---------------------------------------------------------------------------------------------------------------------------- import


class Importer:
    """A bucket with files, and a role that may read and write there."""

    def __init__(self, account: Account, datastore: str, service: str = "medical-imaging.amazonaws.com") -> None:
        self.account, self.datastore, self.bucket = account, datastore, unique("import")
        self.s3, self.client = account.client("s3"), imaging(account)
        self.s3.create_bucket(Bucket=self.bucket)
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}
        arns = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/in/*", f"arn:aws:s3:::{self.bucket}/out/*"]
        allowed = [{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject", "s3:PutObject"], "Resource": arns}]
        self.role = f"arn:aws:iam::{ACCOUNT}:role/{account.role(allowed, trust)}"

    def start(self, source: str = "in/", client: Any = None) -> str:
        made = (client or self.client).start_dicom_import_job(
            datastoreId=self.datastore,
            dataAccessRoleArn=self.role,
            inputS3Uri=f"s3://{self.bucket}/{source}",
            outputS3Uri=f"s3://{self.bucket}/out/",
        )
        assert made["jobStatus"] == "SUBMITTED"
        return str(made["jobId"])

    def end(self, job: str) -> dict[str, Any]:
        ask = lambda: self.client.get_dicom_import_job(datastoreId=self.datastore, jobId=job)["jobProperties"]  # noqa: E731
        found: dict[str, Any] = eventually(lambda: (told := ask())["jobStatus"] not in ("SUBMITTED", "IN_PROGRESS") and told)
        return found

    def read(self, properties: dict[str, Any], name: str) -> list[Any]:
        key = properties["outputS3Uri"].removeprefix(f"s3://{self.bucket}/") + name
        return [json.loads(line) for line in self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read().splitlines()]


def test_a_completed_job_says_only_in_its_manifests_what_failed(account: Account, datastore: str, tmp_path: Path):
    importer = Importer(account, datastore)
    for number in range(3):
        importer.s3.upload_file(str(write(tmp_path / f"{number}", SOPInstanceUID=f"1.{number}")), importer.bucket, f"in/a/{number}.dcm")
    importer.s3.upload_file(str(write(tmp_path / "odd", SOPInstanceUID="1.9", Rows=5)), importer.bucket, "in/b/odd.dcm")
    importer.s3.put_object(Bucket=importer.bucket, Key="in/b/text.txt", Body=b"hello")
    properties = importer.end(importer.start())
    assert properties["jobStatus"] == "COMPLETED"
    assert properties["outputS3Uri"].endswith(f"/{datastore}-DicomImport-{properties['jobId']}/")
    summary = importer.read(properties, "job-output-manifest.json")[0]["jobSummary"]
    assert [summary[f"numberOf{name}"] for name in ("ScannedFiles", "ImportedFiles", "FilesWithCustomerError", "GeneratedImageSets")] == [
        5,
        4,
        1,
        1,
    ]
    assert summary["imageSetsSummary"][0]["numberOfMatchedSOPInstances"] == 4
    assert len(importer.read(properties, "SUCCESS/success.ndjson")) == 4
    (failure,) = importer.read(properties, "FAILURE/failure.ndjson")
    assert (failure["inputFile"], failure["exception"]["exceptionType"]) == ("in/b/text.txt", "ValidationException")
    (warning,) = importer.read(properties, "WARNING/warning.ndjson")
    assert warning["importResponse"]["warnings"][0]["warning_reason_code"] == 45328
    assert len(DicomWebClient(account, datastore).found("/instances")) == 4


def test_a_job_reads_with_the_rights_of_its_role_and_may_be_given_only_a_role_that_the_caller_passes(account: Account, datastore: str):
    importer = Importer(account, datastore)
    importer.s3.put_object(Bucket=importer.bucket, Key="secret/a.dcm", Body=b"x")
    properties = importer.end(importer.start("secret/"))
    (failure,) = importer.read(properties, "FAILURE/failure.ndjson")
    assert failure["exception"]["exceptionType"] == "AccessDeniedException"
    other = unique("other")
    importer.s3.create_bucket(Bucket=other)
    failed = importer.client.start_dicom_import_job(
        datastoreId=datastore, dataAccessRoleArn=importer.role, inputS3Uri=f"s3://{other}/", outputS3Uri=f"s3://{importer.bucket}/out/"
    )
    assert (told := importer.end(failed["jobId"]))["jobStatus"] == "FAILED", told
    assert "AccessDenied" in told["message"]
    keys = account.assume([{"Effect": "Allow", "Action": "medical-imaging:*", "Resource": "*"}])
    with pytest.raises(ClientError) as error:
        importer.start(client=imaging(account, keys))
    assert (refused(error)[0], "iam:PassRole" in str(error.value)) == ("AccessDeniedException", True)


def test_a_role_that_does_not_trust_healthimaging_is_refused_at_once(account: Account, datastore: str):
    with pytest.raises(ClientError) as error:
        Importer(account, datastore, "ec2.amazonaws.com").start()
    assert refused(error) == ("ValidationException", 400)


def test_what_is_given_back_reads_as_it_was(web: DicomWebClient, tmp_path: Path):
    written = write(tmp_path / "a.dcm", "1.2.840.10008.1.2", SOPInstanceUID="1.1")
    web.store(written)
    place = "/studies/1.2.3/series/1.2.3.1/instances/1.1"
    given = web.call("GET", place, accept="application/dicom")
    (tmp_path / "back.dcm").write_bytes(given.body)
    assert read_instance(tmp_path / "back.dcm").transfer_syntax == "1.2.840.10008.1.2.1"
    other = web.call("GET", place, accept="application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90")
    assert (other.status, other.headers["x-amzn-errortype"]) == (406, "NotAcceptableException")
