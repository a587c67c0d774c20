"""What is true of the account as a whole, told as AWS tells it: quotas, cost allocation tags, encryption of disks by default, the role that
spot needs, and subscriptions by mail, which wait until somebody follows the link in the mail.

ministack has neither Service Quotas nor Cost Explorer, makes no budgets for CloudFormation, and takes an address of mail for confirmed at
once; moto does not tell the default key of EBS.
Sources: Service Quotas API Reference; AWS Cost Management API, "ListCostAllocationTags"; EC2 API Reference, "GetEbsDefaultKmsKeyId"; SNS
API Reference, "Subscribe"; IAM User Guide, "Service-linked roles".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from ministack.core import iam_actions, responses, router
from ministack.services import budgets, sns
from ministack.services.cloudformation import provisioners
from moto.ec2.models import ec2_backends

from . import identity
from .config import ACCOUNT
from .faults import FaultBoard

Handler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Any]]
Answer = tuple[int, dict[str, str], bytes]
Json = dict[str, Any]

SPOT_ROLE: Final = "AWSServiceRoleForEC2Spot"
SPOT_SERVICE: Final = "spot.amazonaws.com"
APPLIED_VCPUS: Final = 768
"""What the quotas of this account allow where nothing else was ordered."""
DEFAULT_VCPUS: Final[Mapping[str, int]] = {
    "L-DB2E81BA": 0, "L-3819A6DF": 0, "L-417A185B": 0, "L-7212CCBC": 0, "L-1216C47A": 5, "L-34B43A08": 5,
}  # fmt: skip
"""AWS's own values by quota of EC2, which new accounts have: G and VT, P, Standard, each on demand and spot."""
_SERVICES: Final = (("servicequotas", "service-quotas", "ServiceQuotasV20190624"), ("ce", "ce", "AWSInsightsIndexService"))
"""(signing name, botocore's name, start of the target header)."""
_OWN_KEY: Final = "alias/aws/ebs"
_PENDING: Final = "PendingConfirmation"


