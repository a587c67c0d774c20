"""Two deployments at once on one embedded AWS, one's name the beginning of the other's: each with its own UI, none touched by the other.

Made as docs/local-cloud.md says it, "A deployment of your own".
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import ROLE_MAP_BUILD, IndexEntry, ResultRecord
from monai_aws_pipeline.demo.deployments import open_ui
from monai_aws_pipeline.demo.steps import DemoError, Workplace, read_variables
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.teardown import Teardown
from monai_aws_pipeline.remote import KeyPair
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT
from tests.support.platform import Platform, environment, platform
from tests.support.runs import dagster_ended
from tests.unit.studies.records import job_of, succeeded

pytestmark = pytest.mark.cloud

FIRST, SECOND = "pair", "pair-2"
START_SECONDS = 400


@pytest.fixture(scope="module")
def pair(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Platform]]:
    with ExitStack() as stack:
        made = []
        for name in (FIRST, SECOND):
            place = stack.enter_context(platform(local_cloud, name, tmp_path_factory.mktemp(name), MONAI_AWS_WAKE_EVERY_MINUTES="60"))
            place.clients.make_all(imaging=True)  # as long as this one's operator is who the environment names
            made.append(place)
        yield made[0], made[1]


def furnish(place: Platform) -> None:
    clients, settings, names = place.clients, place.settings, place.settings.names
    with environment(place.variables):
        assert place.materialize("s3_trigger").success
    Registry(clients.ecr, settings.ecr_repository).ensure(settings.deployment, settings.owner)
    Commands(clients.ssm).set_parameter(names.live_map_parameter, f"repository@sha256:{'0' * 64}", "test")
    clients.s3.put_object(Bucket=settings.bucket, Key="processed/kept", Body=b"kept")


def leave_behind(place: Platform) -> None:
    """What a build of an hour ago would have left: two things that a sweep takes."""
    settings, names = place.settings, place.settings.names
    machines, ago = Machines(place.clients.ec2, settings.deployment), datetime.now(UTC) - timedelta(hours=1)
    tags = Tags(settings.deployment, ROLE_MAP_BUILD, settings.owner, "left-behind", names.machine(ROLE_MAP_BUILD), ago)
    machines.security_group(tags, "left behind")
    machines.import_key(tags, KeyPair.fresh().public)


def standing(place: Platform) -> list[str]:
    """Everything of a deployment, with the objects in its bucket."""
    found = Teardown(place.clients, place.settings, lambda _: None).inventory()
    return sorted([*(f"{thing.kind} {thing.id}" for thing in found), *place.keys("")])  # notes say how many messages a queue has just now


def run(place: Platform, *arguments: str) -> str:
    with environment(place.variables):
        result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_neither_sweep_nor_trigger_nor_teardown_of_one_touches_the_other(pair: tuple[Platform, Platform]):
    for place in pair:
        furnish(place)
        leave_behind(place)
    for one, other in (pair[::-1], pair):
        before = standing(other)
        kinds = (
            "alarm",
            "bucket notification",
            "queue",
            "function",
            "schedule",
            "key pair",
            "security group",
            "ECR",
            "parameter",
            "processed",
        )
        assert not [kind for kind in kinds if not any(thing.startswith(kind) for thing in before)]
        with environment(one.variables):
            assert one.materialize("s3_trigger").success
        assert "2 removed" in run(one, "sweep")
        assert standing(other) == before
        leave_behind(one)
    before = standing(pair[1])
    assert "nothing is left" in run(pair[0], "teardown", "--yes")
    assert standing(pair[1]) == before


# ----------------------------------------------------------------------------------------------------------------------------- UIs


def ask(address: str, question: str) -> dict[str, Any]:
    body = json.dumps({"query": question}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310  # our own loopback
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)["data"]
    return found


def variables_of(home: Path, program: str) -> dict[str, str]:
    """The environment that a process really has."""
    pid = json.loads((home / "processes.json").read_text())["processes"][program][0]
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name}


def commit(place: Platform, record: ResultRecord) -> None:
    place.clients.s3.put_object(Bucket=place.settings.bucket, Key=record.commit_key, Body=record.to_json().encode())
    place.clients.s3.put_object(Bucket=place.settings.bucket, Key=record.index_key, Body=IndexEntry.of(record).to_json().encode())


def recorded(home: Path) -> list[str]:
    with DagsterInstance.from_config(str(home)) as instance:
        events = [record.asset_materialization for record in instance.fetch_materializations(INFERENCE_RESULT, limit=10).records]
    return [(event.tags or {})["monai-aws/job"] for event in events if event]


def test_two_uis_stand_beside_each_other_and_each_records_its_own_results(
    pair: tuple[Platform, Platform], local_cloud: LocalCloud, tmp_path: Path
):
    place = Workplace(tmp_path / "demo", local_cloud.config.state_dir, 0)
    env_file = tmp_path / ".env"
    env_file.write_text(f"MONAI_AWS_DEPLOYMENT={SECOND}\nMONAI_AWS_RESULTS_INTERVAL_S=5\nMONAI_AWS_APP_SOURCE=/of/the/env/file\n")
    exported = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "of a real account", "MONAI_AWS_OWNER": "exported"}
    homes = [place.of(name).home for name in (FIRST, SECOND)]
    with ExitStack() as stack, environment(local_cloud.environment):
        for home in homes:
            stack.enter_context(dagster_ended(home))
        first = open_ui(place, {**exported, "MONAI_AWS_DEPLOYMENT": FIRST}, env_file, None, lambda _: None, START_SECONDS)
        second = open_ui(place, exported, env_file, None, lambda _: None, START_SECONDS)
        assert first != second
        for address in (first, second):
            seen = ask(address, "{repositoriesOrError {... on RepositoryConnection {nodes {sensors {name}}}}}")
            assert "study_results" in str(seen)
        for home, made, address in zip(homes, pair, (first, second), strict=True):
            has = variables_of(home, "daemon")
            settings = made.settings
            assert (has["MONAI_AWS_DEPLOYMENT"], has["MONAI_AWS_BUCKET"]) == (settings.deployment, settings.bucket)
            assert has["MONAI_AWS_ECR_REPOSITORY"] == settings.ecr_repository
            assert (has["MONAI_AWS_OWNER"], has["MONAI_AWS_APP_SOURCE"]) == ("exported", "/of/the/env/file")
            assert (has["DAGSTER_HOME"], has["MONAI_AWS_UI_ADDRESS"]) == (str(home), address)
            assert "AWS_ACCESS_KEY_ID" not in has
            assert read_variables(home.parent / "env")["MONAI_AWS_BUCKET"] == settings.bucket
        now = datetime.now(UTC)
        commit(pair[0], succeeded(1, now, outputs=()))
        commit(pair[1], succeeded(2, now, outputs=()))
        deadline = time.monotonic() + START_SECONDS
        while [recorded(home) for home in homes] != [[job_of(1)], [job_of(2)]]:
            assert time.monotonic() < deadline, [recorded(home) for home in homes]
            time.sleep(1)


def test_a_deployment_that_nobody_has_made_is_named_with_the_way_to_make_it(local_cloud: LocalCloud, tmp_path: Path):
    place = Workplace(tmp_path / "demo", local_cloud.config.state_dir, 0)
    with environment(local_cloud.environment), pytest.raises(DemoError, match=r"There is no deployment pair-3 .*monai-aws bootstrap"):
        open_ui(place, {"MONAI_AWS_DEPLOYMENT": "pair-3"}, tmp_path / ".env", None, lambda _: None)


def test_the_bucket_of_one_deployment_is_refused_to_another(pair: tuple[Platform, Platform], local_cloud: LocalCloud, tmp_path: Path):
    place = Workplace(tmp_path / "demo", local_cloud.config.state_dir, 0)
    exported = {"MONAI_AWS_DEPLOYMENT": SECOND, "MONAI_AWS_BUCKET": pair[0].settings.bucket}
    with environment(local_cloud.environment), pytest.raises(DemoError, match=f"deployment {SECOND} has {pair[1].settings.bucket}"):
        open_ui(place, exported, tmp_path / ".env", None, lambda _: None)


def test_the_operator_of_one_acts_with_the_bucket_that_the_administrator_made_for_it(local_cloud: LocalCloud, tmp_path: Path):
    """The commands of the page: bootstrap as the administrator, then the UI's file for the shell, then any command."""
    own = {"MONAI_AWS_DEPLOYMENT": "mine", "MONAI_AWS_OWNER": "me"}
    with environment({**local_cloud.environment, **own}):
        made = CliRunner().invoke(cli, ["bootstrap", "--bucket", "mine-studies", "--allow-plain-http", "--yes"])
    assert made.exit_code == 0, made.output
    place = Workplace(tmp_path / "demo", local_cloud.config.state_dir, 0)
    with environment(local_cloud.environment), dagster_ended(place.of("mine").home):
        open_ui(place, {"PATH": os.environ["PATH"], "MONAI_AWS_DEPLOYMENT": "mine"}, tmp_path / ".env", None, lambda _: None, START_SECONDS)
    with environment(read_variables(place.of("mine").env_file)):
        who = Clients("us-east-1").sts.get_caller_identity()["Arn"]
        status = CliRunner().invoke(cli, ["status", "--json"])
    assert ":assumed-role/monai-aws-mine-operator/" in who
    assert json.loads(status.stdout)["deployment"] == "mine"
    assert read_variables(place.of("mine").env_file)["MONAI_AWS_OWNER"] == "me"
