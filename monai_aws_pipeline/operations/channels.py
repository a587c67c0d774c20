"""The way of a message to people: an SNS topic (mail, and whatever else is subscribed), or a webhook (Slack, Teams, Mattermost, …).

Here belongs sending one message, and saying by a named error that it was not taken. A webhook's address lets anybody write to the
channel: it lies in Secrets Manager, and no error, log line or representation holds it.
Sources: SNS API Reference, "Publish"; Slack, "Sending messages using incoming webhooks" (``{"text": …}``, which the others take too).
"""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of, named, unanswered
from monai_aws_pipeline.cloud.secrets import read_secret
from monai_aws_pipeline.operations.notifications import Message

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients
    from monai_aws_pipeline.settings import Settings

SETTING: Final = "MONAI_AWS_NOTIFY"
TIMEOUT_SECONDS: Final = 10


class DeliveryError(CloudError):
    """A message was not taken. It is tried again."""


class Channel(Protocol):
    """Where messages go."""

    def send(self, message: Message) -> None:
        """Send one. Raises CloudError where it was not taken."""


@dataclass(frozen=True)
class Topic:
    """An SNS topic."""

    sns: Any
    arn: str

    def send(self, message: Message) -> None:
        """Publish it. Raises CloudError."""
        try:
            self.sns.publish(TopicArn=self.arn, Subject=message.subject.encode("ascii", "replace").decode(), Message=message.text)
        except ClientError as error:
            if code_of(error).startswith("NotFound"):
                raise DeliveryError(f"There is no topic {self.arn}.", f"Correct {SETTING}.") from error
            raise named(error, f"a message to {self.arn}", DeliveryError) from error
        except BotoCoreError as error:
            raise unanswered(error, "SNS for a message") or DeliveryError(
                f"SNS was not reached ({type(error).__name__}).", "monai-aws doctor says what is wrong."
            ) from error


@dataclass(frozen=True)
class Webhook:
    """An address that takes JSON by POST."""

    url: str = field(repr=False)

    def send(self, message: Message) -> None:
        """Post it. Raises DeliveryError."""
        body = json.dumps({"text": f"*{message.subject}*\n{message.text}"}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "monai-aws-pipeline"}
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310 - checked_url has judged it
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS):
                return
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except (OSError, ValueError) as error:  # its text may hold the address
            kind = type(getattr(error, "reason", error)).__name__
            raise DeliveryError(f"The webhook gave no answer ({kind}).", "Check this machine's way to it (proxy, name).") from None
        raise DeliveryError(f"The webhook answered {status}.", f"Check that the address in the secret of {SETTING} is still valid.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that leads elsewhere is no webhook: what is posted would become a GET, to an address that nobody has chosen."""

    def redirect_request(self, *_: Any) -> None:
        return None


def checked_url(text: str, secret: str) -> str:
    """The address that a secret holds. Raises DeliveryError where it is none, or plain HTTP beyond this machine; it is not repeated."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http") or any(not sign.isprintable() or sign == " " for sign in url):
        raise DeliveryError(f"The secret {secret} holds no address.", "Store the webhook's address as its whole text: https://…")
    if parts.scheme == "http" and not _is_loopback(host):
        raise DeliveryError(f"The secret {secret} holds an address without TLS.", "Store one that begins with https://.")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def topic_of(settings: Settings) -> str:
    """The ARN of the topic that messages go to; empty where they go to a webhook, or nowhere."""
    if settings.notify == "sns":
        return settings.alarm_topic_arn
    return settings.notify if settings.notify.startswith("arn:") and settings.notify.split(":")[2] == "sns" else ""


def channel_of(settings: Settings, clients: Clients) -> Channel:
    """The channel that the settings name. Raises CloudError where its secret cannot be read or holds no address."""
    if topic := topic_of(settings):
        return Topic(clients.elsewhere(topic.split(":")[3]).sns_messages, topic)
    try:
        return Webhook(checked_url(read_secret(clients.secrets, settings.notify, SETTING), settings.notify))
    except BotoCoreError as error:
        raise unanswered(error, "Secrets Manager for the webhook") or DeliveryError(
            f"The webhook's secret was not read ({type(error).__name__}).", "monai-aws doctor says what is wrong."
        ) from error
