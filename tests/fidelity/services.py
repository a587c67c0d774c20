"""The part of the register beyond EC2: CloudFormation, IAM, Lambda, S3, SQS, ECR, STS, Systems Manager, EventBridge Scheduler."""

from __future__ import annotations

from tests.fidelity.behaviour import Behaviour

CLOUDFORMATION = "CloudFormation User Guide"
IAM = "IAM User Guide, Troubleshoot IAM: changes are not always immediately visible"

SERVICES = (
    Behaviour(
        "function-in-progress",
        "a function is not ready at once, and one change at a time: `ResourceConflictException`",
        "each change waits for the one before, also for somebody else's",
        "Lambda Developer Guide, Lambda function states",
    ),
    Behaviour(
        "role-not-assumable-yet",
        "Lambda cannot assume a role that was just made: `InvalidParameterValueException`",
        "tried again for a minute, then named with AWS's words",
        IAM,
    ),
    Behaviour(
        "async-retries",
        "a failed asynchronous call is made twice more",
        "an upload that the wake function is told of again is the same job, which is answered once",
        "Lambda Developer Guide, How Lambda handles errors and retries with asynchronous invocation",
    ),
    Behaviour(
        "queue-policy-not-seen-yet",
        "S3 does not see a queue's new policy at once: `InvalidArgument`, Unable to validate …",
        "tried again for a minute, then named with the queue",
        "SQS API Reference, SetQueueAttributes",
    ),
    Behaviour(
        "queue-policy",
        "a queue takes from S3 only what its policy allows; nothing else arrives",
        "the policy lets the deployment's bucket in and no other; a missing one is named",
        "S3 User Guide, Granting permissions to publish event notification messages to a destination",
    ),
    Behaviour(
        "function-policy",
        "S3, SNS and EventBridge call a function only with its permission (`lambda:AddPermission`)",
        "nothing of the system needs one; a receiver of others that lost its own is named, and left as it is",
        "Lambda Developer Guide, Working with resource-based IAM policies in Lambda",
    ),
    Behaviour(
        "schedule-by-role",
        "a schedule calls by its role, which must trust the scheduler and is not known at once: `ValidationException`",
        "tried again for a minute; the bootstrap's role is enough",
        "EventBridge Scheduler User Guide, Setting up the execution role",
    ),
    Behaviour(
        "schedule-at-least-once",
        "a schedule may call twice",
        "the second wake finds the host starting and the jobs there",
        "EventBridge Scheduler User Guide, What is Amazon EventBridge Scheduler?",
    ),
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
