"""What goes wrong for one of several studies that a host has in hand: the others are answered all the same.

One test a case, in docs/faults-inference.md under the same name. One host, four studies at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.faults import AGENT, STATE_FOLDER, Waking, eventually, same_image_under_another_digest
from tests.support.platform import Platform, platform

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

Tell = Callable[[str, object], None]
SETTINGS = {
    "MONAI_AWS_STUDIES_AT_ONCE": "4",
    "MONAI_AWS_MAP_TIMEOUT_S": "60",
    "MONAI_AWS_MAP_MEMORY_MIB": "4096",
    "MONAI_AWS_IDLE_STOP_MINUTES": "0.3",
}
SMALL_DISK_MIB = 4400
"""More than the 4 GiB without which a host takes one job at a time."""
KILL_ONE = f"""
file=$(find {STATE_FOLDER} -name started.txt | head --lines 1)
for container in $(docker ps --quiet); do
  for folder in $(docker inspect --format '{{{{range .Mounts}}}}{{{{println .Source}}}}{{{{end}}}}' "$container"); do
    case "$file" in "$folder"/*) exec docker kill "$container" ;; esac
  done
done
exit 1
"""
"""Ends the container of a study that sleeps."""


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "several-faults", tmp_path_factory.mktemp("several"), **SETTINGS) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


@pytest.fixture(scope="class", autouse=True)
def proved(waking: Waking) -> None:
    """The first study of a MAP runs alone, and then the proof that two may run."""
    waking.succeeded(waking.upload("first"))


def uploaded(waking: Waking, name: str, wishes: Sequence[str]) -> list[str]:
    return [waking.upload(f"{name}-{number}", wish) for number, wish in enumerate(wishes)]


def overlapped(records: Sequence[ResultRecord]) -> bool:
    return max(record.resources.beside for record in records) >= 2


class TestSeveralInHand:
    def test_one_of_several_hangs(self, waking: Waking, record_property: Tell):
        hangs, *others = uploaded(waking, "hangs", ["tiny:sleep=600", *["tiny:sleep=6"] * 3])
        assert overlapped([waking.succeeded(job) for job in others])
        record = waking.answer(hangs, 600)
        assert record.error is not None
        assert record.error.code == "map_timeout"
        assert record.resources.beside == 0, "what it is told for, it did alone"
        record_property("happened", "three answered meanwhile; the one was run alone, and failed there as well")

    def test_spot_notice_with_several_in_hand(self, place: Platform, waking: Waking, record_property: Tell):
        long, *short = uploaded(waking, "noticed", ["tiny:sleep=50", *["tiny:sleep=12"] * 3])
        host = waking.host_at_work(4)
        place.cloud.order_fault(interrupt_spot=host.id, seconds=45, action="stop")  # 25 s for what runs
        eventually(lambda: all(machine.state == "stopped" for machine in place.machines(ROLE_INFERENCE)), 90)
        entries = place.entries()
        assert [job in entries for job in (*short, long)] == [True, True, True, False], "what can end in time ends"
        place.wake()
        waking.succeeded(long)
        record_property("happened", "three answered before the machine was taken, the fourth at the next wake")

    def test_one_of_several_is_killed(self, place: Platform, waking: Waking, record_property: Tell):
        jobs = uploaded(waking, "killed", ["tiny:sleep=20"] * 4)
        place.on_host(waking.host_at_work(4).id, KILL_ONE)
        records = [waking.succeeded(job) for job in jobs]
        assert overlapped(records)
        assert [record.resources.beside for record in records].count(0) == 1, "the one that was killed ran again alone"
        record_property("happened", "three answered, the one run again alone and answered")

    def test_map_switched_with_several_in_hand(self, place: Platform, waking: Waking, record_property: Tell):
        second = same_image_under_another_digest(place)
        before = uploaded(waking, "switched", ["tiny:sleep=10"] * 4)
        waking.host_at_work(3)
        name = place.settings.names.live_map_parameter
        place.clients.ssm.put_parameter(Name=name, Value=second, Type="String", Overwrite=True)
        after = uploaded(waking, "after-the-switch", ["tiny:sleep=5"] * 4)
        records = {job: waking.succeeded(job) for job in (*before, *after)}
        by_new = {job: record for job, record in records.items() if record.map.digest == second.partition("@")[2]}
        assert set(after) <= set(by_new), "whose turn came after the switch"
        assert overlapped([record for job, record in records.items() if job not in by_new])
        assert min(by_new.values(), key=lambda record: record.committed_at).resources.beside == 0, "the first of a new MAP runs alone"
        record_property("happened", "those at work ended with the old MAP; the new one began with one study alone")

    def test_one_of_several_fills_the_disk(self, place: Platform, waking: Waking, record_property: Tell):
        first = waking.upload("before-the-disk-is-small", "tiny:sleep=4")
        host = waking.host_at_work()
        waking.succeeded(first)
        place.cloud.order_fault(small_disk=host.id, path=STATE_FOLDER, mib=SMALL_DISK_MIB)
        place.on_host(host.id, f"systemctl restart {AGENT}")
        waking.succeeded(waking.upload("first-on-the-small-disk"))
        fills, *others = uploaded(waking, "fills", ["tiny:fill", *["tiny:sleep=26"] * 3])
        waking.host_at_work(4)
        place.on_host(host.id, f"fallocate --length {SMALL_DISK_MIB - 100}M {STATE_FOLDER}/ballast")
        for job in others:
            waking.succeeded(job)
        record = waking.answer(fills, 300)
        assert record.error is not None
        assert record.error.code in ("map_failed", "disk_full"), "as the application or the agent is the first to meet the end of it"
        place.cloud.order_fault(restore_disk=host.id, path=STATE_FOLDER)
        place.on_host(host.id, f"systemctl restart {AGENT}")
        record_property("happened", "the one failed for it; the others were answered")
