"""Each point of the MAP format is noticed when it is not kept."""

from __future__ import annotations

import copy
import json

import pytest

from monai_aws_pipeline.maps.conformance import POINTS, check

APP = {
    "apiVersion": "1.0.0", "command": '["python3", "/opt/holoscan/app"]', "environment": {"HOLOSCAN_WORKDIR": "/var/holoscan"},
    "input": {"path": "input/", "formats": ["DICOM"]}, "output": {"path": "output/", "formats": ["DICOM"]}, "sdk": "monai-deploy",
    "sdkVersion": "4.0.0", "timeout": 0, "version": "1.0.0", "workingDirectory": "/var/holoscan",
}  # fmt: skip
PACKAGE = {
    "apiVersion": "1.0.0", "applicationRoot": "/opt/holoscan/app", "modelRoot": "/opt/holoscan/models",
    "models": {"net": "/opt/holoscan/models/net"}, "resources": {"cpu": 1}, "version": "1.0.0",
}  # fmt: skip
NAMES = (
    "INPUT_PATH",
    "OUTPUT_PATH",
    "WORKDIR",
    "APPLICATION",
    "TIMEOUT",
    "MODEL_PATH",
    "CONFIG_PATH",
    "APP_MANIFEST_PATH",
    "PKG_MANIFEST_PATH",
)
IMAGE = {
    "config": {
        "Env": [f"HOLOSCAN_{name}=x" for name in NAMES],
        "Labels": {
            "base": "b", "tag": "t", "org.opencontainers.image.title": "t", "org.opencontainers.image.version": "1.0.0",
            "org.nvidia.holoscan": "4",
        },
        "Entrypoint": ["/var/holoscan/tools"],
        "User": "1000:1000",
    }
}  # fmt: skip
FILES = [
    "/opt/holoscan/app/__main__.py", "/opt/holoscan/models/net/net.ts", "/var/holoscan/tools", "/var/holoscan/app.yaml",
    "/var/holoscan/input/", "var/holoscan/output",
]  # fmt: skip


def points(image=IMAGE, app=APP, package=PACKAGE, files=FILES):
    found = check(image, json.dumps(app) if app is not None else None, json.dumps(package) if package is not None else None, files)
    assert all(finding.message for finding in found)
    return {finding.point for finding in found}


def changed(part, **values):
    part = copy.deepcopy(part)
    part.get("config", part).update(values)
    return part


def test_a_map_has_no_findings():
    assert points() == set()


def test_what_docker_inspect_shows_is_read_as_well():
    assert points(image={"Config": IMAGE["config"]}) == set()


@pytest.mark.parametrize(
    ("point", "arguments"),
    [
        ("app.json", {"app": None}),
        ("app.json", {"app": changed(APP, command="python3 app")}),
        ("pkg.json", {"package": None}),
        ("pkg.json", {"package": changed(PACKAGE, applicationRoot="app")}),
        ("versions", {"package": changed(PACKAGE, version="2.0.0")}),
        ("command", {"app": changed(APP, command='["python3", "/opt/other"]')}),
        ("command", {"app": changed(APP, command='["python3"]')}),
        ("application", {"package": changed(PACKAGE, applicationRoot="/opt/holoscan/nothing")}),
        ("models", {"package": changed(PACKAGE, models={"other": "/opt/holoscan/models/other"})}),
        ("working-directory", {"files": [name for name in FILES if "output" not in name]}),
        ("working-directory", {"files": [name for name in FILES if "tools" not in name]}),
        ("entry-point", {"image": changed(IMAGE, Entrypoint=None)}),
        ("environment", {"image": changed(IMAGE, Env=IMAGE["config"]["Env"][1:])}),
        ("labels", {"image": changed(IMAGE, Labels={**IMAGE["config"]["Labels"], "base": ""})}),
        ("user", {"image": changed(IMAGE, User="")}),
        ("user", {"image": changed(IMAGE, User="0:0")}),
        ("user", {"image": changed(IMAGE, User="holoscan")}),
        ("secrets", {"image": changed(IMAGE, Env=[*IMAGE["config"]["Env"], "AWS_SECRET_ACCESS_KEY=x"])}),
        ("secrets", {"image": changed(IMAGE, Env=[*IMAGE["config"]["Env"], "PIP_INDEX_URL=https://u:p@example.org/simple"])}),
    ],
)
def test_each_point_that_is_not_kept_is_named(point, arguments):
    assert points(**arguments) == {point}
    assert point in POINTS


def test_an_older_map_with_monai_paths_conforms():
    image = changed(
        IMAGE, Env=[f"MONAI_{name.replace('_PATH', 'PATH')}=x" for name in NAMES], Entrypoint=["/opt/monai/executor/monai-exec"]
    )
    files = [*[name for name in FILES if "tools" not in name], "/opt/monai/executor/monai-exec"]
    assert points(image=image, files=files) == set()
