"""How long a host idled is counted from its own last answer: what another host answered meanwhile does not excuse it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from monai_aws_pipeline.contract import Cost, HostFacts, InputFacts, MapFacts, Resources, ResultRecord, Status, Timings, utc_text
from monai_aws_pipeline.demo.idle_cost import IdlePeriod, idle_period_of

ON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


def answer(host: str, seconds: float) -> ResultRecord:
    return ResultRecord(
        job="a" * 32,
        study="b" * 16,
        status=Status.SUCCEEDED,
        committed_at=utc_text(datetime.fromtimestamp(ON + seconds, UTC)),
        input=InputFacts(key_sha256="0" * 64, etag="e", bytes=1, instances=1, modalities=("MR",), series=1),
        map=MapFacts(),
        host=HostFacts(host, "g4dn.xlarge", "ami-1"),
        timings=Timings(),
        resources=Resources(),
        cost=Cost(0.0, ""),
    )


@pytest.mark.parametrize(
    ("answers", "idle"),
    [
        ([], 100),
        ([("i-1", 40)], 60),
        ([("i-1", 40), ("i-1", 70)], 30),
        ([("i-1", 40), ("i-2", 90)], 60),  # the other host's answer is no work of this one
        ([("i-1", -500)], 100),  # of an earlier start
        ([("i-1", 40), ("i-1", 300)], 60),  # of a later one
    ],
)
def test_a_hosts_own_last_answer_before_its_end_counts(answers: list[tuple[str, float]], idle: float) -> None:
    records = [answer(host, seconds) for host, seconds in answers]
    assert idle_period_of("i-1", ON, ON + 100, records) == IdlePeriod("i-1", pytest.approx(idle))
