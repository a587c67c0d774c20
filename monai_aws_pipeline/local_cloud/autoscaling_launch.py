"""A group's instances are EC2's: launched from a launch template by the call that anybody would make, and seen as EC2 has them.

Here belongs what joins Auto Scaling to ec2.py: template in, machine out, refusals in EC2's words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.serialize import create_serializer
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion

from .autoscaling_plan import Offer, Seen
from .autoscaling_protocol import invalid, service_model
from .autoscaling_records import Group, Template
from .config import ACCOUNT
from .ec2 import Instances
from .ec2_answers import SENT
from .faults import FaultBoard

Json = dict[str, Any]
Ec2Call = Callable[[Mapping[str, str], str], bytes]
"""Answers an EC2 call, given as the fields of its form, in a region."""

_LAUNCHED: Final = ("instance", "volume", "network-interface", "spot-instances-request")


class LaunchError(Exception):
    """EC2 refused; ``code`` and message are EC2's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def find_template(spec: Mapping[str, Any], region: str) -> Template:
    """The version that a LaunchTemplateSpecification means now. Raises QueryError in Auto Scaling's words where there is none."""
    known = ec2_backends[ACCOUNT][region]
    name = spec.get("LaunchTemplateId") or known.launch_template_name_to_ids.get(spec.get("LaunchTemplateName", ""))
    template = known.launch_templates.get(name)
    if template is None:
        field, value = ("ID", spec["LaunchTemplateId"]) if "LaunchTemplateId" in spec else ("name", spec.get("LaunchTemplateName"))
        raise invalid(f"The specified launch template, with template {field} {value}, does not exist.")
    wanted = str(spec.get("Version", "$Default"))
    try:
        version = template.get_version(wanted)
    except (EC2ClientError, ValueError):
        raise invalid(f"Could not find launch template version {wanted} of launch template {template.id}.") from None
    return Template(template.id, template.name, str(version.number), _plain(version.data))


def _plain(data: Any) -> Any:
    """Template data without moto's own types and what is not set."""
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_plain(each) for each in data]
    return str(data) if isinstance(data, Base64EncodedString) else data


def templates_state() -> list[Json]:
    """Launch templates of all regions, for persistence."""
    return [
        {
            "region": region, "id": each.id, "name": each.name, "default": each.default_version_number,
            "tags": {tag["key"]: tag["value"] for tag in each.get_tags()},
            "versions": [{"data": _plain(version.data), "description": version.description} for version in each.versions],
        }
        for region, known in list(ec2_backends[ACCOUNT].items())
        for each in list(known.launch_templates.values())
    ]  # fmt: skip


def restore_templates(state: list[Json]) -> None:
    """Bring launch templates back."""
    for saved in state:
        known = ec2_backends[ACCOUNT][saved["region"]]
        first = saved["versions"][0]
        template = LaunchTemplate(known, saved["name"], first["data"], first["description"], {})
        template.id, template.versions = saved["id"], []
        for version in saved["versions"]:
            data = dict(version["data"])
            if "UserData" in data:
                data["UserData"] = Base64EncodedString(data["UserData"])
            template.versions.append(LaunchTemplateVersion(template, len(template.versions) + 1, data, version["description"]))
        template.default_version_number = saved["default"]
        if saved["tags"]:
            template.add_tags(saved["tags"])
            template.tags = template.get_tags()
        known.launch_templates[template.id] = template
        known.launch_template_name_to_ids[template.name] = template.id
        known.launch_template_insert_order.append(template.id)


def zones_of(group: Group) -> dict[str, str]:
    """Zones of a group with the subnet in each; empty where the zone's default subnet is meant."""
    known = ec2_backends[ACCOUNT][group.region]
    subnets = [each.strip() for each in str(group.settings.get("VPCZoneIdentifier") or "").split(",") if each.strip()]
    found = {}
    for name in subnets:
        try:
            found[str(known.get_subnet(name).availability_zone)] = name
        except EC2ClientError:
            continue
    return found if subnets else dict.fromkeys(group.settings.get("AvailabilityZones", []), "")


def asks_for_spot(launch: Mapping[str, Any], template: Template) -> bool:
    """Whether some of what is launched so are Spot instances. ``template``: the one that ``launch`` names."""
    distribution = launch.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
    return template.is_spot or int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100)) < 100


def launch_form(asked: Json) -> dict[str, str]:
    """Parameters of RunInstances as the fields of its form."""
    model = service_model("ec2").operation_model("RunInstances")
    fields = create_serializer("ec2", include_validation=False).serialize_to_request(asked, model)["body"]
    return {name: str(value) for name, value in fields.items()}


def request(group: Group, template: Template, offer: Offer, subnet: str) -> Json:
    """The parameters of RunInstances for one instance of a group. Pure."""
    data = {name: value for name, value in template.data.items() if name != "TagSpecifications"}
    given = {
        each["ResourceType"]: {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
        for each in template.data.get("TagSpecifications", [])
        if each["ResourceType"] in _LAUNCHED
    }
    own = {tag["Key"]: tag.get("Value", "") for tag in group.tags if tag.get("PropagateAtLaunch")}
    given["instance"] = {**given.get("instance", {}), **own}
    data["TagSpecifications"] = [
        {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind, tags in given.items()
        if tags
    ]
    if offer.spot:
        data["InstanceMarketOptions"] = {"MarketType": "spot"}
    if data.get("NetworkInterfaces") and subnet:
        data["NetworkInterfaces"] = [{**data["NetworkInterfaces"][0], "SubnetId": subnet}, *data["NetworkInterfaces"][1:]]
    elif subnet:
        data["SubnetId"] = subnet
    data["Placement"] = {**data.get("Placement", {}), "AvailabilityZone": offer.zone}
    return {**data, "InstanceType": offer.kind, "MinCount": 1, "MaxCount": 1}


class Machines:
    """The machines of groups."""

    def __init__(self, room: Instances, call: Ec2Call, faults: FaultBoard) -> None:
        self._room, self._call, self._faults = room, call, faults

    def launch(self, group: Group, template: Template, offer: Offer) -> str:
        """Start one; returns its id. Raises LaunchError."""
        form = launch_form(request(group, template, offer, zones_of(group).get(offer.zone, "")))
        fault = self._faults.take("ec2", "RunInstances", "&".join(f"{name}={value}" for name, value in form.items()))
        if fault and fault.code:
            raise LaunchError(fault.code, fault.message)
        text = self._call(form, group.region).decode()
        if refused := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL):
            raise LaunchError(refused[1], html.unescape(refused[2]))
        made = re.search(r"<instanceId>(i-[0-9a-f]+)<", text)
        if made is None:
            raise LaunchError("InternalError", SENT["InternalError"].message)
        tags = {
            "aws:autoscaling:groupName": group.name, "aws:ec2launchtemplate:id": template.id,
            "aws:ec2launchtemplate:version": template.version,
        }  # fmt: skip
        ec2_backends[ACCOUNT][group.region].tags[made[1]].update(tags)  # moto lets nobody set what is AWS's
        return made[1]

    def seen(self, instance_id: str) -> Seen:
        """A machine as it is now."""
        machine = self._room.find(instance_id)
        return Seen(machine.state, machine.interruption is not None) if machine else Seen("")

    def tell(self, region: str, instance_id: str, verb: str) -> None:
        """Have a machine ``start``, ``stop`` or ``terminate``. Raises LaunchError."""
        try:
            getattr(ec2_backends[ACCOUNT][region], f"{verb}_instances")([instance_id])
        except EC2ClientError as error:
            raise LaunchError(str(error.error_type), str(error.message)) from error
