"""How services other than EC2 send their refusals: HTTP status and message by service and code, for ordered faults that say nothing else.

Sources: the services' API references, "Errors" and "Common error types"; words from there and from reports of users. Names are examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .ec2_answers import Sent

_RATE: Final = Sent(400, "Rate exceeded")
_EXPIRED: Final = "The security token included in the request is expired"
_INTERNAL: Final = "We encountered an internal error. Please try again."

SERVICES_SENT: Final[Mapping[tuple[str, str], Sent]] = {
    ("sqs", "AWS.SimpleQueueService.QueueDeletedRecently"): Sent(
        400, "You must wait 60 seconds after deleting a queue before you can create another with the same name."
    ),
    ("sqs", "QueueAlreadyExists"): Sent(
        400, "A queue already exists with the same name and a different value for attribute VisibilityTimeout"
    ),
    ("sqs", "InvalidAttributeValue"): Sent(400, "Invalid value for the parameter RedrivePolicy."),
    ("sqs", "RequestThrottled"): Sent(403, "Request is throttled."),
    ("sqs", "KmsAccessDenied"): Sent(400, "The caller does not have the required KMS permissions."),
    ("sqs", "AccessDenied"): Sent(403, "Access to the resource https://sqs.us-east-1.amazonaws.com/ is denied."),
    ("sqs", "ExpiredToken"): Sent(403, _EXPIRED),
    ("lambda", "InvalidParameterValueException"): Sent(400, "The role defined for the function cannot be assumed by Lambda."),
    ("lambda", "ResourceConflictException"): Sent(
        409, "The operation cannot be performed at this time. An update is in progress for resource: monai-aws-dev-wake"
    ),
    ("lambda", "ResourceInUseException"): Sent(400, "Cannot update the event source mapping because it is in use."),
    ("lambda", "CodeStorageExceededException"): Sent(400, "Code storage limit exceeded."),
    ("lambda", "TooManyRequestsException"): Sent(429, "Rate exceeded"),
    ("lambda", "ServiceException"): Sent(500, "The Lambda service encountered an internal error."),
    ("lambda", "AccessDeniedException"): Sent(403, "User is not authorized to perform: lambda:CreateFunction"),
    ("lambda", "UnrecognizedClientException"): Sent(403, "The security token included in the request is invalid."),
    ("scheduler", "ValidationException"): Sent(
        400, "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    ),
    ("scheduler", "ConflictException"): Sent(409, "Schedule monai-aws-dev-wake already exists."),
    ("scheduler", "ServiceQuotaExceededException"): Sent(402, "The request exceeds a service quota."),
    ("scheduler", "ThrottlingException"): Sent(429, "Rate exceeded"),
    ("scheduler", "InternalServerException"): Sent(500, "Unexpected error encountered while processing the request."),
    ("s3", "InvalidArgument"): Sent(400, "Unable to validate the following destination configurations"),
    ("s3", "OperationAborted"): Sent(
        409, "A conflicting conditional operation is currently in progress against this resource. Please try again."
    ),
    ("s3", "NoSuchBucket"): Sent(404, "The specified bucket does not exist"),
    ("s3", "AccessDenied"): Sent(403, "Access Denied"),
    ("s3", "SlowDown"): Sent(503, "Please reduce your request rate."),
    ("s3", "InternalError"): Sent(500, _INTERNAL),
    ("s3", "PermanentRedirect"): Sent(
        301,
        "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests there.",
    ),
    ("s3", "RequestTimeTooSkewed"): Sent(403, "The difference between the request time and the current time is too large."),
    ("s3", "InvalidAccessKeyId"): Sent(403, "The AWS Access Key Id you provided does not exist in our records."),
    ("logs", "OperationAbortedException"): Sent(
        400, "A conflicting operation is currently in progress against this resource. Please try again."
    ),
    ("logs", "LimitExceededException"): Sent(400, "Resource limit exceeded."),
    ("logs", "ThrottlingException"): _RATE,
    ("logs", "ServiceUnavailableException"): Sent(500, "The service cannot complete the request."),
    ("monitoring", "LimitExceeded"): Sent(400, "The maximum limit of alarms has been reached."),
    ("monitoring", "Throttling"): _RATE,
    ("monitoring", "AccessDeniedException"): Sent(403, "User is not authorized to perform: cloudwatch:PutMetricAlarm"),
    ("ecr", "ThrottlingException"): _RATE,
    ("ecr", "LimitExceededException"): Sent(400, "The operation did not succeed because it would have exceeded a service limit."),
    ("ecr", "RepositoryAlreadyExistsException"): Sent(400, "The repository with name 'monai-aws/map' already exists in the registry"),
    ("ecr", "KmsException"): Sent(400, "The operation failed due to a KMS exception."),
    ("ecr", "ServerException"): Sent(500, "These errors are usually caused by a server-side issue."),
    ("ecr", "AccessDeniedException"): Sent(400, "User is not authorized to perform: ecr:CreateRepository"),
    ("ecr", "ExpiredTokenException"): Sent(400, _EXPIRED),
    ("ecr", "InvalidSignatureException"): Sent(403, "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z"),
    ("cloudformation", "LimitExceededException"): Sent(400, "Limit for stacks has been exceeded"),
    ("cloudformation", "InsufficientCapabilitiesException"): Sent(400, "Requires capabilities : [CAPABILITY_NAMED_IAM]"),
    ("cloudformation", "AlreadyExistsException"): Sent(400, "ChangeSet monai-aws-0 already exists"),
    ("cloudformation", "InvalidChangeSetStatus"): Sent(
        400, "ChangeSet [monai-aws-0] cannot be executed in its current execution status of [OBSOLETE]"
    ),
    ("cloudformation", "ChangeSetNotFound"): Sent(404, "ChangeSet [monai-aws-0] does not exist"),
    ("cloudformation", "Throttling"): _RATE,
    ("cloudformation", "AccessDenied"): Sent(403, "User is not authorized to perform: cloudformation:DescribeStacks"),
    ("cloudformation", "ExpiredToken"): Sent(403, "The security token included in the request is expired"),
    ("medical-imaging", "ThrottlingException"): Sent(429, "Rate exceeded"),
    ("medical-imaging", "ConflictException"): Sent(409, "The image set's metadata is not consistent yet. Please try again."),
    ("medical-imaging", "InternalServerException"): Sent(500, "An internal error occurred. Please try again."),
    ("medical-imaging", "AccessDeniedException"): Sent(403, "User is not authorized to perform: medical-imaging:StoreDICOM"),
    ("medical-imaging", "ServiceQuotaExceededException"): Sent(402, "The request exceeds a service quota."),
}
