"""Who may call a function: S3, SNS and EventBridge by the function's own policy, EventBridge Scheduler by the role of its schedule, queues
by the function's role.

Without a permission nothing arrives, and nobody is told. All of these calls are asynchronous: Lambda tries a failed one twice more.
Sources: Lambda Developer Guide, "Working with resource-based IAM policies", "Retry behavior"; EventBridge Scheduler User Guide, "Setting
up the execution role", and API Reference, "at-least-once".
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from ministack.core import iam_evaluator, responses
from ministack.services import eventbridge, lambda_svc, s3, scheduler, sns

from . import identity
from .call_record import CallRecord
from .config import ACCOUNT
from .faults import FaultBoard
from .first_uses import FirstUses

_INVOKE: Final = "lambda:InvokeFunction"
_POLLING: Final = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
"""What Lambda does with a queue, by the function's role."""
_log: Final = logging.getLogger("local-cloud.invocations")


def may_invoke(function_arn: str, service: str, source_arn: str) -> bool:
    """Whether a function's policy lets a service call it for one source (AddPermission)."""
    function = lambda_svc._functions.get(function_arn.split(":")[6]) if function_arn.count(":") >= 6 else None
    if function is None:
        return False
    source = {"aws:sourcearn": source_arn, "aws:sourceaccount": ACCOUNT}
    context = iam_evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=_INVOKE,
        resource_arn=function_arn,
        region=responses.get_region(),
        service_context=source,
    )
    return bool(iam_evaluator.evaluate_resource_policy(function["policy"], context, service=service).decision == "Allow")


class Invocations:
    """Calls of functions by other services of one cloud."""

    def __init__(self, faults: FaultBoard, first_uses: FirstUses, calls: CallRecord) -> None:
        self._faults, self._first_uses, self._calls = faults, first_uses, calls

    def install(self) -> None:
        """Put this between ministack's services and its Lambda."""
        self._install_s3()
        self._install_schedules()
        eventbridge._dispatch_to_lambda = _call_asynchronously
        create_source = lambda_svc._create_esm

        def create_where_allowed(data: dict[str, Any]) -> Any:
            source, (_, config, _) = str(data.get("EventSourceArn", "")), lambda_svc._get_func_record_for_ref(data.get("FunctionName", ""))
            unmet = [
                each for each in _POLLING if config and ":sqs:" in source and not self._role_may(config["Role"], "lambda", each, source)
            ]
            if unmet:
                words = f"The provided execution role does not have permissions to call {unmet[0].partition(':')[2]} on SQS"
                return responses.error_response_json("InvalidParameterValueException", words, 400)
            return create_source(data)

        lambda_svc._create_esm = create_where_allowed
        from_topic, from_bucket = sns._deliver_to_lambda, s3._deliver_event_to_lambda

        def deliver_from_topic(endpoint: str, envelope: str, topic_arn: str, *more: Any) -> None:
            if may_invoke(endpoint, "sns.amazonaws.com", topic_arn):
                from_topic(endpoint, envelope, topic_arn, *more)

        def deliver_from_bucket(arn: str, event: dict[str, Any], region: str) -> None:
            if _s3_may(arn, event["Records"][0]["s3"]["bucket"]["arn"]):
                from_bucket(arn, event, region)

        sns._deliver_to_lambda, s3._deliver_event_to_lambda = deliver_from_topic, deliver_from_bucket

    def _role_may(self, role_arn: str, service: str, action: str, resource_arn: str) -> bool:
        """Whether a role trusts a service, named as ``lambda``, and allows an action on a resource: then the service calls with it."""
        role = identity.role(role_arn)
        if role is None or not identity.trusts(role, f"{service}.amazonaws.com"):
            return False
        context = iam_evaluator.EvalContext(
            principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/{role['RoleName']}/{service}",
            principal_type="AssumedRole",
            principal_account=ACCOUNT,
            action=action,
            resource_arn=resource_arn,
            region=responses.get_region(),
        )

        def refusal() -> str | None:
            decision = iam_evaluator.evaluate(context, iam_evaluator._gather_role_policies(role["RoleName"], ACCOUNT)).decision
            return None if decision == "Allow" else str(decision)

        return self._calls.watch(refusal) is None

    def _install_s3(self) -> None:
        validate, allows = s3._validate_notification_configs, s3._notification_destination_allows

        def validate_all(configs: list[dict[str, Any]], region: str, bucket: str = "", skip: bool = False) -> Any:
            refused = validate(configs, region, bucket, skip)
            if refused or skip:
                return refused
            source = f"arn:aws:s3:::{bucket}"
            unreachable = [each["arn"] for each in configs if each["type"] == "lambda" and not _s3_may(each["arn"], source)]
            words = f"Unable to validate the following destination configurations: {', '.join(unreachable)}"
            return s3._invalid_notification_config(words) if unreachable else None

        def allows_by_now(kind: str, arn: str, bucket: str, owner: str) -> bool:
            return bool(allows(kind, arn, bucket, owner)) and not (kind == "sqs" and self._first_uses.queue_policy(arn))

        s3._validate_notification_configs = validate_all
        s3._notification_destination_allows = allows_by_now

    def _install_schedules(self) -> None:
        invoke, create = eventbridge._invoke_target, scheduler._create_schedule

        def invoke_where_allowed(target: dict[str, Any], event: dict[str, Any], rule: dict[str, Any], *more: Any) -> None:
            arn, scheduled = str(target.get("Arn", "")), event.get("Source") == "aws.scheduler" and "FlexibleTimeWindow" in rule
            if ":lambda:" in arn:
                by_role = scheduled and self._role_may(str(target.get("RoleArn", "")), "scheduler", _INVOKE, arn)
                if not (by_role or (not scheduled and may_invoke(arn, "events.amazonaws.com", str(rule.get("Arn", ""))))):
                    _log.warning("%s may not call %s, so it is not called", rule.get("Arn", "an event"), arn)
                    return
            for _ in range(2 if scheduled and self._faults.take_duplicate_wake() else 1):
                invoke(target, event, rule, *more)

        def create_for_role(name: str, body: dict[str, Any]) -> Any:
            role = str((body.get("Target") or {}).get("RoleArn", ""))
            if role and self._first_uses.role("scheduler", role):
                words = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
                return scheduler._error(400, "ValidationException", words)
            return create(name, body)

        eventbridge._invoke_target = invoke_where_allowed
        scheduler._create_schedule = create_for_role


def _s3_may(function_arn: str, bucket_arn: str) -> bool:
    return may_invoke(function_arn, "s3.amazonaws.com", bucket_arn)


def _call_asynchronously(arn: str, payload: str) -> None:
    function, config, name = lambda_svc._get_func_record_for_ref(arn)
    if not function or not config:
        _log.warning("there is no function %s", name)
        return
    lambda_svc.invoke_async_with_retry(lambda_svc._execution_record_for_config(function, config), json.loads(payload))
