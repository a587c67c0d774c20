"""Which resources a call touches, so that IAM policies with resources and tag conditions mean here what they mean on AWS.

ministack checks one resource a call and does not know EC2's; AWS checks all of them, and ``iam:PassRole`` for a role that is handed
on. The first half of this file is pure; ``install`` puts it into ministack.
Source: Service Authorization Reference, Amazon EC2, AWS Systems Manager, IAM, Amazon CloudWatch Logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ministack.core import iam_actions, iam_evaluator
from ministack.services import tagging

from . import autoscaling_protocol, identity, imaging
from .call_record import CallRecord
from .config import ACCOUNT

Parameters = Mapping[str, list[str]]
Check = tuple[str, str, dict[str, Any]]
"""An action, the ARN that it is authorised on, and the context of conditions."""
_KINDS: Final = {
    "i": "instance", "ami": "image", "vol": "volume", "snap": "snapshot", "sg": "security-group", "key": "key-pair", "subnet": "subnet",
    "vpc": "vpc", "eni": "network-interface", "eipalloc": "elastic-ip", "eice": "instance-connect-endpoint",
    "lt": "launch-template",
}  # fmt: skip
_ON_INSTANCES: Final = frozenset(
    ("StartInstances", "StopInstances", "RebootInstances", "TerminateInstances", "ModifyInstanceAttribute", "AssociateIamInstanceProfile",
     "ModifyInstanceMetadataOptions", "MonitorInstances", "GetConsoleOutput")
)  # fmt: skip
_KINDS_WITH_REQUIRED_TAG: Final = {"RunInstances": ("instance", "volume"), "CreateVolume": ("volume",), "CreateSnapshot": ("snapshot",)}
_VIEW_BUDGET: Final = {"budgets:DescribeBudget": "budgets:ViewBudget", "budgets:DescribeBudgets": "budgets:ViewBudget"}
_ON_EVENT_SOURCES: Final = {"GET": "GetEventSourceMapping", "PUT": "UpdateEventSourceMapping", "DELETE": "DeleteEventSourceMapping"}
_ON_LOG_STREAMS: Final = frozenset(("CreateLogStream", "DeleteLogStream", "GetLogEvents", "PutLogEvents"))
_INTERFACE: Final = r"NetworkInterface\.\d+\."
_PASSED_TO: Final = {
    "ec2": "ec2.amazonaws.com", "lambda": "lambda.amazonaws.com", "scheduler": "scheduler.amazonaws.com",
    imaging.SERVICE: "medical-imaging.amazonaws.com",
}  # fmt: skip
_ROLE_FIELDS: Final = {"lambda": "Role", imaging.SERVICE: "dataAccessRoleArn"}


def ec2_resources(action: str, parameters: Parameters, region: str) -> list[str]:  # noqa: PLR0911 - a table of cases
    """ARNs that an EC2 call is authorised on; ``["*"]`` for calls without resource-level permissions (all Describe calls)."""

    def arn(kind: str, name: str) -> str:
        owner = "" if kind in ("image", "snapshot") else ACCOUNT
        return f"arn:aws:ec2:{region}:{owner}:{kind}/{name}"

    def many(field: str) -> list[str]:
        return [value for name, values in sorted(parameters.items()) if re.fullmatch(rf"{field}(\.\d+)?", name) for value in values]

    if action.startswith(("Describe", "Get")) and action != "GetConsoleOutput":
        return ["*"]
    if action == "RunInstances":
        return [
            arn("instance", "*"),
            *(arn("image", name) for name in many("ImageId")),
            *(arn("key-pair", name) for name in many("KeyName")),
            *(arn("security-group", name) for name in many(rf"({_INTERFACE})?SecurityGroupId")),
            *(arn("subnet", name) for name in many(rf"({_INTERFACE})?SubnetId") or ["*"]),
            arn("network-interface", "*"),
            arn("volume", "*"),
            *(arn("spot-instances-request", "*") for _ in many("InstanceMarketOptions.MarketType")),
        ]
    if action in _ON_INSTANCES:
        return [arn("instance", name) for name in many("InstanceId")] or ["*"]
    if action in ("CreateTags", "DeleteTags"):
        return [arn(_KINDS.get(name.partition("-")[0], "*"), name) for name in many("ResourceId")] or ["*"]
    if action == "CreateImage":
        return [*(arn("instance", name) for name in many("InstanceId")), arn("image", "*"), arn("snapshot", "*")]
    if action == "CopyImage":
        return [arn("image", "*"), arn("snapshot", "*")]
    if action == "CreateSecurityGroup":
        return [arn("security-group", "*"), *(arn("vpc", name) for name in many("VpcId"))]
    if action == "CreateLaunchTemplate":
        return [arn("launch-template", "*")]
    if action == "CreateInstanceConnectEndpoint":
        return [
            arn("instance-connect-endpoint", "*"),
            *(arn("subnet", name) for name in many("SubnetId")),
            *(arn("security-group", name) for name in many("SecurityGroupId")),
        ]
    for field, kind in (
        ("InstanceConnectEndpointId", "instance-connect-endpoint"),
        ("LaunchTemplateId", "launch-template"),
        ("GroupId", "security-group"),
        ("ImageId", "image"),
        ("KeyName", "key-pair"),
        ("SnapshotId", "snapshot"),
        ("VolumeId", "volume"),
    ):
        if names := many(field):
            return [arn(kind, name) for name in names]
    return ["*"]


def tags_on_creation(parameters: Parameters) -> dict[str, dict[str, str]]:
    """Tags that a call sets, by resource type (TagSpecification.N)."""
    found: dict[str, dict[str, str]] = {}
    for name, values in parameters.items():
        if match := re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", name):
            tags = {}
            for place, keys in parameters.items():
                if pair := re.fullmatch(rf"TagSpecification\.{match[1]}\.Tag\.(\d+)\.Key", place):
                    tags[keys[0]] = parameters.get(f"TagSpecification.{match[1]}.Tag.{pair[1]}.Value", [""])[0]
            found[values[0]] = tags
    return found


def tags_in_request(action: str, parameters: Parameters) -> dict[str, dict[str, str]]:
    """Tags that a call names, by resource type: those it sets on what it makes, or on what there is (CreateTags, DeleteTags)."""
    if action not in ("CreateTags", "DeleteTags"):
        return tags_on_creation(parameters)
    pairs = {match[1]: values[0] for name, values in parameters.items() if (match := re.fullmatch(r"Tag\.(\d+)\.Key", name))}
    tags = {key: parameters.get(f"Tag.{number}.Value", [""])[0] for number, key in pairs.items()}
    return dict.fromkeys((*_KINDS.values(), "*"), tags)


def ec2_checks(action: str, parameters: Parameters, region: str) -> list[Check]:
    """All that an EC2 call is authorised on: each of its resources, and the tags that it sets on what it makes."""
    asked = tags_in_request(action, parameters)
    checks: list[Check] = []
    for arn in ec2_resources(action, parameters, region):
        kind = arn.rpartition(":")[2].partition("/")[0]
        checks.append((f"ec2:{action}", arn, _request_tags(asked.get(kind, {}))))
    for kind, tags in tags_on_creation(parameters).items():
        owner = "" if kind in ("image", "snapshot") else ACCOUNT
        checks.append(("ec2:CreateTags", f"arn:aws:ec2:{region}:{owner}:{kind}/*", {**_request_tags(tags), "ec2:CreateAction": action}))
    return checks


def ssm_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of a Systems Manager call where ministack's is not AWS's; None to keep ministack's."""
    try:
        data = json.loads(body or b"{}")
    except ValueError:
        return None
    if action == "SendCommand":
        name = str(data.get("DocumentName", ""))
        return f"arn:aws:ssm:{region}:{'' if name.startswith('AWS-') else ACCOUNT}:document/{name}"
    if action in ("GetParameter", "GetParameters") and str(data.get("Name", "")).startswith("/aws/"):
        return f"arn:aws:ssm:{region}::parameter{data['Name']}"
    return None


