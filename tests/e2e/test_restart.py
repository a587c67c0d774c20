"""The embedded AWS is killed and started again: what survives is used, what does not is noticed by the lineage and made again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from monai_aws_pipeline.contract import ROLE_INFERENCE, Status
from monai_aws_pipeline.local_cloud.commands import LocalCloud, server_daemon, up
from tests.support.cloud import own_cloud
from tests.support.platform import platform
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud, pytest.mark.long]


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    """A cloud that this test may kill."""
    with own_cloud("restart") as config:
        yield up(config)


def test_after_a_kill_the_lineage_makes_again_what_is_gone_and_uses_what_survived(
    cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
):
    with platform(cloud, "restart", tmp_path_factory.mktemp("restart")) as place:
        place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger")
        first = place.upload("input/before.zip", tiny_study_zip())
        (before,) = place.answers([first])[first]
        place.wait_stopped()
        (host,) = place.machines(ROLE_INFERENCE)

        pid = server_daemon(cloud.config).pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        up(cloud.config)

        assert place.machines() == [], "machines do not survive"
        assert place.read(before.commit_key), "objects do"
        result = place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger")
        built = result.asset_materializations_for_node("record_map") or result.asset_materializations_for_node("map_image")
        assert built[0].metadata["digest"].value == before.map.digest, "the pushed image is used, not built again"
        assert built[0].metadata["reused"].value is True
        assert [machine.id for machine in place.machines(ROLE_INFERENCE)] != [host.id]

        second = place.upload("input/after.zip", tiny_study_zip(instances=5))
        (after,) = place.answers([second])[second]
        assert after.status is Status.SUCCEEDED
        assert after.map.digest == before.map.digest
        place.wait_stopped()
