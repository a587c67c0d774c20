"""CloudFormation where ministack is kinder than AWS: what a change set compares, and names that are taken.

Here belongs what AWS does and ministack does not; the rest (defaults on update, retained resources, ids of deleted stacks) ministack does.
Sources: AWS CloudFormation User Guide, "Conditions" and "Update behaviors of stack resources"; words of taken names: reports of users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ministack.services import iam, secretsmanager
from ministack.services.cloudformation import changesets, engine, provisioners

Template = dict[str, Any]


def install() -> None:
    """Put this into ministack's CloudFormation."""
    resolve = changesets._resolve_props_for_diff

    def resolve_what_exists(template: Template, params: dict[str, Any], stack_name: str, stack_id: str) -> Template:
        resolved: Template = resolve(template, params, stack_name, stack_id)
        return without_false_conditions(resolved, engine._evaluate_conditions(template or {}, params))

    changesets._resolve_props_for_diff = resolve_what_exists
    handlers = provisioners._RESOURCE_HANDLERS
    for kind, taken in (("AWS::IAM::Role", _taken_role), ("AWS::SecretsManager::Secret", _taken_secret)):
        handlers[kind]["create"] = _refusing_taken_names(handlers[kind]["create"], taken)


def without_false_conditions(template: Template, conditions: dict[str, bool]) -> Template:
    """A template without the resources that its conditions leave out: they are in no stack, so no change adds or removes them."""
    found = template.get("Resources", {})
    kept = {name: each for name, each in found.items() if conditions.get(each.get("Condition", ""), True)}
    return {**template, "Resources": kept}


def _refusing_taken_names(create: Callable[..., Any], taken: Callable[[dict[str, Any]], str]) -> Callable[..., Any]:
    def create_new(logical_id: str, properties: dict[str, Any], stack_name: str) -> Any:
        if said := taken(properties):
            raise ValueError(f'Resource handler returned message: "{said}" (HandlerErrorCode: AlreadyExists)')
        return create(logical_id, properties, stack_name)

    return create_new


def _taken_role(properties: dict[str, Any]) -> str:
    name = properties.get("RoleName")
    return f"Role with name {name} already exists. (Service: Iam, Status Code: 409, Request ID: 0)" if name in iam._roles else ""


def _taken_secret(properties: dict[str, Any]) -> str:
    name = properties.get("Name")
    said = f"The operation failed because the secret {name} already exists. (Service: SecretsManager, Status Code: 400, Request ID: 0)"
    return said if name in secretsmanager._secrets else ""
