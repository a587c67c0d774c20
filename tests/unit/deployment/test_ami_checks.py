"""What is wrong with a machine that was started from an image."""

import pytest

from monai_aws_pipeline.deployment.ami_checks import FACTS, facts_of, faults

SOUND = {
    "engine": "27.5.1",
    "agent": "starts",
    "unit": "enabled",
    "gpu": "Tesla T4",
    "driver": "580.95.05",
    "toolkit": "NVIDIA Container Toolkit CLI version 1.18.0",
    "kernel": "6.14.0-1015-aws",
}


def test_a_sound_machine_has_no_fault_with_and_without_a_gpu():
    assert faults(SOUND, "580") == ()
    assert faults({**SOUND, "gpu": "", "driver": "", "toolkit": ""}, "") == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": ""}, "engine"),
        ({"agent": ""}, "agent does not start"),
        ({"unit": "disabled"}, "is disabled instead of enabled"),
        ({"unit": ""}, "is not there instead of enabled"),
        ({"gpu": ""}, "no GPU"),
        ({"driver": "570.86.10"}, "is 570.86.10 and must be 580"),
        ({"driver": "nonsense"}, "is nonsense and must be 580"),
        ({"toolkit": ""}, "toolkit is missing"),
    ],
)
def test_each_fault_is_told(change, told):
    found = faults({**SOUND, **change}, "580")
    assert len(found) == 1
    assert told in found[0]


def test_what_a_machine_prints_is_read_with_care():
    printed = "engine=1.2=3\nnoise\nrm=-rf\ngpu=" + "x" * 999
    assert facts_of(printed) == {**dict.fromkeys(FACTS, ""), "engine": "1.2=3", "gpu": "x" * 200}
