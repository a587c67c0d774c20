"""Every figure the simulation rests on, each with where it was measured, or with the words that it was not.

A figure that nobody has measured is an assumption: ``docs/scale.md`` lists it as one and says how the result moves with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

JOBS_PER_HOST = 20
"""As the wake function has it (``lambda_fn/hosts.py``); a test holds the two together."""


class Study(StrEnum):
    """What kind of study. ``small``: the brain example, 181 slices, 15 MB. ``ct``: 120 slices of 512 by 512, 63 MB, a bundle's UNet."""

    SMALL = "small"
    CT = "ct"


class Hosting(StrEnum):
    """How the application runs: ``warm`` in a fork that has its imports, ``cold`` in a process of its own."""

    WARM = "warm"
    COLD = "cold"


def measured(default: float, source: str) -> Any:
    """A figure with its source."""
    return field(default=default, metadata={"source": source, "assumed": False})


def assumed(default: float, reason: str) -> Any:
    """A figure that nobody has measured, with why it is taken."""
    return field(default=default, metadata={"source": reason, "assumed": True})


@dataclass(frozen=True)
class Speed:
    """How quickly one host answers one kind of study.

    ``per_minute``: studies a minute with one, two, … at once. ``fetch_s``, ``publish_s``: seconds of a study before and after its
    inference, beside other studies' inference. ``imports_s``: until the first inference after a start. ``proof_s``: more, on a machine that
    has never run this MAP, until it is known to answer the same warm.
    """

    per_minute: tuple[float, ...]
    fetch_s: float
    publish_s: float
    imports_s: float = 0.0
    proof_s: float = 0.0

    def rate(self, running: int) -> float:
        """Studies a second, all together, with so many at once."""
        return self.per_minute[min(running, len(self.per_minute)) - 1] / 60

    def proofs_s(self, at_once: int) -> float:
        """Seconds of all that a machine proves with its first study: that warm answers the same, and that two do not disturb each other."""
        return self.proof_s + (2 / self.rate(2) if at_once > 1 else 0.0)

    @property
    def best_at_once(self) -> int:
        """The number at once with the most studies a minute."""
        return self.per_minute.index(max(self.per_minute)) + 1


SPEEDS: dict[tuple[Study, Hosting], Speed] = {
    (Study.SMALL, Hosting.WARM): Speed((22.0, 42.5, 58.8, 71.8), 0.3, 0.3, imports_s=10.0, proof_s=12.2),
    (Study.SMALL, Hosting.COLD): Speed((4.9,), 0.3, 0.3),
    (Study.CT, Hosting.WARM): Speed((13.4, 24.5, 36.2, 44.0), 1.25, 1.25, imports_s=10.0, proof_s=16.0),
    (Study.CT, Hosting.COLD): Speed((3.75,), 1.25, 1.25),
}
SOURCES: tuple[tuple[str, str, Literal["measured", "assumed", "a rule"]], ...] = (
    (
        "small, warm: 22.0, 42.5, 58.8, 71.8 studies a minute with 1, 2, 3, 4 at once",
        "the brain example on an H100, kept on 4 cores; warm servers side by side",
        "measured",
    ),
    ("CT, warm: 13.4, 24.5, 36.2, 44.0 studies a minute", "a bundle application there, 120 slices of 512 by 512", "measured"),
    ("small, cold: 4.9 studies a minute", "11.2 to 13.3 s a study there, a process each; several at once were not measured", "measured"),
    ("CT, cold: 3.75 studies a minute", "14.7 to 17.3 s a study there, a process each; several at once were not measured", "measured"),
    ("10 s of imports before the first warm study", "8 to 12 s there", "measured"),
    (
        "a new machine proves a MAP before it is warm: 12.2 s (small), 16 s (CT)",
        "a study in a process of its own, from the same trial",
        "measured",
    ),
    (
        "before two at once: two side by side, whose answers must be the same; then one more after three studies a place of a backlog "
        "and five seconds",
        "what the agent does on a machine that is new (`host_agent/at_once.py`)",
        "a rule",
    ),
    (
        "what leaves a warm pool is terminated when it is idle; another is launched into its place, pulls the MAP and is stopped",
        'the agent\'s code; EC2 Auto Scaling User Guide, "Warm pools"',
        "a rule",
    ),
    (
        "small: 0.6 s to fetch and to publish",
        "embedded AWS on 2 cores: `BENCH=latency` (2.2 s from upload to answer) less `BENCH=warm` (1.6 s of inference)",
        "measured",
    ),
    ("CT: 2.5 s to fetch and to publish", "the small study's, by its bytes (63 MB beside 15)", "assumed"),
    (
        "a T4 and 4 vCPU answer as an H100 and 4 cores",
        "the GPU was busy 2 to 8 % of the time: a study is Python on one core",
        "assumed",
    ),
    ("every study of a kind takes the same seconds", "what was repeated differed by a tenth", "assumed"),
    ("the busiest hour has a fifth of a day's studies", "the load this project is designed for: 1,500 a day, 300 an hour", "a rule"),
    (
        "the other hours of the day; a day of the weekend has 0.35 of the studies",
        "a guess, `monai_aws_pipeline/simulation/arrivals.py`",
        "assumed",
    ),
    (
        "each host with a place is as likely to get the next message",
        "SQS promises nothing; where it favoured some hosts, the others would be idle and leave",
        "assumed",
    ),
)
"""What ``SPEEDS`` and the day rest on, in words: figure, source, and which of the three it is."""


