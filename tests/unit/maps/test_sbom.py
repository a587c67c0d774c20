"""The bill of materials: what is found in an image's file system, and a document that the format's own schema accepts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.contract import sbom_key
from monai_aws_pipeline.host_agent.runtime import image_inventory
from monai_aws_pipeline.maps.sbom import InventoryError, MapImage, make, parse_inventory

IMAGE = MapImage("1.dkr.ecr.us-east-1.amazonaws.com/monai-aws/map", f"sha256:{'a' * 64}", "1.2.0", datetime(2026, 1, 2, tzinfo=UTC))
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u8
Description: GNU C Library
 a long description

Package: gone
Status: deinstall ok config-files
Version: 1.0

"""
SITE = "opt/venv/lib/python3.12/site-packages"
FILES = {
    "etc/os-release": 'ID=ubuntu\nVERSION_ID="24.04"\nNAME=x\n',
    "var/lib/dpkg/status": STATUS,
    f"{SITE}/monai-1.6.1.dist-info/METADATA": "Name: monai\nVersion: 1.6.1\nLicense-Expression: Apache-2.0\n\ntext",
    f"{SITE}/six-1.0.dist-info/METADATA": "Name: six\nVersion: 1.0\nClassifier: License :: OSI Approved :: MIT License\n",
    f"{SITE}/odd-1.dist-info/METADATA": "Name: odd\nVersion: 1\nLicense: Our own words\n",
    f"{SITE}/bare-1.dist-info/METADATA": "Name: bare\nVersion: 1\nLicense: line\n line\n",
    f"{SITE}/monai-1.6.1.dist-info/RECORD": "",
    "opt/holoscan/models/net/net.ts": "weights",
    "opt/holoscan/app/METADATA": "Name: nothing\nVersion: 1\n",
}


def file_system(files: dict[str, str]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("opt/holoscan/models/link")
        link.type, link.linkname = tarfile.SYMTYPE, "net"
        archive.addfile(link)
    return io.BytesIO(stream.getvalue())


def taken(files: dict[str, str] = FILES) -> dict:
    return parse_inventory(image_inventory.read(file_system(files)).to_json())


def test_what_is_installed_is_found_with_its_version_and_licence_and_what_was_removed_is_not():
    found = image_inventory.read(file_system(FILES))
    assert found.system == {"ID": "ubuntu", "VERSION_ID": "24.04"}
    assert found.debian == [image_inventory.Package("libc6", "2.36-9+deb12u8", "", "amd64")]
    assert [(item.name, item.version, item.license) for item in found.python] == [
        ("bare", "1", ""), ("monai", "1.6.1", "Apache-2.0"), ("odd", "1", "Our own words"), ("six", "1.0", "MIT License"),
    ]  # fmt: skip
    assert found.models == [image_inventory.ModelFile("net/net.ts", hashlib.sha256(b"weights").hexdigest(), 7)]


def test_the_document_is_valid_cyclonedx_and_lists_the_map_its_packages_and_its_model():
    made = make(IMAGE, taken())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.text) is None
    document = json.loads(made.text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert made.counts == {"debian": 1, "python": 4, "models": 1}
    components = {item["name"]: item for item in document["components"]}
    assert components["libc6"]["purl"] == "pkg:deb/ubuntu/libc6@2.36-9%2Bdeb12u8?arch=amd64&distro=ubuntu-24.04"
    assert components["monai"]["purl"] == "pkg:pypi/monai@1.6.1"
    assert components["monai"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert components["odd"]["licenses"] == [{"license": {"name": "Our own words"}}]
    assert components["net/net.ts"]["type"] == "machine-learning-model"
    assert components["net/net.ts"]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"weights").hexdigest()}]
    assert document["metadata"]["component"]["hashes"][0]["content"] == "a" * 64
    assert make(IMAGE, taken()).text == made.text
    assert sbom_key(IMAGE.digest) == f"maps/{'a' * 64}/sbom.cdx.json"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"system": {}, "debian": [1], "python": [], "models": []}', '{"system": {}, "debian": [], "python": []}']
)
def test_what_is_no_inventory_is_refused(text: str):
    with pytest.raises(InventoryError):
        parse_inventory(text)


def test_an_entry_without_a_version_is_refused():
    with pytest.raises(InventoryError):
        make(IMAGE, {"system": {}, "debian": [], "python": [{"name": "x"}], "models": []})


def test_a_file_system_of_too_many_packages_or_none_at_all_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_inventory, "_MAX_ITEMS", 3)
    with pytest.raises(ValueError, match="more than 3"):
        taken()
    for damaged in (b"", b"x" * 4096):
        with pytest.raises((tarfile.TarError, OSError, ValueError)):
            image_inventory.read(io.BytesIO(damaged))


words = st.text(max_size=30)


@given(st.lists(st.tuples(words, words, words), max_size=5))
def test_hostile_metadata_gives_a_valid_document_or_none(entries: list[tuple[str, str, str]]):
    files = {
        f"p/x{number}-1.dist-info/METADATA": f"Name: {name}\nVersion: {version}\nLicense: {licence}\n"
        for number, (name, version, licence) in enumerate(entries)
    }
    try:
        made = make(IMAGE, taken(files))
    except InventoryError:
        return
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.text) is None
