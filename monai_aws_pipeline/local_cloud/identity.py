"""Who may call: the administrator's keys, role sessions of machines, and the end of ministack's universal keys.

ministack treats ``test``, any twelve digits and an empty key as the account's root without looking at a signature. Here nothing of
that is accepted: the administrator is an IAM user with generated keys whose signature is verified like everybody's.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ministack.core import iam_evaluator, responses
from ministack.services import iam, kms, sts

from .config import ACCOUNT
from .metadata import RoleCredentials

ADMIN_USER: Final = "local-admin"
_ADMINISTRATOR: Final = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
ROLE_SESSION_S: Final = 6 * 3600
_REMEMBERED_S: Final = 24 * 3600
"""How long keys that are over are still told so, and not that nobody knows them."""


@dataclass(frozen=True)
class AdminKeys:
    """Access key of the account's administrator."""

    access_key: str
    secret_key: str


def load_admin_keys(state_dir: Path) -> AdminKeys:
    """The administrator's keys of this cloud, generated once and readable by root only."""
    place = state_dir / "admin-keys.json"
    if not place.exists():
        keys = AdminKeys("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(asdict(keys), out)
    return AdminKeys(**json.loads(place.read_text()))


def install_admin(keys: AdminKeys) -> None:
    """Make the administrator an IAM user of the emulated account."""
    arn = f"arn:aws:iam::{ACCOUNT}:user/{ADMIN_USER}"
    user = {"UserName": ADMIN_USER, "Arn": arn, "UserId": "AIDALOCALADMINISTRATO", "CreateDate": iam._now(), "Path": "/"}
    iam._users.set_scoped(ACCOUNT, None, ADMIN_USER, {**user, "AttachedPolicies": [], "Tags": []})
    iam._user_inline_policies.set_scoped(ACCOUNT, None, ADMIN_USER, {"administrator": json.dumps(_ADMINISTRATOR)})
    key = {
        "UserName": ADMIN_USER,
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Status": "Active",
        "CreateDate": iam._now(),
    }
    iam._access_keys.set_scoped(ACCOUNT, None, keys.access_key, key)


def seal_root_keys() -> None:
    """Let no access key pass as root. ``AWS_ACCESS_KEY_ID`` of this process is random and never told to anybody."""

    def is_root_access_key(access_key_id: str) -> bool:
        return bool(access_key_id) and access_key_id == os.environ.get("AWS_ACCESS_KEY_ID")

    iam_evaluator.is_root_access_key = is_root_access_key
    sts.is_root_access_key = is_root_access_key


def refusal(access_key: str, *, anonymous: bool) -> str | None:
    """Why a request is refused before any service sees it, or None."""
    if anonymous:
        return "Request is missing Authentication Token"
    if access_key == os.environ.get("AWS_ACCESS_KEY_ID") or access_key.isdigit():
        return "The security token included in the request is invalid."
    return None


def signed_too_long_ago(headers: Mapping[str, str], now: float) -> bool:
    """Whether AWS would refuse a call for the time in its signature: more than 5 minutes off, for S3 15."""
    signed = headers.get("x-amz-date", "")
    try:
        at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return False
    return abs(now - at) > (900 if "/s3/aws4_request" in headers.get("authorization", "") else 300)


def role_credentials(role_name: str, session_name: str, service: str = "ec2.amazonaws.com") -> RoleCredentials | None:
    """A new session of a role for a machine or a service, or None when the role is gone or does not trust that service."""
    found = role(role_name)
    if found is None or not trusts(found, service):
        return None
    given = RoleCredentials(
        "ASIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30), secrets.token_urlsafe(120), time.time() + ROLE_SESSION_S
    )
    sts.register_session(
        given.access_key,
        {
            "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/{role_name}/{session_name}",
            "UserId": f"{found.get('RoleId', role_name)}:{session_name}",
            "AccountId": ACCOUNT,
            "SecretAccessKey": given.secret_key,
            "SessionToken": given.session_token,
            "Expiration": given.expires_at,
        },
    )
    return given


def session_name(access_key: str) -> str:
    """The name of a role session, which for a machine is its instance id; empty for other callers."""
    session = sts._sessions.get(access_key)
    return str(session["Arn"]).rpartition("/")[2] if session else ""


def caller_arn(access_key: str) -> str:
    """ARN of a caller by access key."""
    session = sts._sessions.get(access_key)
    return str(session["Arn"]) if session else f"arn:aws:iam::{ACCOUNT}:user/{ADMIN_USER}"


def trusts(role: Mapping[str, Any], service: str) -> bool:
    """Whether a role lets a service, named as ``ec2.amazonaws.com``, assume it."""
    document = role.get("AssumeRolePolicyDocument", "")
    parsed = json.loads(document) if isinstance(document, str) and document else document
    statements = parsed.get("Statement", []) if isinstance(parsed, dict) else []
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        if statement.get("Effect") == "Allow" and service in ([services] if isinstance(services, str) else services):
            return True
    return False


def make_role(name: str, path: str, service: str) -> None:
    """Make a role that a service has linked to itself; one that is there stays."""
    if iam._roles.get_scoped(ACCOUNT, None, name) is None:
        trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        role = {
            "RoleName": name,
            "Arn": f"arn:aws:iam::{ACCOUNT}:role{path}{name}",
            "RoleId": "AROA" + secrets.token_hex(8).upper(),
            "CreateDate": iam._now(),
            "Path": path,
            "AssumeRolePolicyDocument": json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            "Description": f"Service-linked role for {service}",
            "MaxSessionDuration": 3600,
            "AttachedPolicies": [],
            "InlinePolicies": {},
            "Tags": [],
        }
        iam._roles.set_scoped(ACCOUNT, None, name, role)


def drop_role(name: str) -> None:
    """Remove a role."""
    as_account()
    iam._roles.pop(name, None)


def role(name_or_arn: str) -> dict[str, Any] | None:
    """A role of the emulated IAM by name or ARN: RoleName, RoleId, Arn, CreateDate, AssumeRolePolicyDocument."""
    found: dict[str, Any] | None = iam._roles.get_scoped(ACCOUNT, None, name_or_arn.rpartition("/")[2])
    return found


def role_arn(name: str) -> str:
    """ARN of a role of the emulated account, also when the role is gone."""
    found = role(name)
    return str(found["Arn"]) if found else f"arn:aws:iam::{ACCOUNT}:role/{name}"


def instance_profile(name_or_arn: str) -> dict[str, Any] | None:
    """An instance profile of the emulated IAM by name or ARN: InstanceProfileName, InstanceProfileId, Arn, Roles."""
    name = name_or_arn.rpartition("/")[2]
    found: dict[str, Any] | None = iam._instance_profiles.get_scoped(ACCOUNT, None, name)
    return found


def roles_of_profile(name_or_arn: str) -> list[str]:
    """ARNs of the roles in an instance profile; none where there is no such profile."""
    profile = instance_profile(name_or_arn)
    roles = profile.get("Roles", []) if profile else []
    return [role_arn(role["RoleName"] if isinstance(role, dict) else role) for role in roles]


def as_account() -> None:
    """Give the current thread the emulated account, which request handlers take from the caller's credentials."""
    responses.set_request_account_id(ACCOUNT)


def key_arn(name: str, region: str) -> str:
    """ARN of a customer's KMS key by its id, ARN or alias; empty where there is none in the region."""
    as_account()
    responses.set_request_region(region)
    key: dict[str, Any] | None = kms._resolve_key(name)
    return str(key["Arn"]) if key else ""


def customer_key(description: str) -> str:
    """ARN of the customer's KMS key with a description; made where there is none."""
    found = next((key for key in kms._keys.values() if key.get("Description") == description), None)
    if found is None:
        kms._create_key({"Description": description})
        found = next(key for key in kms._keys.values() if key.get("Description") == description)
    return str(found["Arn"])


def sessions_state() -> dict[str, Any]:
    """Temporary credentials in force, for persistence; ministack forgets them."""
    return {key: dict(session) for key, session in sts._sessions.items() if session.get("Expiration", 0) > time.time()}


def remember_ended_sessions() -> None:
    """Let ministack forget sessions a day after their end, as AWS says for long that a token has expired, and not at the next login."""

    def forget() -> None:
        before = time.time() - _REMEMBERED_S
        for key in [key for key, session in sts._sessions.items() if session.get("Expiration", before + 1) < before]:
            sts._sessions.pop(key, None)

    sts._evict_expired_sessions = forget


def end_sessions(name: str) -> int:
    """Let temporary credentials be over as if their time were: those of the session of this name, or with ``*`` all; how many."""
    ended = [session for session in sts._sessions.values() if name in ("*", str(session["Arn"]).rpartition("/")[2])]
    for session in ended:
        session["Expiration"] = time.time() - 1
    return len(ended)


def restore_sessions(state: dict[str, Any]) -> None:
    """Bring temporary credentials back, so that programs keep working across a restart."""
    for key, session in state.items():
        sts._sessions.setdefault(key, session)
