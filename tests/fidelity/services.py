"""The part of the register beyond EC2: CloudFormation, IAM, Lambda, S3, SQS, ECR, STS, Systems Manager, EventBridge Scheduler."""

from __future__ import annotations

from tests.fidelity.behaviour import Behaviour

CLOUDFORMATION = "CloudFormation User Guide"

SERVICES = (
    Behaviour(
        "stack-defaults-on-update",
        "a parameter that an update leaves out takes the template's default, not the stack's value",
        "what nobody names is sent as `UsePreviousValue`",
        "CloudFormation API Reference, Parameter",
    ),
    Behaviour(
        "stack-retain-on-rollback",
        "`DeletionPolicy: Retain` also keeps what a failed creation made; `RetainExceptOnCreate` does not",
        "the bucket is `RetainExceptOnCreate`, so that `bootstrap` can be repeated",
        f"{CLOUDFORMATION}, DeletionPolicy attribute",
    ),
    Behaviour(
        "stack-deleted-by-id",
        "a deleted stack is described by its id only",
        "a creation that failed and was cleared away is asked for by id, and says why",
        "CloudFormation API Reference, DescribeStacks",
    ),
    Behaviour(
        "change-set-by-condition",
        "a change set adds and removes what conditions decide, and holds no resource whose condition is false",
        "what `bootstrap` shows is what happens; a parameter that nothing reads yet is said",
        f"{CLOUDFORMATION}, Conditions",
    ),
    Behaviour(
        "stack-name-taken",
        "a role or secret whose name is taken fails the stack: `AlreadyExists`",
        "named, with what to delete; what exists is left alone",
        f"{CLOUDFORMATION}, Name type",
    ),
)

NOT_IMITATED_OF_SERVICES: tuple[tuple[str, str], ...] = ()
"""(what, why)."""
