"""What a group's activities say of its launches."""

from __future__ import annotations

from typing import Any

import pytest

from monai_aws_pipeline.contract.launches import why_in_vain

ASKED = "At ... a user request explicitly set group desired capacity changing the desired capacity from 0 to 1. At ... one was started"


def launch(status: str, words: str = "", cause: str = "an instance was started") -> dict[str, Any]:
    told = {"StatusMessage": words, "Cause": cause} if words else {"Cause": cause}
    return {"Description": "Launching a new EC2 instance: i-1", "StatusCode": status, **told}


END = {"Description": "Terminating EC2 instance: i-1", "StatusCode": "Successful"}
ABANDONED = "Instance failed to complete user's Lifecycle Action: ... was abandoned: Heartbeat Timeout"


@pytest.mark.parametrize(
    ("activities", "number", "why"),
    [
        ([], 1, ""),
        ([launch("Failed", "no capacity")], 1, "no capacity"),
        ([launch("Cancelled", ABANDONED)], 1, ABANDONED),
        ([launch("Cancelled")], 1, "Launching a new EC2 instance: i-1: Cancelled"),
        ([launch("InProgress"), END, launch("Cancelled", "a"), END, launch("Failed", "b")], 2, "a"),
        ([launch("Failed", "a"), launch("Failed", "b")], 3, ""),
        ([launch("Failed", "a"), launch("Successful"), launch("Failed", "b")], 3, ""),
        ([launch("Successful"), launch("Failed", "a")], 1, ""),
        ([END], 1, ""),
        ([launch("InProgress", cause=ASKED), launch("Failed", "a"), launch("Failed", "b", ASKED)], 1, ""),
        ([launch("InProgress"), launch("Failed", "a", ASKED), launch("Failed", "b")], 1, "a"),
        ([launch("Failed", "a"), launch("Failed", "b", ASKED), launch("Failed", "c")], 3, ""),
        ([launch("Failed", "a"), launch("Failed", "b"), launch("Failed", "c", ASKED)], 3, "a"),
    ],
)
def test_launches_are_in_vain_where_none_of_the_newest_that_ended_came_into_service(
    activities: list[dict[str, Any]], number: int, why: str
) -> None:
    assert why_in_vain(activities, number) == why
