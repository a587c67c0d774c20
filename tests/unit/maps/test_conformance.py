"""Each point of the MAP format is noticed when it is not kept."""

from __future__ import annotations

import copy
import json

import pytest

from monai_aws_pipeline.maps.conformance import POINTS, check
from tests.unit.maps.map_archives import APP, FILES, IMAGE, PACKAGE


def points(image=IMAGE, app=APP, package=PACKAGE, files=FILES, passwd=None):
    texts = [json.dumps(each) if each is not None else None for each in (app, package)]
    found = check(image, *texts, files, passwd)
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
        ("user", {"image": changed(IMAGE, User="root:monai")}),
        ("user", {"image": changed(IMAGE, User="\u0660")}),
        ("secrets", {"image": changed(IMAGE, Env=[*IMAGE["config"]["Env"], "AWS_SECRET_ACCESS_KEY=x"])}),
        ("secrets", {"image": changed(IMAGE, Env=[*IMAGE["config"]["Env"], "PIP_INDEX_URL=https://u:p@example.org/simple"])}),
    ],
)
def test_each_point_that_is_not_kept_is_named(point, arguments):
    assert points(**arguments) == {point}
    assert point in POINTS


PASSWD = "root:x:0:0:root:/root:/bin/bash\nmonai:x:1000:1000::/home/monai:/bin/bash\ntoor:x:0:0::/root:/bin/sh\ncut:x:1000\n"


@pytest.mark.parametrize(
    ("user", "kept"),
    [("monai", True), ("monai:monai", True), ("1000:monai", True), ("toor", False), ("nobody", False), ("cut", False), ("x", False)],
)
def test_a_user_with_a_name_is_looked_up_and_must_not_be_root(user: str, kept: bool):
    assert points(image=changed(IMAGE, User=user), passwd=PASSWD) == (set() if kept else {"user"})


def test_a_named_user_is_undecided_where_the_layer_with_the_users_was_not_read():
    (found,) = check(changed(IMAGE, User="monai"), json.dumps(APP), json.dumps(PACKAGE), FILES)
    assert found.by_absence
    (found,) = check(changed(IMAGE, User="toor"), json.dumps(APP), json.dumps(PACKAGE), FILES, PASSWD)
    assert not found.by_absence


OLDER_APP = {
    "api-version": "0.1.0", "sdk-version": "0.5.1", "command": "python3 -u /opt/monai/app/app.py", "environment": {},
    "working-directory": "/var/monai", "input": {"path": "input", "formats": []}, "output": {"path": "output", "format": {}},
    "version": "1.0.0", "timeout": 0,
}  # fmt: skip
OLDER_PACKAGE = {
    "api-version": "0.1.0", "sdk-version": "0.5.1", "application-root": "/var/monai", "resources": {"cpu": 1, "gpu": 1, "memory": "1Gi"},
    "models": [{"name": "net-0123", "path": "/opt/monai/models/net/net.ts"}], "version": "1.0.0",
}  # fmt: skip
OLDER_IMAGE = {
    "config": {
        "Env": [f"MONAI_{name}=x" for name in ("INPUTPATH", "OUTPUTPATH", "WORKDIR", "APPLICATION", "TIMEOUT")],
        "Labels": {"base": "b", "tag": "t", "version": "1.0.0", "sdk_version": "0.5.1"},
        "Entrypoint": ["/opt/monai/executor/monai-exec"],
        "User": "monai",
    }
}
OLDER_FILES = [
    "/opt/monai/app/app.py", "/opt/monai/models/net/net.ts", "/opt/monai/executor/monai-exec", "/var/monai/input", "/var/monai/output",
]  # fmt: skip
"""As SDK 0.5's packager wrote them."""


def older(image=OLDER_IMAGE, app=OLDER_APP, package=OLDER_PACKAGE, files=OLDER_FILES, passwd=PASSWD):
    return points(image, app, package, files, passwd)


def test_a_map_of_the_packager_before_this_one_has_no_findings():
    assert older() == set()


@pytest.mark.parametrize(
    ("point", "arguments"),
    [
        ("app.json", {"app": None}),
        ("app.json", {"app": changed(OLDER_APP, command="python3 'app")}),
        ("app.json", {"app": changed(OLDER_APP, **{"sdk-version": ""})}),
        ("pkg.json", {"package": None}),
        ("pkg.json", {"package": changed(OLDER_PACKAGE, models=[{"name": "net"}])}),
        ("pkg.json", {"package": changed(OLDER_PACKAGE, models=["net"])}),
        ("versions", {"image": changed(OLDER_IMAGE, Labels={**OLDER_IMAGE["config"]["Labels"], "version": "2.0.0"})}),
        ("command", {"app": changed(OLDER_APP, command="python3 -u /opt/monai/app/other.py")}),
        ("application", {"package": changed(OLDER_PACKAGE, **{"application-root": "/var/other"})}),
        ("models", {"files": [name for name in OLDER_FILES if "models" not in name]}),
        ("working-directory", {"files": [name for name in OLDER_FILES if "monai-exec" not in name]}),
        ("entry-point", {"image": changed(OLDER_IMAGE, Entrypoint=["/var/holoscan/tools"])}),
        ("environment", {"image": changed(OLDER_IMAGE, Env=OLDER_IMAGE["config"]["Env"][:-1])}),
        ("labels", {"image": changed(OLDER_IMAGE, Labels={**OLDER_IMAGE["config"]["Labels"], "sdk_version": ""})}),
        ("user", {"image": changed(OLDER_IMAGE, User="")}),
        ("secrets", {"image": changed(OLDER_IMAGE, Env=[*OLDER_IMAGE["config"]["Env"], "API_KEY=x"])}),
    ],
)
def test_each_point_that_an_older_map_does_not_keep_is_named(point, arguments):
    assert older(**arguments) == {point}