@dataclass(frozen=True)
class Machine:
    """Seconds and prices of one machine. Prices in US dollars, list prices of us-east-1."""

    start_s: float = assumed(180.0, "seconds from the start of a stopped host to its agent: two to four minutes are reckoned with on AWS")
    launch_s: float = assumed(120.0, "further seconds of a machine that is new: its disk is read from the snapshot for the first time")
    pull_s: float = measured(47.0, "pull of the example's MAP (1.5 GB) on the embedded AWS, on a machine that is new")
    stop_s: float = assumed(60.0, "seconds of a shutdown; reckoned as paid, and the host cannot be started meanwhile")
    trigger_s: float = assumed(2.0, "from upload to job message: queue, function, queue; 100 events took 3.9 s on the embedded AWS")
    repeat_s: float = assumed(0.1, "a second message of a study that is answered: one look into the bucket")
    poll_s: float = measured(5.0, "an agent without work asks its queue so often, and looks then whether it may stop (its code)")
    notice_s: float = measured(100.0, "what runs on a Spot machine may go on so long after AWS's notice (the agent's code)")
    spot_share: float = assumed(0.4, "price of a Spot machine, as a share of On-Demand")
    interruptions_per_hour: float = assumed(0.05, "how often AWS takes a Spot machine back, for each hour it runs")
    refused_starts: float = assumed(0.0, "share of starts and launches that AWS has no capacity for")
    disk_usd_a_day: float = measured(0.40, "150 GiB of gp3 at 0.08 USD a month (docs/aws.md), whether the host runs or not")
    address_usd_per_hour: float = measured(0.005, "public address of a running machine (docs/aws.md)")
    least_paid_s: float = measured(60.0, "EC2 bills by the second, and a minute at least")


@dataclass(frozen=True)
class CloudWatch:
    """When an Auto Scaling group hears of its queue (target tracking on backlog per instance, a step on age)."""

    period_s: float = measured(60.0, "SQS writes its metrics every minute")
    delay_s: float = assumed(60.0, "how old the newest value is that an alarm sees")
    datapoints: int = measured(3, "target tracking scales out when three values in a row are above the target")
    oldest_s: float = assumed(300.0, "a step adds one instance while the oldest job is older than this and none is starting")


def figures(of: type[Machine] | type[CloudWatch]) -> list[tuple[str, float, str, bool]]:
    """Name, value, source and whether it is an assumption, of each figure."""
    return [(each.name, float(each.default), each.metadata["source"], each.metadata["assumed"]) for each in fields(of)]  # type: ignore[arg-type]
