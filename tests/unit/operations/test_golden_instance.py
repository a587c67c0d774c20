"""The instance of a group that answers a golden study: one that is there, or a first one, which is taken back where it does not come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from monai_aws_pipeline.cloud.waiting import silently
from monai_aws_pipeline.operations.golden_check import NotProvenError, instance_in_service


class Group:
    """A group that comes to what it is asked for, or not (``comes``); ``others``: what somebody else has it have meanwhile."""

    name = "hosts"

    def __init__(self, desired: int = 0, *, comes: bool = False, others: int = 0, interrupted: bool = False) -> None:
        self.desired, self._comes, self._others, self._interrupted = desired, comes, others, interrupted
        self.asked: list[int] = []

    def find(self) -> Any:
        if self.asked and self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        serving = (SimpleNamespace(id="i-1"),) if self._comes and self.desired else ()
        return SimpleNamespace(is_going=False, most=3, desired=self.desired, in_service=lambda: serving)

    def ask_for(self, number: int) -> None:
        self.asked.append(number)
        self.desired = self._others or number

    def last_failure(self) -> str:
        return "it was abandoned"


def asked(group: Group) -> str:
    return instance_in_service(group, silently, seconds=0)  # type: ignore[arg-type]


def test_the_first_instance_that_comes_stays_until_it_is_idle() -> None:
    group = Group(comes=True)
    assert (asked(group), group.asked) == ("i-1", [1])


def test_one_that_has_ended_is_not_asked_again_although_the_group_still_names_it() -> None:
    group = Group(desired=1, comes=True)
    with pytest.raises(NotProvenError):
        instance_in_service(group, silently, seconds=0, but=["i-1"])  # type: ignore[arg-type]
    assert asked(group) == "i-1"
    left = Group(comes=True)
    left.find = lambda: SimpleNamespace(is_going=False, most=3, desired=0, in_service=lambda: (SimpleNamespace(id="i-1"),))  # type: ignore[method-assign]
    with pytest.raises(NotProvenError):
        instance_in_service(left, silently, seconds=0, but=["i-1"])  # type: ignore[arg-type]
    assert left.asked[:1] == [1], "it has left with its place, so another one is asked for"


def test_a_first_instance_that_does_not_come_is_asked_for_no_more_and_that_is_said() -> None:
    group = Group()
    with pytest.raises(NotProvenError, match=r"it was abandoned\. Look"):
        asked(group)
    assert group.asked == [1, 0]


def test_an_interruption_takes_it_back_too() -> None:
    group = Group(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        asked(group)
    assert group.asked == [1, 0]


@pytest.mark.parametrize("group", [Group(desired=1), Group(others=2)], ids=["before", "meanwhile"])
def test_what_somebody_else_asked_for_stays(group: Group) -> None:
    with pytest.raises(NotProvenError):
        asked(group)
    assert 0 not in group.asked
