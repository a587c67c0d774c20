"""Who asks, and from where: this machine's programs and clock, the credentials, and whom AWS takes the caller for.

Signatures of AWS hold the time of the caller, and are refused when it is more than five minutes off.
Source: IAM User Guide, "AWS Signature Version 4 for API requests".
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.operations.preflight.answers import Judgement, PreflightError, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

ROLE_NAME_LIMIT: Final = 64
QUEUE_NAME_LIMIT: Final = 80
REFUSED_FROM: Final = timedelta(minutes=5)
NOTICED_FROM: Final = timedelta(minutes=1)
NO_RENEWAL: Final = ("env", "explicit", "shared-credentials-file", "config-file")
"""Where botocore finds temporary keys that nothing renews (its own names)."""
LOG_IN: Final = "Log in (aws sso login), or set AWS_PROFILE."


def machine_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """What this machine needs. No container engine: images are built on machines of AWS."""
    probes = [
        Probe("names", "the settings", lambda: names_fit(settings)),
        Probe("git", "this machine", lambda: _program("git")),
        Probe("clock", "STS for the time", lambda: judge_clock(*_times(clients)), "Check AWS_ENDPOINT_URL and MONAI_AWS_REGION."),
    ]
    if settings.wheelhouse == "collect":
        probes.append(Probe("pip", "this Python", _pip))
    return probes


def identity_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Whom AWS takes the caller for. Without it nothing else of the account can be asked."""
    return [
        Probe(
            "identity", "STS who the caller is", lambda: judge_identity(_arn(clients), settings.names.operator_role), LOG_IN, State.ERROR
        ),
        Probe("credentials", "the SDK for its credentials", lambda: judge_credentials(_credentials(clients), local_time()), LOG_IN),
    ]


def local_time() -> datetime:
    """The time that this machine believes in."""
    return datetime.now(UTC)


# ----------------------------------------------------------------------------------------------------------------- this machine


def names_fit(settings: Settings) -> str:
    """Whether every name that follows from the deployment's is one that AWS takes."""
    names = settings.names
    roles = (names.operator_role, names.build_profile, names.inference_profile, names.wake_role, names.scheduler_role, names.wake_function)
    queues = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    long = [name for name in roles if len(name) > ROLE_NAME_LIMIT] + [name for name in queues if len(name) > QUEUE_NAME_LIMIT]
    if long:
        raise PreflightError(f"too long for AWS: {', '.join(long)}", "Choose a shorter MONAI_AWS_DEPLOYMENT.")
    return f"deployment {settings.deployment}"


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise PreflightError(f"{name} is not installed", f"Install {name}; the application's source is read with it.")
    return found


def _pip() -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise PreflightError("this Python has no pip", "Create the environment with python3 -m venv, or set MONAI_AWS_WHEELHOUSE=none.")
    return " ".join(done.stdout.split()[:2])


# ------------------------------------------------------------------------------------------------------------------------- clock


def _times(clients: Clients) -> tuple[datetime, datetime | None]:
    """This machine's time, and AWS's by the Date header of its answer. Asked without a signature, which a wrong clock would spoil."""
    headers: Mapping[str, str]
    try:
        headers = clients.sts_unsigned.get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:
        headers = error.response["ResponseMetadata"]["HTTPHeaders"]
    date = headers.get("date", "")
    try:
        return local_time(), parsedate_to_datetime(date)
    except ValueError:
        return local_time(), None


def judge_clock(here: datetime, aws: datetime | None) -> Judgement:
    """How far this machine's clock is from AWS's."""
    if aws is None:
        return Judgement(
            "AWS's answer has no time", State.WARNING, "A proxy on the way takes it out: look whether it changes other headers."
        )
    off = here - aws
    way = "ahead of" if off > timedelta(0) else "behind"
    remedy = "Set the clock of this machine: timedatectl set-ntp true (or start chrony)."
    if abs(off) >= REFUSED_FROM:
        return Judgement(f"{abs(off).total_seconds():.0f} s {way} AWS, which refuses signatures from 300 s on", State.ERROR, remedy)
    if abs(off) >= NOTICED_FROM:
        return Judgement(f"{abs(off).total_seconds():.0f} s {way} AWS; from 300 s on it refuses every call", State.WARNING, remedy)
    return Judgement(f"{abs(off).total_seconds():.0f} s {way} AWS")


# ------------------------------------------------------------------------------------------------------------------------ caller


def _arn(clients: Clients) -> str:
    return clients.sts.get_caller_identity()["Arn"]


def judge_identity(arn: str, operator_role: str) -> Judgement:
    """Whether runs would act as the role that was made for them."""
    if f"/{operator_role}/" in arn:
        return Judgement(arn)
    who = "the account's root user" if arn.endswith(":root") else arn
    return Judgement(
        f"{who}, not the role {operator_role}: what is asked below is answered for it, and runs would act as it",
        State.WARNING,
        f"Set AWS_PROFILE to a profile whose role_arn is that of {operator_role} (docs/aws.md, 'Settings').",
    )


@dataclass(frozen=True)
class Credentials:
    """What the SDK found. ``kind``: botocore's name for where; ``renews``: whether it fetches new ones by itself."""

    kind: str
    temporary: bool
    renews: bool
    ends: datetime | None = None


def _credentials(clients: Clients) -> Credentials:
    found = clients.credentials()
    if found is None:
        raise PreflightError("there are none", LOG_IN)
    token = found.get_frozen_credentials().token
    renewable = isinstance(found, RefreshableCredentials)
    ends = getattr(found, "_expiry_time", None)  # botocore tells it nowhere else
    return Credentials(str(found.method), bool(token), renewable and found.method not in NO_RENEWAL, ends if renewable else None)


def judge_credentials(found: Credentials, now: datetime) -> Judgement:
    """Of what kind the credentials are, and when they end."""
    if not found.temporary:
        return Judgement(f"access key ({found.kind}), which does not end by itself")
    ends = f"end at {found.ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if found.ends else "end at a time that they do not tell"
    if found.renews:
        session = "; the login itself ends after its hours (aws sso login)" if found.kind.startswith("sso") else ""
        return Judgement(f"temporary ({found.kind}), {ends} and are renewed by themselves{session}")
    remedy = "Use a profile (role_arn with source_profile, or SSO) instead of keys in the environment: a build and a daemon outlive these."
    if found.ends and found.ends <= now:
        return Judgement(f"temporary ({found.kind}), ended: they {ends}", State.ERROR, LOG_IN)
    return Judgement(f"temporary ({found.kind}), {ends}, and nothing renews them", State.WARNING, remedy)
