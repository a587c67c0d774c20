"""AWS's error answers beyond EC2, each with the call of the system that gets it and how that ends. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServicePlayed:
    """One refusal of one operation. ``end``: ``again``, or the error it becomes; ``remedy``: a part of that one's remedy.

    ``action``: the operation's name in IAM, where it is another.
    """

    service: str
    operation: str
    code: str
    status: int
    words: str
    end: str
    remedy: str = ""
    action: str = ""

    @property
    def id(self) -> str:
        """Its behaviour in the register."""
        return f"refusal-{self.service}-{self.operation}-{self.code.rpartition('.')[2]}"


_LOGIN, _OPERATOR, _QUOTA, _LATER = "aws sso login", "operator role", "Service Quotas", "in some minutes"
_CORRECT = "Correct what it names"
_PUT = "PutBucketNotificationConfiguration"

SERVICE_REFUSALS = (
    ServicePlayed("sqs", "CreateQueue", "AWS.SimpleQueueService.QueueDeletedRecently", 400, "You must wait 60 seconds", "again"),
    ServicePlayed("sqs", "CreateQueue", "QueueAlreadyExists", 400, "different value for attribute", "TriggerError", _CORRECT),
    ServicePlayed("sqs", "CreateQueue", "RequestThrottled", 403, "throttled", "ThrottledError", _LATER),
    ServicePlayed("sqs", "CreateQueue", "AccessDenied", 403, "is denied", "AccessError", _OPERATOR),
    ServicePlayed("sqs", "CreateQueue", "ExpiredToken", 403, "is expired", "SessionError", _LOGIN),
    ServicePlayed("sqs", "SetQueueAttributes", "InvalidAttributeValue", 400, "Invalid value", "TriggerError", _CORRECT),
    ServicePlayed("sqs", "SetQueueAttributes", "KmsAccessDenied", 400, "KMS permissions", "AccessError", "key's policy"),
    ServicePlayed("lambda", "CreateFunction", "InvalidParameterValueException", 400, "cannot be assumed by Lambda", "again"),
    ServicePlayed("lambda", "CreateFunction", "CodeStorageExceededException", 400, "Code storage limit", "QuotaError", _QUOTA),
    ServicePlayed("lambda", "CreateFunction", "TooManyRequestsException", 429, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("lambda", "CreateFunction", "ServiceException", 500, "internal error", "ServiceError", "Health Dashboard"),
    ServicePlayed("lambda", "CreateFunction", "AccessDeniedException", 403, "not authorized", "AccessError", _OPERATOR),
    ServicePlayed("lambda", "CreateFunction", "UnrecognizedClientException", 403, "token included", "SessionError", _LOGIN),
    ServicePlayed("lambda", "UpdateFunctionCode", "ResourceConflictException", 409, "An update is in progress", "again"),
    ServicePlayed("lambda", "CreateEventSourceMapping", "TooManyRequestsException", 429, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("lambda", "UpdateEventSourceMapping", "ResourceInUseException", 400, "because it is in use", "again"),
    ServicePlayed(
        "scheduler", "CreateSchedule", "ValidationException", 400, "must allow AWS EventBridge Scheduler to assume the role", "again"
    ),
    ServicePlayed("scheduler", "CreateSchedule", "ConflictException", 409, "already exists", "again"),
    ServicePlayed("scheduler", "CreateSchedule", "ServiceQuotaExceededException", 402, "service quota", "QuotaError", _QUOTA),
    ServicePlayed("scheduler", "CreateSchedule", "ThrottlingException", 429, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("scheduler", "CreateSchedule", "InternalServerException", 500, "Unexpected error", "ServiceError", _LATER),
    ServicePlayed(
        "s3", _PUT, "InvalidArgument", 400, "Unable to validate the following destination", "again", action="PutBucketNotification"
    ),
    ServicePlayed("s3", _PUT, "OperationAborted", 409, "currently in progress", "again", action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "NoSuchBucket", 404, "does not exist", "TriggerError", _CORRECT, action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "AccessDenied", 403, "Access Denied", "AccessError", _OPERATOR, action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "SlowDown", 503, "reduce your request rate", "ThrottledError", _LATER, action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "InternalError", 500, "internal error", "ServiceError", _LATER, action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "RequestTimeTooSkewed", 403, "too large", "SessionError", "set-ntp", action="PutBucketNotification"),
    ServicePlayed("s3", _PUT, "InvalidAccessKeyId", 403, "does not exist in our", "SessionError", _LOGIN, action="PutBucketNotification"),
    ServicePlayed("logs", "PutRetentionPolicy", "OperationAbortedException", 400, "currently in progress", "again"),
    ServicePlayed("logs", "PutRetentionPolicy", "LimitExceededException", 400, "limit exceeded", "QuotaError", _QUOTA),
    ServicePlayed("logs", "PutRetentionPolicy", "ThrottlingException", 400, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("logs", "PutRetentionPolicy", "ServiceUnavailableException", 500, "cannot complete", "ServiceError", _LATER),
    ServicePlayed("monitoring", "PutMetricAlarm", "LimitExceeded", 400, "maximum limit", "QuotaError", _QUOTA),
    ServicePlayed("monitoring", "PutMetricAlarm", "Throttling", 400, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("monitoring", "PutMetricAlarm", "AccessDeniedException", 403, "not authorized", "AccessError", _OPERATOR),
    ServicePlayed("ecr", "CreateRepository", "RepositoryAlreadyExistsException", 400, "already exists", "again"),
    ServicePlayed("ecr", "CreateRepository", "LimitExceededException", 400, "service limit", "QuotaError", _QUOTA),
    ServicePlayed("ecr", "CreateRepository", "AccessDeniedException", 400, "not authorized", "AccessError", _OPERATOR),
    ServicePlayed("ecr", "CreateRepository", "KmsException", 400, "KMS exception", "AccessError", "key's policy"),
    ServicePlayed("ecr", "DescribeImages", "ThrottlingException", 400, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("ecr", "DescribeImages", "ServerException", 500, "server-side", "ServiceError", _LATER),
    ServicePlayed("ecr", "GetAuthorizationToken", "ExpiredTokenException", 400, "is expired", "SessionError", _LOGIN),
    ServicePlayed("ecr", "GetAuthorizationToken", "InvalidSignatureException", 403, "Signature expired", "SessionError", "set-ntp"),
    ServicePlayed("cloudformation", "CreateChangeSet", "LimitExceededException", 400, "Limit for stacks", "QuotaError", _QUOTA),
    ServicePlayed(
        "cloudformation", "CreateChangeSet", "InsufficientCapabilitiesException", 400, "CAPABILITY_NAMED_IAM", "StackError", "names"
    ),
    ServicePlayed("cloudformation", "CreateChangeSet", "AlreadyExistsException", 400, "already exists", "StackError", "names"),
    ServicePlayed("cloudformation", "CreateChangeSet", "Throttling", 400, "Rate exceeded", "ThrottledError", _LATER),
    ServicePlayed("cloudformation", "ExecuteChangeSet", "InvalidChangeSetStatus", 400, "execution status", "StackError", "Run it again"),
    ServicePlayed("cloudformation", "ExecuteChangeSet", "ChangeSetNotFound", 404, "does not exist", "StackError", "Run it again"),
    ServicePlayed("cloudformation", "DescribeStacks", "AccessDenied", 403, "not authorized", "AccessError", _OPERATOR),
    ServicePlayed("cloudformation", "DescribeStacks", "ExpiredToken", 403, "is expired", "SessionError", _LOGIN),
)
