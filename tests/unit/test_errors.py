"""Whoever shows errors knows all that speak to a user by one base class, with a cause and a remedy."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator

import pytest

from monai_aws_pipeline.cloud.errors import CapacityError
from monai_aws_pipeline.contract import ContractError
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code, FailedError
from monai_aws_pipeline.maps.git import SourceMissingError
from monai_aws_pipeline.remote import RemoteCommandError
from monai_aws_pipeline.settings import PROJECT_ROOT

INTERNAL = {
    "monai_aws_pipeline.deployment.registry_upload.UnknownFormatError": "ends a program on a build machine; its engine pushes then",
    "monai_aws_pipeline.local_cloud.autoscaling_launch.LaunchError": "becomes an activity of the group that failed, as AWS has it",
    "monai_aws_pipeline.local_cloud.autoscaling_protocol.QueryError": "is answered as AWS answers",
    "monai_aws_pipeline.local_cloud.imaging.RefusedCall": "is answered as AWS answers",
    "monai_aws_pipeline.local_cloud.imaging_files.RefusedFile": "is answered instance by instance, as AWS does",
    "monai_aws_pipeline.local_cloud.multipart.MultipartError": "is answered as AWS answers",
    "monai_aws_pipeline.cloud.connect_endpoint.TunnelError": "the machine is tried again, and it becomes the cause of a ConnectError",
    "monai_aws_pipeline.host_agent.results.commit.StudiesDecidedError": "the job then goes back to its queue",
    "monai_aws_pipeline.host_agent.runtime.docker_api.EngineError": "becomes the cause of a JobError, or a line of the log",
    "monai_aws_pipeline.host_agent.errors.InterruptedJobError": "the job then goes back to its queue",
    "monai_aws_pipeline.host_agent.results.mesh.MeshError": "becomes the cause of a JobError",
    "monai_aws_pipeline.host_agent.results.preview.NotDrawableError": "the result then has no picture",
    "monai_aws_pipeline.host_agent.results.segmentation.SegmentationError": "a point of the golden study, or the cause of a JobError",
    "monai_aws_pipeline.host_agent.runtime.warm_runner.WarmRefusedError": "the MAP is then hosted per study",
    "monai_aws_pipeline.host_agent.runtime.warm_server.RequestRefusedError": "the same, inside of the MAP, which has none of our modules",
    "monai_aws_pipeline.local_cloud.connect_endpoints.RefusedTunnelError": "the embedded endpoint's answer to a tunnel that it refuses",
    "monai_aws_pipeline.local_cloud.faults.FaultError": "the embedded AWS's answer to an order that makes no sense",
    "monai_aws_pipeline.maps.layers.LayerRefusedError": "becomes a finding of map_conformance",
    "monai_aws_pipeline.maps.sbom.InventoryError": "becomes a line of map_image's metadata",
    "monai_aws_pipeline.maps.spec.series_rules.UndecidedError": "the rule is then left to the application",
}
"""Exceptions that nobody is shown, and what becomes of them instead."""


def exception_classes() -> Iterator[str]:
    """Full names of the exceptions that leave the modules which define them, by reading the code."""
    patterns = ("monai_aws_pipeline/**/*.py", "lambda_fn/*.py", "examples/brain_mri/*.py")
    for path in sorted(path for pattern in patterns for path in PROJECT_ROOT.glob(pattern)):
        module = ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ClassDef)
                and not node.name.startswith("_")
                and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
            ):
                yield f"{module}.{node.name}"


@pytest.mark.parametrize("name", list(exception_classes()))
def test_every_error_that_a_user_is_shown_has_the_one_base(name: str):
    module, _, cls = name.rpartition(".")
    found = getattr(importlib.import_module(module), cls)
    assert issubclass(found, NamedError) != (name in INTERNAL), f"derive {name} from NamedError, or say in INTERNAL why no user is shown it"


def test_the_search_finds_them_and_the_list_of_the_others_is_not_out_of_date():
    names = set(exception_classes())
    assert {
        "monai_aws_pipeline.settings.SettingsError",
        "examples.brain_mri.fetch.FetchError",
        "monai_aws_pipeline.deployment.lambda_package.PackageError",
    } <= names
    assert set(INTERNAL) <= names


def test_an_error_says_its_cause_and_then_its_remedy():
    error = CapacityError("No zone had a machine.", "Name more types.")
    assert (error.cause, error.remedy, str(error)) == (
        "No zone had a machine.",
        "Name more types.",
        "No zone had a machine. Name more types.",
    )


def test_a_remedy_is_optional_and_a_class_may_have_one_for_all_of_its_errors():
    bare = ContractError("job: missing")
    assert (bare.cause, bare.remedy, str(bare)) == ("job: missing", "", "job: missing")
    source = SourceMissingError("there is no folder at /nowhere")
    assert source.remedy == SourceMissingError.remedy
    assert str(source) == f"there is no folder at /nowhere. {source.remedy}"


def test_a_remedy_stands_on_a_line_of_its_own_below_output():
    error = RemoteCommandError("docker build", 1, ["one", "two"], "Free some space.")
    assert str(error) == "docker build failed on the machine with exit code 1. Its last lines:\none\ntwo\nFree some space."


def test_a_failed_job_is_logged_by_code_and_recorded_with_its_remedy():
    error = FailedError(Code.DISK_FULL, "The disk is full.")
    assert str(error) == f"{Code.DISK_FULL}: The disk is full."
    assert error.message == f"The disk is full. {REMEDIES[Code.DISK_FULL]}"