def ecr_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of a call on one repository that ministack takes for all of them; None to keep ministack's."""
    try:
        data = json.loads(body or b"{}")
        names = data.get("repositoryNames") or []
        if action == "ListTagsForResource":
            return str(data["resourceArn"])
    except (ValueError, AttributeError, KeyError):
        return None
    return f"arn:aws:ecr:{region}:{ACCOUNT}:repository/{names[0]}" if action == "DescribeRepositories" and len(names) == 1 else None


def log_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of a log stream where a call is on one, which ministack takes for its whole group; None to keep ministack's."""
    if action not in _ON_LOG_STREAMS:
        return None
    try:
        data = json.loads(body or b"{}")
        return f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{data['logGroupName']}:log-stream:{data['logStreamName']}"
    except (ValueError, KeyError, TypeError):
        return None


def quota_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of the quota that is asked for; None for calls without resource-level permissions."""
    try:
        data = json.loads(body or b"{}") if action == "GetServiceQuota" else {}
    except ValueError:
        return None
    return f"arn:aws:servicequotas:{region}:{ACCOUNT}:{data['ServiceCode']}/{data['QuotaCode']}" if "QuotaCode" in data else None


def budget_resource(_action: str, body: bytes, _region: str) -> str | None:
    """ARN of the budget that is looked at; None for a list of them."""
    try:
        name = json.loads(body or b"{}").get("BudgetName")
    except (ValueError, AttributeError):
        return None
    return f"arn:aws:budgets::{ACCOUNT}:budget/{name}" if name else None


def ec2_refusal(action: str, principal: str, resource: str, *, explicit: bool) -> str:
    """EC2's words for a call that no policy allows."""
    because = f"because no identity-based policy allows the {action} action"
    return (
        f"You are not authorized to perform this operation. User: {principal} is not authorized to perform: {action} on resource: "
        f"{resource} {'with an explicit deny in an identity-based policy' if explicit else because}. "
        "Encoded authorization failure message: 4GIOHlTkIaWHQD0Q"
    )


