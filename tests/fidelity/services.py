"""The part of the register beyond EC2: CloudFormation, IAM, Lambda, S3, SQS, ECR, STS, Systems Manager, EventBridge Scheduler."""

from __future__ import annotations

from tests.fidelity.behaviour import Behaviour
from tests.fidelity.played_services import SERVICE_REFUSALS, ServicePlayed

CLOUDFORMATION = "CloudFormation User Guide"
IAM = "IAM User Guide, Troubleshoot IAM: changes are not always immediately visible"


def _refusal(played: ServicePlayed) -> Behaviour:
    ends = "tried again for a minute, then named" if played.end == "again" else f"named: `{played.end}`"
    said = f"{played.service} {played.operation}: `{played.code}`, HTTP {played.status}, “… {played.words} …”"
    return Behaviour(played.id, said, ends, "the service's API Reference, Errors and Common error types")


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
        "event-source-by-role",
        "a queue calls no function whose role may not receive from it: `InvalidParameterValueException`",
        "tried again for a minute, because a role's policy is not known at once; then named",
        "Lambda Developer Guide, Using Lambda with Amazon SQS: execution role permissions",
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
    Behaviour(
        "queue-12-hours",
        "a message is out of sight for 12 hours at most, whoever asks for more: `InvalidParameterValue`",
        "no study may run longer than 5 hours, twice at most; a job whose message can be kept no longer is answered all the same, once",
        "SQS API Reference, ChangeMessageVisibility",
    ),
    Behaviour(
        "queue-in-flight",
        "at most 120,000 messages in flight: `OverLimit`, or no message for who waits (shown by a lowered limit)",
        "the agent waits, sees that there is work, and does not stop its host",
        "SQS Developer Guide, Message quotas",
    ),
    Behaviour(
        "queue-purge",
        "a queue is purged at most once a minute: `PurgeQueueInProgress`",
        "nothing of the system purges a queue; a teardown deletes it",
        "SQS API Reference, PurgeQueue",
    ),
    Behaviour(
        "multipart-dates",
        "an object sent in parts is listed when it is complete and dated at the start of its upload",
        "a folder is not complete while a file of it is on its way in parts",
        "S3 User Guide, Uploading and copying objects using multipart upload",
    ),
    Behaviour(
        "versioning-suspended",
        "where versioning is suspended a deletion leaves a marker with the version id `null`, and older versions stay",
        "removed by ETag: what is older does not come back, and no job takes `null` for a version",
        "S3 User Guide, Deleting objects from versioning-suspended buckets",
    ),
    Behaviour(
        "delete-if-match",
        "a deletion on condition of an ETag is refused where another object lies there: HTTP 412",
        "what is newer than the job stays",
        "S3 User Guide, How to perform conditional deletes",
    ),
    Behaviour(
        "index-with-attestations",
        "an index of images, as buildx pushes it, has no scan; the image in it has",
        "scan and parts of an index are those of its image for Linux; our own builds push no attestations",
        "ECR User Guide, Image scanning",
    ),
    Behaviour(
        "registry-login-ends",
        "a login of the registry is over after 12 hours: HTTP 403",
        "each pull, push and read logs in anew",
        "ECR User Guide, Private registry authentication",
    ),
    Behaviour(
        "registry-rates",
        "too many calls of the registry: `ThrottlingException`",
        "repeated by the SDK, then named",
        "ECR User Guide, Amazon ECR service quotas",
    ),
    Behaviour(
        "session-ends",
        "calls of a session that is over are refused: `ExpiredToken`, `ExpiredTokenException`, `RequestExpired`",
        "what runs takes a new login by itself; without one it is named, with `aws sso login`",
        "IAM User Guide, Troubleshoot IAM, and IAM Identity Center User Guide, session duration",
    ),
    Behaviour(
        "command-documents",
        "a command for an unknown document or for a machine that is not online: `InvalidDocument`, `InvalidInstanceId`",
        "named, with where to look",
        "Systems Manager API Reference, SendCommand",
    ),
    Behaviour(
        "command-output",
        "of a command's output the first 24,000 characters are kept",
        "the exit code counts; nothing that is needed comes last in a long output",
        "Systems Manager API Reference, GetCommandInvocation",
    ),
    *map(_refusal, SERVICE_REFUSALS),
    Behaviour(
        "refusal-service-unknown",
        "a code of a service that no page lists",
        "named, with AWS's own words and where codes are listed",
        "the service's API Reference, Common error types",
    ),
)

NOT_IMITATED_OF_SERVICES: tuple[tuple[str, str], ...] = (
    (
        "ECR's largest layer (52,000 MiB) and its rates as such",
        "larger than the disks here; that calls are refused for their number is ordered",
    ),
    ("How long IAM, Lambda and S3 need for what was just made or changed", "counted in refusals, as with EC2"),
    ("When a schedule calls twice, sessions and logins end, limits of queues are reached", "ordered: nobody would wait for them"),
    ("Lambda's minutes between retries of an asynchronous call", "seconds here, with the same order and number"),
    (
        "CloudFormation's checks before a change set (names that are taken are found when it is applied)",
        "its words do not name the resource",
    ),
)
"""(what, why)."""
