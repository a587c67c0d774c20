"""The bill of materials of a MAP: CycloneDX 1.6 JSON from what the agent found in the image (``host_agent.inventory``).

Here belongs the format; where the document is kept is the caller's. The same inventory gives the same components; serial number and time
follow from the image. Format: https://cyclonedx.org/docs/1.6/json/, package URLs: https://github.com/package-url.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

_KINDS: Final = ("debian", "python", "models")


class InventoryError(ValueError):
    """What the agent said about an image is no inventory."""


@dataclass(frozen=True)
class MapImage:
    """The image that is described. ``repository`` with its registry; ``digest`` as ``sha256:…``; ``pushed_at`` with an offset."""

    repository: str
    digest: str
    version: str
    pushed_at: datetime


@dataclass(frozen=True)
class Sbom:
    """The document and how much of each kind it lists."""

    text: str
    counts: dict[str, int]


def parse_inventory(text: str) -> dict[str, Any]:
    """Check the agent's line. Raises InventoryError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InventoryError("the inventory is not JSON") from error
    if not isinstance(data, dict) or not isinstance(data.get("system"), dict):
        raise InventoryError("the inventory is no object, or says no system")
    for kind in _KINDS:
        items = data.get(kind)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InventoryError(f"the inventory has no list of {kind}")
    return data


def make(image: MapImage, inventory: dict[str, Any]) -> Sbom:
    """The document for a checked inventory. Raises InventoryError where an entry lacks a name or a version."""
    # Imported here: the library takes a second, which only a build has to pay.
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    try:
        system = inventory["system"]
        distribution = str(system.get("ID") or "debian")
        release = {"distro": f"{distribution}-{system['VERSION_ID']}"} if system.get("VERSION_ID") else {}
        bom = Bom()
        for item in inventory["debian"]:
            name, version, architecture = str(item["name"]), str(item["version"]), str(item.get("architecture") or "")
            qualifiers = {**({"arch": architecture} if architecture else {}), **release}
            purl = PackageURL("deb", distribution, name, version, qualifiers)
            bom.components.add(Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string()))
        for item in inventory["python"]:
            name, version = str(item["name"]), str(item["version"])
            purl = PackageURL("pypi", None, name, version)
            licences = _licences(str(item.get("license") or ""))
            bom.components.add(
                Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string(), licenses=licences)
            )
        for item in inventory["models"]:
            path, sha256 = str(item["path"]), str(item["sha256"])
            hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]
            kind = ComponentType.MACHINE_LEARNING_MODEL
            bom.components.add(Component(name=path, version=sha256[:12], type=kind, hashes=hashes, bom_ref=f"model:{path}"))
        name = image.repository.rpartition("/")[2]
        purl = PackageURL("oci", None, name, image.digest, {"repository_url": image.repository})
        digest = [HashType(alg=HashAlgorithm.SHA_256, content=image.digest.removeprefix("sha256:"))]
        title, kind = image.repository.partition("/")[2], ComponentType.CONTAINER
        bom.metadata.component = Component(name=title, version=image.version, type=kind, purl=purl, bom_ref="map", hashes=digest)
    except (KeyError, TypeError, ValueError) as error:
        raise InventoryError(f"an entry of the inventory cannot be used ({type(error).__name__})") from error
    bom.metadata.timestamp = image.pushed_at
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"{image.repository}@{image.digest}")
    bom.register_dependency(bom.metadata.component, bom.components)
    return Sbom(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", {kind: len(inventory[kind]) for kind in _KINDS})


def _licences(text: str) -> list[Any]:
    """A licence as SPDX where it is one, else by the name that the package gives it."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(text)] if text else []
