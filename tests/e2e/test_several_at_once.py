"""Several studies at once on a real host: those that wait overlap, what has too little beside others is answered alone, and a stop finds
every one of them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, Status
from monai_aws_pipeline.host_agent.at_once import RESERVE_BYTES
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.faults import AGENT, Waking, eventually
from tests.support.platform import Platform, environment, platform

pytestmark = [pytest.mark.e2e, pytest.mark.cloud, pytest.mark.long]

AT_ONCE = 6
SHARE_MIB = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") - RESERVE_BYTES) // AT_ONCE >> 20
"""What a study may have of this machine's memory beside five others."""
TAKEN_MIB = SHARE_MIB * 5 // 4
"""More than that, and less than what one may have alone."""
SETTINGS = {
    "MONAI_AWS_STUDIES_AT_ONCE": f"{AT_ONCE}",
    "MONAI_AWS_MAP_MEMORY_MIB": f"{SHARE_MIB * 3}",
    "MONAI_AWS_IDLE_STOP_MINUTES": "0.5",
}
ASLEEP = 3
"""Studies that sleep beside the one that floods its log."""


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("at-once")
    with platform(local_cloud, "at-once", folder, **SETTINGS) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


@pytest.fixture(scope="module")
def waking(place: Platform) -> Waking:
    """All uploads: at the end of each case every one of them has its one answer, and nothing else is left."""
    return Waking(place)


def host_of(place: Platform) -> Machine:
    (host,) = place.machines(ROLE_INFERENCE)
    return host


def answers(waking: Waking, name: str, wishes: list[str]) -> list[ResultRecord]:
    jobs = [waking.upload(f"{name}-{number}", wish) for number, wish in enumerate(wishes)]
    found = waking.place.answers(jobs, 240)
    return [found[job][0] for job in jobs]


def test_the_first_study_of_a_map_runs_alone_and_proves_that_two_may_run(place: Platform, waking: Waking) -> None:
    (record,) = answers(waking, "first", ["tiny"])
    assert (record.status, record.resources.beside) == (Status.SUCCEEDED, 0)
    said = place.on_host(host_of(place).id, "cat /var/lib/monai-aws/hosting/side-by-side/*.json /var/lib/monai-aws/at-once/*.json")
    assert '"several_at_once"' in said
    assert record.map.digest in said


def test_studies_that_wait_overlap_and_what_has_too_little_is_answered_alone(place: Platform, waking: Waking) -> None:
    sleeping = [waking.upload(f"asleep-{number}", "tiny:sleep=25") for number in range(ASLEEP)]
    waking.host_at_work(ASLEEP)
    (flood,) = answers(waking, "flood", ["tiny:flood"])
    assert flood.status is Status.SUCCEEDED, flood.error
    assert flood.resources.beside >= ASLEEP, "it was answered beside those that slept"
    kept = place.read(next(output.key for output in flood.outputs if output.kind == "log")).decode().splitlines()
    assert 0 < len(kept) <= 1000
    assert "line 199999 of a flood" in kept, "its last lines are kept"
    assert all(found[0].status is Status.SUCCEEDED for found in place.answers(sleeping).values())

    wishes = ["tiny:sleep=8"] * 5 + [f"tiny:take={TAKEN_MIB}", "tiny:fail", "tiny:litter", "tiny:look"]
    records = answers(waking, "backlog", wishes)
    ends = {wish: record for wish, record in zip(wishes, records, strict=True) if wish != "tiny:sleep=8"}
    assert all(record.status is Status.SUCCEEDED for wish, record in zip(wishes, records, strict=True) if wish != "tiny:fail"), [
        record.error for record in records
    ]
    assert max(record.resources.beside for record in records[:5]) >= 2, "they ran at once"
    taken = ends[f"tiny:take={TAKEN_MIB}"]
    assert taken.resources.beside == 0, "its answer is the one that it gave alone"
    assert taken.resources.peak_rss > TAKEN_MIB << 20
    assert ends["tiny:fail"].error
    assert ends["tiny:fail"].error.code == "map_failed"
    place.wait_stopped()
    place.clients.ec2.start_instances(InstanceIds=[host_of(place).id])
    said = place.on_host(host_of(place).id, "journalctl --unit monai-aws-agent --no-pager; cat /var/lib/monai-aws/at-once/*.json")
    assert re.search(r"failed \(map_out_of_memory\) beside \d other\(s\), which says nothing; it is run again alone", said)
    assert "was answered alone with all of it; from now on at most" in said
    waking.assert_settled()


def test_a_host_that_is_told_to_stop_with_several_in_hand_gives_all_of_them_back(place: Platform, waking: Waking) -> None:
    jobs = [waking.upload(f"stopped-{number}", "tiny:sleep=60") for number in range(4)]
    host = host_of(place)

    def work() -> list[str]:
        with environment(place.variables):
            told = CliRunner().invoke(cli, ["status", "--json"])
        (machine,) = [each for each in json.loads(told.output)["machines"] if each["id"] == host.id]
        work = machine["work"] or {"jobs": [], "at_once": ""}
        assert not work["at_once"] or re.match(r"\d at once", work["at_once"]) or "nothing is measured" in work["at_once"]
        return [job["phase"] for job in work["jobs"]]

    eventually(lambda: work().count("inferring") >= 2, 120)
    interrupted = f"journalctl --unit {AGENT} --no-pager --since @{int(time.time())} | grep --count ': interrupted'"
    stop = f"systemctl stop {AGENT}; docker ps --all --quiet | wc --lines; {interrupted}; systemctl start {AGENT}"
    left, given_back = map(int, place.on_host(host.id, stop).split())
    assert left == 0, "no container is left"
    assert given_back >= 2, "that many were in hand when it was told to stop"
    found = place.answers(jobs, 400)
    assert [found[job][0].status for job in jobs] == [Status.SUCCEEDED] * 4
    waking.assert_settled()
