"""Whether somebody hears of trouble and of money: the alarm topic's subscriptions, the channel of notifications, and a budget's tag.

Sources: SNS API Reference, "ListSubscriptionsByTopic" (``PendingConfirmation``); AWS Billing User Guide, "Activating user-defined cost
allocation tags", which only the management account of an organisation may look at. A request to Cost Explorer is billed with 0.01 USD, so
it is made only where a budget depends on the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import DENIED, AccessError, code_of, message_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import stack_name, stack_parameters
from monai_aws_pipeline.contract import TAG_DEPLOYMENT
from monai_aws_pipeline.operations.channels import SETTING, channel_of, topic_of
from monai_aws_pipeline.operations.preflight.answers import OPERATOR, Judgement, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

PENDING: Final = "PendingConfirmation"
ALARM_EMAIL: Final = "Let an administrator run: monai-aws bootstrap --alarm-email ADDRESS, and confirm the mail that AWS sends."


def money_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Alarms, notifications and budget."""
    return [
        Probe("alarm mail", "SNS for the topic's subscriptions", lambda: _alarms(clients, settings), ALARM_EMAIL),
        Probe("notifications", f"AWS for what {SETTING} names", lambda: _notifications(clients, settings)),
        Probe("budget tag", "Cost Explorer for the tag", lambda: _budget_tag(clients, settings)),
    ]


def _parameters(clients: Clients, settings: Settings) -> Mapping[str, str]:
    return stack_parameters(clients.cloudformation, stack_name(settings.deployment))


def _alarms(clients: Clients, settings: Settings) -> Judgement:
    topic = settings.alarm_topic_arn
    if not topic:
        return judge_no_topic(_parameters(clients, settings).get("AlarmEmail", ""))
    return _heard(clients, settings, topic, "MONAI_AWS_ALARM_TOPIC_ARN")


def _heard(clients: Clients, settings: Settings, topic: str, setting: str) -> Judgement:
    try:
        pages = clients.sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        arns = [str(each["SubscriptionArn"]) for page in pages for each in page["Subscriptions"]]
    except ClientError as error:
        if code_of(error) in DENIED and not _is_ours(topic, settings):
            return Judgement(f"{topic} is not the stack's topic, and the operator may not look at its subscriptions", State.SKIPPED)
        if code_of(error).startswith("NotFound"):
            return Judgement(f"there is no topic {topic}", State.ERROR, f"Correct {setting}. {ALARM_EMAIL}")
        raise
    return judge_subscriptions(topic, arns)


def _notifications(clients: Clients, settings: Settings) -> Judgement:
    if not settings.notify:
        return Judgement(f"{SETTING} is empty: nobody is told of failed runs and studies", State.SKIPPED)
    topic = topic_of(settings)
    if topic and topic == settings.alarm_topic_arn:
        return Judgement("they go to the topic of the alarms, see there")
    if topic:
        return _heard(clients, settings, topic, SETTING)
    try:
        channel_of(settings, clients)
    except AccessError as error:
        return judge_secret_denied(error.cause, settings.deployment)
    return Judgement("the webhook's address is readable; nothing was sent to it")


def judge_secret_denied(cause: str, deployment: str) -> Judgement:
    """A secret that the operator may not read: it may read one name."""
    own = f"monai-aws/{deployment}/notify"
    return Judgement(cause, State.ERROR, f"The operator may read the secret {own}: call it so, and set {SETTING}={own}. {OPERATOR}")


def _is_ours(topic: str, settings: Settings) -> bool:
    return topic.rpartition(":")[2].startswith(f"{stack_name(settings.deployment)}-")


def judge_no_topic(alarm_email: str) -> Judgement:
    """Alarms without a topic are asked for by nobody, unless the stack has made one that the settings leave out."""
    if alarm_email:
        return Judgement(
            "the stack has a topic for alarms, and MONAI_AWS_ALARM_TOPIC_ARN is empty: nobody is told",
            State.WARNING,
            "Set MONAI_AWS_ALARM_TOPIC_ARN to the stack's output AlarmTopicArn.",
        )
    return Judgement("MONAI_AWS_ALARM_TOPIC_ARN is empty: alarms show in CloudWatch only", State.SKIPPED)


def judge_subscriptions(topic: str, arns: Sequence[str]) -> Judgement:
    """Whether anybody is told. A subscription by mail counts once the link in AWS's mail was followed."""
    pending = sum(arn == PENDING for arn in arns)
    confirmed = len(arns) - pending
    if not arns:
        return Judgement(f"nobody has subscribed to {topic}", State.WARNING, ALARM_EMAIL)
    if not confirmed:
        return Judgement(
            f"{pending} of {pending} subscriptions to {topic} are pending: nobody is told",
            State.WARNING,
            "Follow the link in the mail that AWS sent (look among the unwanted ones). It is valid for two days; then subscribe anew: "
            "monai-aws bootstrap --alarm-email with another address and back, or SNS's console.",
        )
    return Judgement(f"{confirmed} confirmed subscriptions" + (f", {pending} pending" if pending else ""))


def _budget_tag(clients: Clients, settings: Settings) -> Judgement:
    parameters = _parameters(clients, settings)
    if not parameters.get("BudgetEmail"):
        return Judgement("the stack has no budget (bootstrap --budget-email)", State.SKIPPED)
    if parameters.get("BudgetCounts") != "deployment":
        return Judgement("the budget counts the whole account, whatever its tags", State.SKIPPED)
    try:
        found = clients.costs.list_cost_allocation_tags(TagKeys=[TAG_DEPLOYMENT])["CostAllocationTags"]
    except ClientError as error:
        if code_of(error) in DENIED:
            return judge_tag_hidden(message_of(error))
        raise
    return judge_tag([str(tag["Status"]) for tag in found])


def judge_tag_hidden(message: str) -> Judgement:
    """AWS shows cost allocation tags to the management account alone; a member's refusal is no fault of the policies."""
    ask = f"Ask who keeps the organisation's management account whether {TAG_DEPLOYMENT} is an active cost allocation tag"
    if "inked account" in message:
        return Judgement(f"this is a member account, which may not look at cost allocation tags. {ask}", State.SKIPPED)
    return Judgement("the caller may not look at cost allocation tags", State.ERROR, f"{OPERATOR} {ask}.")


def judge_tag(statuses: Sequence[str]) -> Judgement:
    """Whether a budget by the deployment's tag counts anything."""
    if "Active" in statuses:
        return Judgement(f"{TAG_DEPLOYMENT} is an active cost allocation tag")
    why = "is not active" if statuses else "is not known to Billing yet (up to a day after its first use)"
    return Judgement(
        f"{TAG_DEPLOYMENT} {why}, so the budget counts nothing",
        State.ERROR if statuses else State.WARNING,
        "Let the management account activate it (Billing console, Cost allocation tags, or: aws ce update-cost-allocation-tags-status "
        f"--cost-allocation-tags-status TagKey={TAG_DEPLOYMENT},Status=Active), or let the budget count the whole account: "
        "monai-aws bootstrap --budget-counts account",
    )
