"""Launch order and user data of machines."""

import json

from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.cloud.instances import cloud_config, launch_attempts


def test_every_zone_of_the_preferred_type_is_tried_before_the_next_type():
    offered = {"g5.xlarge": ["us-east-1a"], "g4dn.xlarge": ["us-east-1b", "us-east-1a"]}
    assert list(launch_attempts(("g4dn.xlarge", "g5.xlarge"), offered)) == [
        ("g4dn.xlarge", "us-east-1a"),
        ("g4dn.xlarge", "us-east-1b"),
        ("g5.xlarge", "us-east-1a"),
    ]


def test_a_type_that_is_not_offered_is_passed_over():
    assert list(launch_attempts(("p9.huge",), {})) == []


@given(st.text(), st.text())
def test_no_value_can_break_out_of_the_user_data(content, command):
    text = cloud_config(host_key=("private\n: [", "public"), files=[{"path": "/etc/x", "content": content}], commands=[command])
    first, _, body = text.partition("\n")
    parsed = json.loads(body)
    assert first == "#cloud-config"
    assert parsed["write_files"][0]["content"] == content
    assert parsed["runcmd"] == [command]
    assert parsed["ssh_deletekeys"] is True