def alarm_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of a call on alarms by a list of names, which ministack takes for all of them; None to keep ministack's."""
    if action == "DescribeAlarms":  # a search is authorised on all alarms
        return f"arn:aws:cloudwatch:{region}:{ACCOUNT}:alarm:*"
    named = alarms_deleted(action, body, region)
    return named[0] if named else None


def function_resource(action: str, body: bytes, region: str) -> str | None:
    """ARN of the function that is to be made, which its body names; None to keep ministack's."""
    try:
        name = json.loads(body or b"{}").get("FunctionName") if action == "CreateFunction" else None
    except (ValueError, AttributeError):
        return None
    return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}" if name else None


def alarms_deleted(action: str, body: bytes, region: str) -> list[str]:
    """ARNs of the alarms that a call deletes."""
    try:
        data = json.loads(body or b"{}") if action == "DeleteAlarms" else {}
    except ValueError:
        return []
    return [f"arn:aws:cloudwatch:{region}:{ACCOUNT}:alarm:{name}" for name in data.get("AlarmNames") or []]


def ssm_instances(action: str, body: bytes, region: str) -> list[str]:
    """ARNs of the instances a command is sent to."""
    if action != "SendCommand":
        return []
    try:
        data = json.loads(body or b"{}")
    except ValueError:
        return []
    names = list(data.get("InstanceIds") or [])
    for target in data.get("Targets") or []:
        if str(target.get("Key", "")).lower() == "instanceids":
            names += target.get("Values") or []
    return [f"arn:aws:ec2:{region}:{ACCOUNT}:instance/{name}" for name in names]


def passed_roles(service: str, action: str, parameters: Parameters, body: bytes, roles_of_profile: Callable[[str], list[str]]) -> list[str]:
    """ARNs of roles that a call hands to a service, which needs ``iam:PassRole`` on each."""
    if service == "ec2" and action in ("RunInstances", "AssociateIamInstanceProfile"):
        names = [parameters[field][0] for field in ("IamInstanceProfile.Name", "IamInstanceProfile.Arn") if field in parameters]
        return [role for name in names for role in roles_of_profile(name)]
    wanted = {
        "lambda": ("CreateFunction", "UpdateFunctionConfiguration"),
        "scheduler": ("CreateSchedule", "UpdateSchedule"),
        imaging.SERVICE: ("StartDICOMImportJob",),
    }
    if not action.startswith(wanted.get(service, ("-",))):
        return []
    try:
        data = json.loads(body or b"{}")
    except ValueError:
        return []
    role = data.get(_ROLE_FIELDS[service]) if service in _ROLE_FIELDS else (data.get("Target") or {}).get("RoleArn")
    return [str(role)] if role else []


