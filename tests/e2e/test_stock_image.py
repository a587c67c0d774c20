"""``ami_mode`` stock: no image is baked; build machine and host are provisioned when they are made, and the host answers a study.

Its bucket keeps versions, as ``bootstrap --versioning`` makes one: the host reads, moves and deletes exactly the version it was told of.
"""

from __future__ import annotations

import boto3
import pytest

from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.tags import tag_filters, tags_of
from monai_aws_pipeline.contract import ROLE_INFERENCE, TAG_EXPIRES_AT, Status
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.platform import environment, platform
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud, pytest.mark.long]


def test_a_study_is_answered_without_a_baked_image(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory):
    with platform(local_cloud, "stock", tmp_path_factory.mktemp("stock"), MONAI_AWS_AMI_MODE="stock") as place:
        ec2, filters = place.clients.ec2, tag_filters("stock")
        assert place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        assert ec2.describe_images(Owners=["self"], Filters=filters)["Images"] == []

        # What let us in is gone, and nothing about the host expires any more.
        (host,) = place.machines()
        assert (host.tags["monai-aws:role"], host.state, host.tags[TAG_EXPIRES_AT]) == (ROLE_INFERENCE, "stopped", "")
        assert ec2.describe_key_pairs(Filters=filters)["KeyPairs"] == []
        (group,) = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        assert group["IpPermissions"] == []
        described = ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]
        assert [each["GroupId"] for each in described["SecurityGroups"]] == [group["GroupId"]]
        assert {tags_of(disk["Tags"])[TAG_EXPIRES_AT] for disk in ec2.describe_volumes(Filters=filters)["Volumes"]} <= {""}

        again = place.materialize("inference_host")
        assert again.asset_materializations_for_node("inference_host")[0].metadata["reused"].value is True

        with environment(local_cloud.environment):
            s3 = boto3.Session().client("s3")
        s3.put_bucket_versioning(Bucket=place.settings.bucket, VersioningConfiguration={"Status": "Enabled"})
        job = place.upload("input/study.zip", tiny_study_zip())
        (answer,) = place.answers([job])[job]
        assert answer.status is Status.SUCCEEDED
        assert answer.host.instance_id == host.id

        # Neither our key nor the timer of the time when it was made is on it.
        place.wait_stopped()
        kept = s3.list_object_versions(Bucket=place.settings.bucket)
        assert [each["Key"] for each in kept["Versions"] if each["Key"].startswith("input/")] == [], "the version itself is gone"
        assert [each["Key"] for each in kept.get("DeleteMarkers", []) if each["Key"].startswith("input/")] == []
        later = place.upload("input/later.zip", tiny_study_zip(instances=3, wish="tiny:sleep=20"))  # so that the host stays for what we ask
        commands = Commands(place.clients.ssm)
        commands.wait_online(host.id)
        script = "cat /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys 2>/dev/null | wc -l; systemctl is-active monai-aws-ttl.timer"
        assert commands.run(host.id, script).stdout.split() == ["0", "inactive"]
        assert place.answers([later])[later][0].status is Status.SUCCEEDED
        place.wait_stopped()
