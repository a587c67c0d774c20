"""The roles of infra/bootstrap.yaml: their statements as they are written, and the reasons for what no test on this machine can call.

A resource's ``Metadata`` holds under ``NeededOnAws`` a reason by ``Sid`` or by ``Sid action``; CloudFormation ignores it, and an
administrator reads it beside the statement. A reason that begins with ``Sometimes:`` is of a permission that a run of the tests may or may
not use, as it happens to go; every other one says that none does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

SOMETIMES = "Sometimes:"
TEMPLATE = Path(__file__).resolve().parents[2] / "infra" / "bootstrap.yaml"


class TemplateLoader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms; ``!Sub x`` becomes x with its variables, ``!Ref x`` becomes ``${x}``."""


def _short_form(loader: TemplateLoader, name: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value = str(loader.construct_scalar(node))
        return value if name == "Sub" else f"${{{value}}}"
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        return items[1:] if name == "Split" else items  # what is split stands for all of its parts
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


TemplateLoader.add_multi_constructor("!", _short_form)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Statement:
    """``resources`` with variables in the template, rendered in a record of calls; ``conditions``: operator, key, values."""

    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Statement:
        """A statement of a policy document."""
        return cls(
            str(written.get("Sid", "")),
            str(written["Effect"]),
            tuple(_listed(written.get("Action"))),
            tuple(str(resource) for resource in _listed(written.get("Resource"))),
            written.get("Condition") or {},
        )


@dataclass(frozen=True)
class Role:
    """What one role may do, and why it may what nothing here calls."""

    name: str
    statements: tuple[Statement, ...]
    reasons: Mapping[str, str]

    @property
    def version(self) -> str:
        """Another one for other statements, and the same whatever reasons and comments stand beside them."""
        return hashlib.sha256(json.dumps([asdict(statement) for statement in self.statements], sort_keys=True).encode()).hexdigest()[:12]

    def reason(self, permission: str) -> str:
        """What is written for ``Sid action``, or for its whole statement; empty where nothing is."""
        return self.reasons.get(permission) or self.reasons.get(permission.partition(" ")[0], "")


def roles(template: Path = TEMPLATE) -> dict[str, Role]:
    """The template's roles by the last part of their names (``operator``, ``wake``, …)."""
    resources: Mapping[str, Any] = yaml.load(template.read_text(), TemplateLoader)["Resources"]  # noqa: S506 - a SafeLoader
    found = {}
    for name, resource in resources.items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        parts = [resource, *_attached(name, resource, resources)]
        statements = [Statement.read(written) for part in parts for document in _documents(part) for written in document["Statement"]]
        reasons = {sid: why for part in parts for sid, why in (part.get("Metadata") or {}).get("NeededOnAws", {}).items()}
        short = str(resource["Properties"]["RoleName"]).rpartition("${Deployment}-")[2]
        found[short] = Role(short, tuple(statements), reasons)
    return found


def documents(template: Path = TEMPLATE) -> dict[str, list[dict[str, Any]]]:
    """Policy documents as they are written, by the resource that holds them."""
    resources: Mapping[str, Any] = yaml.load(template.read_text(), TemplateLoader)["Resources"]  # noqa: S506 - a SafeLoader
    return {name: list(_documents(resource)) for name, resource in resources.items() if resource["Type"].startswith("AWS::IAM::")}


def _attached(name: str, role: Mapping[str, Any], resources: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    managed = [str(arn).strip("${}") for arn in _listed(role["Properties"].get("ManagedPolicyArns"))]
    return [
        resource
        for other, resource in resources.items()
        if (resource["Type"] == "AWS::IAM::ManagedPolicy" and other in managed)
        or (resource["Type"] == "AWS::IAM::Policy" and f"${{{name}}}" in _listed(resource["Properties"].get("Roles")))
    ]


def _documents(resource: Mapping[str, Any]) -> list[dict[str, Any]]:
    properties = resource["Properties"]
    inline = [policy["PolicyDocument"] for policy in properties.get("Policies") or []]
    return [*inline, properties["PolicyDocument"]] if "PolicyDocument" in properties else inline


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