class Authorizer:
    """The checks that ministack does not make itself."""

    def __init__(
        self,
        tags_of: Callable[[str], dict[str, str]],
        roles_of_profile: Callable[[str], list[str]],
        calls: CallRecord | None = None,
        required_tag: Callable[[], str] = lambda: "",
        other_tags: Callable[[str], dict[str, str]] = lambda _: {},
        scaling_resource: Callable[[Parameters, str], str] = lambda *_: "*",
    ) -> None:
        """``required_tag``: the tag without which the organisation's policy lets nobody make a machine or a disk; empty: none.

        ``other_tags``: tags by ARN of what is neither EC2's nor ministack's. ``scaling_resource``: ARN of the Auto Scaling group of a call.
        """
        self._tags_of = tags_of
        self._roles_of_profile = roles_of_profile
        self._calls = calls
        self._required_tag = required_tag
        self._other_tags = other_tags
        self._scaling_resource = scaling_resource

    def install(self) -> None:
        """Give ministack's own check EC2's and Systems Manager's resources and EC2's tags."""
        original_request_tags = iam_actions.request_tag_context
        original_resource, original_enforce, original_tags = iam_actions.extract_resource_arn, iam_evaluator.enforce, tagging.resource_tags

        def extract_resource_arn(
            service: str, method: str, path: str, headers: dict[str, str], body: bytes, params: Parameters, region: str, account: str
        ) -> str:
            action = (iam_actions.extract_iam_action(service, method, path, headers, body, params) or ":").partition(":")[2]
            if service == "ec2":
                return ec2_resources(action, params, region)[0]
            if service == imaging.SERVICE:
                return imaging.resources(path, region)[0]
            if service == autoscaling_protocol.SERVICE:
                return self._scaling_resource(params, region)
            if service == "iam" and "InstanceProfileName" in params:  # ministack takes it for all of them
                return f"arn:aws:iam::{account}:instance-profile/{params['InstanceProfileName'][0]}"
            if service == "iam" and "RoleName" in params:  # with its path, as far as there is such a role
                return identity.role_arn(params["RoleName"][0])
            named = {
                "ssm": ssm_resource,
                "ecr": ecr_resource,
                "lambda": function_resource,
                "logs": log_resource,
                "monitoring": alarm_resource,
                "servicequotas": quota_resource,
                "budgets": budget_resource,
            }.get(service)
            special = named(action, body, region) if named else None
            return special or str(original_resource(service, method, path, headers, body, params, region, account))

        def enforce(
            access_key: str, action: str, service: str, region: str, resource_arn: str = "*", service_context: dict[str, Any] | None = None
        ) -> Any:
            action = _VIEW_BUDGET.get(action, action)  # what IAM calls it
            context = dict(service_context or {})
            for name, value in self._tags(resource_arn).items():
                context.setdefault(f"ec2:ResourceTag/{name}", value)
                context.setdefault(f"ssm:resourceTag/{name}", value)
                context.setdefault(f"autoscaling:ResourceTag/{name}", value)
            judged = partial(original_enforce, access_key, action, service, region, resource_arn=resource_arn, service_context=context)
            return self._calls.watch(judged) if self._calls else judged()

        def resource_tags(arn: str) -> dict[str, str] | None:
            return self._tags(arn) or original_tags(arn)

        def request_tag_context(service: str, iam_action: str, body: bytes, params: Parameters) -> dict[str, Any]:
            if service == autoscaling_protocol.SERVICE:
                return _request_tags(autoscaling_protocol.request_tags(params))
            if service != "ec2":
                return dict(original_request_tags(service, iam_action, body, params))
            # EC2 sets tags by resource type (TagSpecification.N), which ministack does not read.
            action = iam_action.partition(":")[2]
            kind = ec2_resources(action, params, "")[0].rpartition(":")[2].partition("/")[0]
            return _request_tags(tags_in_request(action, params).get(kind, {}))

        lambda_action = iam_actions._lambda_action

        def action_of_lambda(method: str, path: str) -> str | None:
            named = re.search(r"/event-source-mappings/.", path)  # ministack checks no call on one of them
            return _ON_EVENT_SOURCES.get(method) if named else lambda_action(method, path)

        compile_pattern = iam_evaluator._fnmatch_compile

        def compile_across_lines(pattern: str, ignore_case: bool) -> re.Pattern[str]:
            compiled: re.Pattern[str] = compile_pattern(pattern, ignore_case)
            # "*" covers every character in IAM; ministack's stops at a line break, and an S3 key may hold one.
            return re.compile(compiled.pattern, compiled.flags | re.DOTALL)

        original_denial = iam_actions.access_denied_response

        def access_denied_response(service: str, action: str, principal_arn: str, request_id: str, **options: Any) -> Any:
            if service == "ec2" and not options.get("error_code") and not options.get("message"):
                explicit = bool(options.get("explicit_deny"))
                options["message"] = ec2_refusal(action, principal_arn, options.get("resource_arn", "*"), explicit=explicit)
            return original_denial(service, action, principal_arn, request_id, **options)

        if self._calls:
            self._calls.install()
        iam_actions.access_denied_response = access_denied_response
        iam_actions._lambda_action = action_of_lambda
        iam_evaluator._fnmatch_compile = compile_across_lines
        iam_actions.extract_resource_arn = extract_resource_arn
        iam_actions.request_tag_context = request_tag_context
        iam_evaluator.enforce = enforce
        tagging.resource_tags = resource_tags

    def _tags(self, arn: str) -> dict[str, str]:
        return self._tags_of(arn.rpartition("/")[2]) if arn.startswith("arn:aws:ec2:") else self._other_tags(arn)

    def denied_by_organisation(self, service: str, action: str, parameters: Parameters, region: str) -> str:
        """The resource that a policy of the organisation lets nobody make so; empty where none is in the way."""
        tag = self._required_tag()
        kinds = _KINDS_WITH_REQUIRED_TAG.get(action, ()) if service == "ec2" and tag else ()
        created = tags_on_creation(parameters)
        return next((f"arn:aws:ec2:{region}:{ACCOUNT}:{kind}/*" for kind in kinds if tag not in created.get(kind, {})), "")

    def may(self, access_key: str, action: str, region: str, arn: str, context: dict[str, Any]) -> bool:
        """Whether a caller may do something that another call of theirs comes with."""
        return not iam_evaluator.enforce(access_key, action, action.partition(":")[0], region, resource_arn=arn, service_context=context)

    def check_rest(
        self, service: str, action: str, body: bytes, parameters: Parameters, access_key: str, region: str, path: str = ""
    ) -> Any:
        """Check what ministack left out. Returns (denied, action, resource), or None where all is allowed."""
        checks: list[Check] = []
        if service == "ec2":
            checks += ec2_checks(action, parameters, region)[1:]
        if service == "ssm":
            checks += [(f"ssm:{action}", arn, {}) for arn in ssm_instances(action, body, region)]
        if service == "monitoring":
            checks += [("cloudwatch:DeleteAlarms", arn, {}) for arn in alarms_deleted(action, body, region)[1:]]
        if service == imaging.SERVICE:
            checks += [(f"{service}:{action}", arn, {}) for arn in imaging.resources(path, region)[1:]]
            if action == "CreateDatastore" and b'"tags"' in body:
                checks.append((f"{service}:TagResource", imaging.datastore_arn(region, "*"), {}))
        for role in passed_roles(service, action, parameters, body, self._roles_of_profile):
            checks.append(("iam:PassRole", role, {"iam:PassedToService": _PASSED_TO[service]}))
        for needed, arn, context in checks:
            denied = iam_evaluator.enforce(access_key, needed, service, region, resource_arn=arn, service_context=context)
            if denied:
                return denied, needed, arn
        return None


def _request_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    context: dict[str, Any] = {f"aws:RequestTag/{name}": value for name, value in tags.items()}
    if tags:
        context["aws:TagKeys"] = list(tags)
    return context