class AccountFacts:
    """The facts of one account. Orders about it (``account``) are on the board of faults."""

    def __init__(self, faults: FaultBoard) -> None:
        self._faults = faults
        self._tags: dict[str, str] = {}
        self._confirmed: set[str] = set()

    def install(self, handlers: dict[str, Handler]) -> None:
        """Add the two services that ministack lacks, and look after SNS's subscriptions."""
        for name, model, target in _SERVICES:
            router.SERVICE_PATTERNS[name] = {"credential_scope": name, "target_prefixes": [target]}
            iam_actions.SERVICE_TO_IAM_NAMESPACE[name] = name
            iam_actions._BOTOCORE_SERVICE_MAP[name] = [model]
        handlers["servicequotas"], handlers["ce"] = _json_service(self._quotas), _json_service(self._costs)
        handlers["sns"] = self._subscriptions(handlers["sns"])
        provisioners._RESOURCE_HANDLERS["AWS::Budgets::Budget"] = {
            "create": _make_budget,
            "update": _change_budget,
            "delete": _drop_budget,
        }

    def show_spot_role(self) -> None:
        """Let IAM know the role that spot needs, or not, as ordered."""
        path = f"/aws-service-role/{SPOT_SERVICE}/"
        if self._faults.account.spot_role:
            identity.make_role(SPOT_ROLE, path, SPOT_SERVICE)
        else:
            identity.drop_role(SPOT_ROLE)

    # -------------------------------------------------------------------------------------------------------------------- quotas

    def _quotas(self, action: str, data: Json) -> Any:
        code = str(data.get("QuotaCode", ""))
        if data.get("ServiceCode") != "ec2" or code not in DEFAULT_VCPUS:
            return responses.error_response_json(
                "NoSuchResourceException", "The request failed because the specified resource does not exist.", 400
            )
        if action == "GetServiceQuota":
            value = self._faults.account.vcpus or APPLIED_VCPUS
        elif action == "GetAWSDefaultServiceQuota":
            value = DEFAULT_VCPUS[code]
        else:
            return responses.error_response_json("UnknownOperationException", f"{action} is not emulated.", 400)
        quota = {"ServiceCode": "ec2", "QuotaCode": code, "Value": float(value), "Unit": "None", "Adjustable": True, "GlobalQuota": False}
        return responses.json_response({"Quota": quota})

    # --------------------------------------------------------------------------------------------------------------------- costs

    def _costs(self, action: str, data: Json) -> Any:
        if self._faults.account.member:
            message = "Failed to list Cost Allocation Tags: Linked account doesn't have access to cost allocation tags."
            return responses.error_response_json("AccessDeniedException", message, 400)
        if action == "UpdateCostAllocationTagsStatus":
            self._tags |= {each["TagKey"]: each["Status"] for each in data.get("CostAllocationTagsStatus", [])}
            return responses.json_response({"Errors": []})
        if action == "ListCostAllocationTags":
            keys = data.get("TagKeys") or list(self._tags)
            tags = [{"TagKey": key, "Type": "UserDefined", "Status": self._tags.get(key, "Inactive")} for key in keys]
            return responses.json_response({"CostAllocationTags": tags})
        return responses.error_response_json("UnknownOperationException", f"{action} is not emulated.", 400)

    # --------------------------------------------------------------------------------------------------------------------- disks

    def disks(self, parameters: Mapping[str, list[str]], region: str) -> Answer | None:
        """The answer to an EC2 call about encryption by default; None for every other call."""
        action, disks = parameters.get("Action", [""])[0], ec2_backends[ACCOUNT][region]
        if action in ("EnableEbsEncryptionByDefault", "DisableEbsEncryptionByDefault"):
            disks.ebs_encryption_by_default = action.startswith("Enable")
        if action == "ModifyEbsDefaultKmsKeyId":
            disks.default_kms_key_id = parameters["KmsKeyId"][0]
        if action == "ResetEbsDefaultKmsKeyId":
            disks.default_kms_key_id = ""
        if action.endswith("EbsEncryptionByDefault"):
            return _xml(action, "ebsEncryptionByDefault", str(disks.ebs_encryption_by_default).lower())
        if action.endswith("EbsDefaultKmsKeyId"):
            # moto keeps one of its own there, once it has made an encrypted disk: what KMS does not know is AWS's.
            customer = identity.key_arn(disks.default_kms_key_id, region) if disks.default_kms_key_id else ""
            return _xml(action, "kmsKeyId", customer or _OWN_KEY)
        return None

    # ------------------------------------------------------------------------------------------------------------- subscriptions

    def _subscriptions(self, original: Handler) -> Handler:
        async def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Any:
            status, head, text = await original(method, path, headers, body, query)
            action = {**query, **parse_qs(body.decode(errors="replace"))}.get("Action", [""])[0]
            shown = {"ListSubscriptionsByTopic": _PENDING, "ListSubscriptions": _PENDING, "Subscribe": "pending confirmation"}.get(action)
            for arn in set(_by_mail()) - self._confirmed if shown else ():
                text = text.replace(arn.encode(), str(shown).encode())
            return status, head, text

        return handle

    def confirm(self, topic: str) -> int:
        """Follow the link in every mail about a topic. Returns how many there are."""
        arns = _by_mail(topic)
        self._confirmed.update(arns)
        return len(arns)


def _by_mail(topic: str = "") -> list[str]:
    """ARNs of the subscriptions by mail, of one topic or of all."""
    identity.as_account()
    return [
        str(each["arn"])
        for known in list(sns._topics.values())
        for each in known["subscriptions"]
        if each["protocol"].startswith("email") and (not topic or known["arn"] == topic)
    ]


def _make_budget(_: str, properties: Json, __: str) -> tuple[str, Json]:
    status, _, body = budgets._create_budget(properties)
    if status != 200:
        raise ValueError(body.decode())  # CloudFormation shows it as the resource's failure
    return str(properties["Budget"]["BudgetName"]), {}


def _change_budget(name: str, _: Json, properties: Json, stack: str) -> tuple[str, Json]:
    _drop_budget(name, {})
    return _make_budget("", properties, stack)


def _drop_budget(name: str, _: Json) -> None:
    budgets._budgets.pop(name, None)
    budgets._notification_store.pop(name, None)


def _json_service(answer: Callable[[str, Json], Any]) -> Handler:
    async def handle(*request: Any) -> Any:
        _, _, headers, body, _ = request
        return answer(headers.get("x-amz-target", "").rpartition(".")[2], json.loads(body or b"{}"))

    return handle


def _xml(action: str, name: str, value: str) -> Answer:
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<requestId>{uuid.uuid4()}</requestId><{name}>{value}</{name}></{action}Response>"
    )
    return 200, {"Content-Type": "text/xml;charset=UTF-8"}, text.encode()
