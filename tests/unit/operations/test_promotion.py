"""What is live, what was, and what may become so: read from the parameter's history and the registry, and written only when it may."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner
from dagster import AssetMaterialization, DagsterInstance
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.errors import CommandError, RegistryError
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.registry import ImageParts, PushedImage, Registry
from monai_aws_pipeline.cloud.run_command import ParameterVersion
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import TAG_FAILED_STARTS
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG
from monai_aws_pipeline.maps.spec.expectation import LABEL_STUDY
from monai_aws_pipeline.operations import live_maps
from monai_aws_pipeline.operations.golden_check import NotProvenError, choose_host, parse_golden_check
from monai_aws_pipeline.operations.live_map_change import note
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.promotion import (
    Deployment,
    History,
    Kind,
    NeverLiveError,
    UnknownMapError,
    asks_golden,
    choose_map,
    choose_return,
    history_of,
    live_after_deploy,
    parse_deployment,
)
from monai_aws_pipeline.settings import Settings

DIGESTS = [f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(4)]
ONE, TWO, THREE, FOUR = DIGESTS
SETTINGS = Settings(_env_file=None, deployment="unit", bucket="studies", ecr_repository="unit/map")  # type: ignore[call-arg]
DEPLOY, PROMOTE, ROLLBACK = Kind.DEPLOY, Kind.PROMOTE, Kind.ROLLBACK


def past(*switches: tuple[Kind, str]) -> list[Deployment]:
    return [Deployment(digest, kind, "", "") for kind, digest in switches]


def image(digest: str, tag: str = "") -> PushedImage:
    return PushedImage("registry/unit/map", digest, (tag,) if tag else (), 1, "")


IMAGES = [image(THREE, "3.0.0"), image(TWO, "2.0.0"), image(ONE, "1.0.0")]


# -------------------------------------------------------------------------------------------------------------- what is live


def test_nothing_is_live_before_the_first_deployment():
    assert history_of([]) == History("", (), frozenset())


def test_the_map_before_the_present_one_is_the_one_to_go_back_to():
    assert history_of(past((DEPLOY, ONE), (PROMOTE, TWO))) == History(TWO, (ONE,), frozenset())


def test_two_rollbacks_go_two_steps_back_and_never_to_a_withdrawn_one():
    once = [*past((DEPLOY, ONE), (PROMOTE, TWO), (PROMOTE, THREE)), *past((ROLLBACK, TWO))]
    assert history_of(once) == History(TWO, (ONE,), frozenset({THREE}))
    assert history_of([*once, *past((ROLLBACK, ONE))]) == History(ONE, (), frozenset({THREE, TWO}))


def test_what_is_promoted_after_it_was_withdrawn_is_in_good_standing_again():
    found = history_of(past((DEPLOY, ONE), (PROMOTE, TWO), (ROLLBACK, ONE), (PROMOTE, TWO)))
    assert found == History(TWO, (ONE,), frozenset())


def test_an_older_map_that_was_promoted_again_can_be_rolled_back_too():
    assert history_of(past((DEPLOY, ONE), (PROMOTE, TWO), (PROMOTE, ONE))).before == (TWO,)


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.sampled_from(DIGESTS)), max_size=30))
def test_whatever_the_history_the_last_switch_is_live_and_never_withdrawn_nor_behind_itself(switches: list[tuple[Kind, str]]):
    now = history_of(past(*switches))
    assert now.live == (switches[-1][1] if switches else "")
    assert now.live not in now.withdrawn
    assert now.live not in now.before
    assert not set(now.before) & now.withdrawn


# ------------------------------------------------------------------------------------------------------------ which one is meant


@pytest.mark.parametrize("wanted", ["2.0.0", "registry/unit/map:2.0.0", TWO, TWO[:19], TWO[7:16], f"registry/unit/map@{TWO}"])
def test_a_map_is_named_by_tag_digest_or_the_beginning_of_it(wanted: str):
    assert choose_map(IMAGES, wanted).digest == TWO


def test_without_a_name_the_newest_is_meant():
    assert choose_map(IMAGES, "").digest == THREE


@pytest.mark.parametrize("wanted", ["9.9.9", "sha256:", "2", "..", "sha256:" + "0" * 64])
def test_a_name_that_fits_nothing_is_refused(wanted: str):
    with pytest.raises(UnknownMapError, match="monai-aws maps"):
        choose_map(IMAGES, wanted)


def test_a_beginning_that_fits_two_is_refused():
    twins = [image("sha256:" + "ab" * 32), image("sha256:" + "ab" * 31 + "cd")]
    with pytest.raises(UnknownMapError, match="2 MAPs begin with"):
        choose_map(twins, "abababab")


def test_a_rollback_steps_over_what_is_no_longer_in_the_registry():
    history = past((DEPLOY, ONE), (PROMOTE, FOUR), (PROMOTE, THREE))
    assert choose_return(IMAGES, history, "").digest == ONE


def test_a_rollback_goes_only_where_studies_were_answered_before():
    history = past((DEPLOY, ONE), (PROMOTE, THREE))
    assert choose_return(IMAGES, history, "1.0.0").digest == ONE
    with pytest.raises(NeverLiveError, match=r"monai-aws promote 2\.0\.0"):
        choose_return(IMAGES, history, "2.0.0")
    with pytest.raises(NeverLiveError, match="to go back to"):
        choose_return(IMAGES, past((DEPLOY, ONE)), "")


@pytest.mark.parametrize(
    ("live", "withdrawn", "promote", "expected"),
    [
        ("", frozenset(), False, TWO),  # the first one
        (ONE, frozenset(), True, TWO),
        (ONE, frozenset(), False, ONE),
        (ONE, frozenset({TWO}), True, ONE),  # nobody wants Friday's MAP back because a host was made anew on Monday
        (FOUR, frozenset({TWO}), False, TWO),  # what is live is not in the registry any more: nothing could be pulled
        (TWO, frozenset(), False, TWO),
    ],
)
def test_what_a_deployment_makes_live(live: str, withdrawn: frozenset[str], promote: bool, expected: str):
    digest, why_not = live_after_deploy(History(live, (), withdrawn), TWO, {ONE, TWO}, promote)
    assert digest == expected
    assert bool(why_not) == (digest != TWO)


# ----------------------------------------------------------------------------------------------------------------- the proof


def machine(name: str, state: str) -> Machine:
    return Machine(name, state, "g4dn.xlarge", "ami-1", "", {}, "")


def test_a_stopped_host_is_asked_before_one_that_may_be_answering_studies():
    assert choose_host([machine("i-1", "running"), machine("i-2", "stopped")]).id == "i-2"
    assert choose_host([machine("i-1", "running")]).id == "i-1"
    failing = replace(machine("i-1", "stopped"), tags={TAG_FAILED_STARTS: "2 2026-11-28T09:00:00.000Z InsufficientInstanceCapacity"})
    assert choose_host([failing, machine("i-2", "running")]).id == "i-2", "which may not start"
    assert choose_host([failing]).id == "i-1"
    with pytest.raises(NotProvenError, match="Materialise inference_host"):
        choose_host([machine("i-1", "terminated")])


def said(golden: str, *points: dict[str, object]) -> str:
    return "log\n" + json.dumps({"image": "i", "digest": TWO, "golden": golden, "points": points, "seconds": 7.5}) + "\n"


def test_a_passed_and_a_missed_golden_study_are_told_point_by_point():
    proof = parse_golden_check("i-1", 0, said("passed", {"name": "volume", "expected": "1-2 l", "found": "1.4 l", "ok": True}), "")
    assert (proof.golden, proof.missed, proof.seconds) == ("passed", (), 7.5)
    proof = parse_golden_check("i-1", 4, said("failed", {"name": "volume", "expected": "1-2 l", "found": 3, "ok": False}), "")
    assert [str(point) for point in proof.missed] == ["volume: expected 1-2 l, found 3"]


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "words"),
    [
        (2, "", "error: argument command: invalid choice: 'prove' (choose from run, prepare)", "Materialise gpu_ami"),
        (3, "", "CRITICAL no space left", "no space left"),
        (0, said("failed"), "", "did not say"),  # exit code and words contradict each other
        (4, said("passed"), "", "did not say"),
        (0, "[]", "", "did not say"),
        (0, "", "", "did not say"),
        (137, said("passed"), "Killed", "Killed"),
        (0, '{"golden": ["passed"]}', "", "did not say"),
    ],
)
def test_what_is_no_clear_yes_promotes_nothing(code: int, stdout: str, stderr: str, words: str):
    with pytest.raises(NotProvenError, match=words):
        parse_golden_check("i-1", code, stdout, stderr)


@given(st.text(max_size=200))
def test_no_output_of_a_host_is_believed_by_accident(text: str):
    with pytest.raises(NotProvenError):
        parse_golden_check("i-1", 0, text, text)


# ------------------------------------------------------------------------------------------------------ the parameter's words


def test_the_description_says_how_what_before_who_and_why_and_is_read_back():
    text = note(PROMOTE, image(TWO, "2.0.0"), ONE, "team, run 12ab34cd", "better\nrecall" + "x" * 2000)
    assert text.startswith(f"promote 2.0.0; before: {ONE}; by team, run 12ab34cd; why: better recall")
    assert len(text) <= 1024
    found = parse_deployment(ParameterVersion(f"r/m@{TWO}", text, "2026-01-01"))
    assert found is not None
    assert (found.digest, found.kind) == (TWO, PROMOTE)


def test_a_version_that_names_no_digest_is_left_out_and_foreign_words_count_as_a_deployment():
    assert parse_deployment(ParameterVersion("latest", "promote", "")) is None
    found = parse_deployment(ParameterVersion(f"r/m@{TWO}", "set by hand", ""))
    assert found is not None
    assert found.kind is DEPLOY


# --------------------------------------------------------------------------------------------------------------- with AWS's calls


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "unit")
    monkeypatch.setenv("MONAI_AWS_ECR_REPOSITORY", "unit/map")
    with mock_aws():
        yield Clients("us-east-1")


def push(clients: Clients, *tags: str) -> list[str]:
    clients.ecr.create_repository(repositoryName="unit/map")
    digests = []
    for tag in tags:
        layer = {"digest": f"sha256:{hashlib.sha256(tag.encode()).hexdigest()}", "size": 1}  # of which moto makes the image's digest
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": layer,
            "layers": [layer],
        }
        put = clients.ecr.put_image(repositoryName="unit/map", imageTag=tag, imageManifest=json.dumps(manifest))
        digests.append(put["image"]["imageId"]["imageDigest"])
    return digests


def test_maps_says_what_each_image_is_and_a_rollback_goes_back_and_says_so(clients: Clients):
    first, second, *_ = push(clients, "1.0.0", "2.0.0", "3.0.0", f"dependencies-{'0a' * 16}", f"model-{'1b' * 16}")
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    for digest in (first, second):
        live.switch(DEPLOY, next(each.image for each in live.maps() if each.image.digest == digest), "test", "")
    assert {each.image.tags[0]: each.standing for each in live.maps()} == {"1.0.0": "previous", "2.0.0": "live", "3.0.0": ""}

    done = CliRunner().invoke(cli, ["rollback", "--why", "measures too much"])
    assert done.exit_code == 0, done.output
    assert "live MAP is now 1.0.0" in done.output
    assert live.live() == first
    assert {each.image.tags[0]: each.standing for each in live.maps()} == {"1.0.0": "live", "2.0.0": "withdrawn", "3.0.0": ""}
    assert live.history()[-1].note == f"rollback 1.0.0; before: {second}; by unknown, monai-aws rollback; why: measures too much"
    listed = json.loads(CliRunner().invoke(cli, ["maps", "--json"]).output)
    assert {each["digest"]: each["standing"] for each in listed}[second] == "withdrawn"
    table = CliRunner().invoke(cli, ["maps"]).output
    assert "withdrawn" in table
    assert "3.0.0" in table


def test_nothing_is_written_when_nothing_may_change(clients: Clients):
    first, _ = push(clients, "1.0.0", "2.0.0")
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    live.switch(DEPLOY, choose_map([each.image for each in live.maps()], first), "test", "")
    assert not live.promote("1.0.0", "test").changed
    assert not live.rollback("1.0.0", "test").changed
    with pytest.raises(NotProvenError, match="no inference host"):
        live.promote("2.0.0", "test")
    with pytest.raises(NeverLiveError):
        live.rollback("", "test")
    assert len(live.history()) == 1


def test_a_map_that_was_removed_meanwhile_does_not_become_live(clients: Clients):
    first, second = push(clients, "1.0.0", "2.0.0")
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    images = {each.image.digest: each.image for each in live.maps()}
    live.switch(DEPLOY, images[first], "test", "")
    clients.ecr.batch_delete_image(repositoryName="unit/map", imageIds=[{"imageDigest": second}])
    with pytest.raises(RegistryError, match="has no image"):
        live.switch(PROMOTE, images[second], "test", "")
    assert live.live() == first


def test_a_registry_without_images_says_what_to_do(clients: Clients):
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    assert live.maps() == ()
    with pytest.raises(UnknownMapError, match="Materialise map_image"):
        live.promote("", "test")


def test_a_missed_golden_study_changes_nothing_and_names_the_points(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    first, second = push(clients, "1.0.0", "2.0.0")
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    live.switch(DEPLOY, choose_map([each.image for each in live.maps()], first), "test", "")
    points = (
        {"name": "volume", "expected": "1-2 l", "found": "3 l", "ok": False},
        {"name": "files", "expected": "1", "found": "1", "ok": True},
    )
    monkeypatch.setattr(
        LiveMaps, "_prove", lambda *_: parse_golden_check("i-1", 4, said("failed", *points), "")
    )  # no machine answers commands here
    with pytest.raises(NotProvenError, match=r"2\.0\.0 missed its golden study on host i-1.*Missed: volume: expected 1-2 l, found 3 l\."):
        live.promote(second, "test")
    assert live.live() == first
    assert len(live.history()) == 1
    monkeypatch.setattr(LiveMaps, "_prove", lambda *_: parse_golden_check("i-1", 0, said("passed", points[1]), ""))
    change = live.promote(second, "test", "better")
    assert (live.live(), change.previous, change.proof and change.proof.golden) == (second, first, "passed")


@pytest.mark.parametrize("others_end_too", [False, True])
def test_where_an_instance_of_a_group_ends_while_it_is_asked_another_one_is_asked_once(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, others_end_too: bool
):
    push(clients, "1.0.0")
    said_to_user, asked = list[str](), list[str]()
    live = LiveMaps(clients, SETTINGS.model_copy(update={"fleet": "autoscaling"}), said_to_user.append)

    def proof(_: LiveMaps, instance: str, *__: object) -> object:
        asked.append(instance)
        if instance == "i-1" or others_end_too:
            raise CommandError("It has ended.", "")
        return parse_golden_check(instance, 0, said("passed"), "")

    monkeypatch.setattr(live_maps, "instance_in_service", lambda *_, but: f"i-{len(but) + 1}")
    monkeypatch.setattr(live._commands, "wait_online", lambda *_, **__: True)
    monkeypatch.setattr(LiveMaps, "_is_on", lambda *_: False)
    monkeypatch.setattr(LiveMaps, "_proof_of", proof)
    image = next(each.image for each in live.maps())
    if others_end_too:
        with pytest.raises(CommandError):
            live._prove(image)
    else:
        assert live._prove(image).host == "i-2"
    assert asked == ["i-1", "i-2"], "not the first one again"
    assert said_to_user == ["i-1 has ended meanwhile: another one is asked"]


def answering(golden: str, exit_code: int = 0):
    """What a host says in the place of a machine."""
    return lambda *_: parse_golden_check("i-1", exit_code, said(golden), "")


def test_a_promotion_that_requires_the_golden_study_fails_without_one_and_asks_again_about_the_live_map(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
):
    first, second = push(clients, "1.0.0", "2.0.0")
    live = LiveMaps(clients, SETTINGS, lambda _: None)
    live.switch(DEPLOY, choose_map([each.image for each in live.maps()], first), "test", "")
    monkeypatch.setattr(LiveMaps, "_prove", answering("none"))
    for wanted in (second, first):
        with pytest.raises(NotProvenError, match=r"brings no golden study.*stays live"):
            live.promote(wanted, "test", require_golden=True)
    done = CliRunner().invoke(cli, ["promote", "--require-golden"])
    assert isinstance(done.exception, NotProvenError)
    assert live.live() == first
    monkeypatch.setattr(LiveMaps, "_prove", answering("failed", 4))
    with pytest.raises(NotProvenError, match="monai-aws rollback"):
        live.promote(first, "test", require_golden=True)
    monkeypatch.setattr(LiveMaps, "_prove", answering("passed"))
    assert not live.promote(first, "test", require_golden=True).changed
    assert CliRunner().invoke(cli, ["promote", "2.0.0", "--require-golden"]).exit_code == 0
    assert live.live() == second


def test_the_map_that_was_built_here_is_promoted_although_another_was_pushed_last(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    first, second = push(clients, "1.0.0", "2.0.0")
    monkeypatch.setattr(LiveMaps, "_prove", answering("passed"))
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("DAGSTER_HOME", home)
        assert "has not made a map_image" in CliRunner().invoke(cli, ["promote", "--built"]).output
        with DagsterInstance.get() as instance:
            instance.report_runless_asset_event(AssetMaterialization("map_image", tags={DATA_VERSION_TAG: first}))
        done = CliRunner().invoke(cli, ["promote", "--built"])
    assert done.exit_code == 0, done.output
    assert LiveMaps(clients, SETTINGS, lambda _: None).live() == first
    assert second
    monkeypatch.delenv("DAGSTER_HOME")
    assert "needs DAGSTER_HOME" in CliRunner().invoke(cli, ["promote", "--built"]).output
    assert CliRunner().invoke(cli, ["promote", "--built", "1.0.0"]).exit_code == 2


LABELLED = {"config": {"Labels": {LABEL_STUDY: "5" * 64}}}


@pytest.mark.parametrize(
    ("config", "digest", "history", "asks"),
    [
        (LABELLED, ONE, [], False),  # the first takes nobody's place
        (LABELLED, TWO, past((DEPLOY, ONE)), True),
        (LABELLED, ONE, past((DEPLOY, ONE), (PROMOTE, TWO)), False),  # it answered studies before
        ({"config": {"Labels": {LABEL_STUDY: ""}}}, TWO, past((DEPLOY, ONE)), False),
        ({"config": {"Labels": None}}, TWO, past((DEPLOY, ONE)), False),
        ({}, TWO, past((DEPLOY, ONE)), False),
    ],
)
def test_which_deployments_ask_the_golden_study(config: dict[str, object], digest: str, history: list[Deployment], asks: bool):
    assert asks_golden(config, digest, history) == asks


def test_a_deployment_changes_nothing_where_a_host_misses_the_golden_study(clients: Clients, monkeypatch: pytest.MonkeyPatch):
    first, second = push(clients, "1.0.0", "2.0.0")
    report: list[str] = []
    live = LiveMaps(clients, SETTINGS, report.append)
    images = {each.image.digest: each.image for each in live.maps()}
    monkeypatch.setattr(Registry, "parts", lambda *_: ImageParts(LABELLED, ()))  # moto keeps no blobs
    assert live.deploy(images[first], "test", "").proof is None
    assert "without a golden study" in report[0]
    monkeypatch.setattr(LiveMaps, "_prove", answering("failed", 4))
    with pytest.raises(NotProvenError, match="missed its golden study"):
        live.deploy(images[second], "test", "")
    assert live.live() == first
    monkeypatch.setattr(LiveMaps, "_prove", answering("passed"))
    change = live.deploy(images[second], "test", "")
    assert (change.kind, change.proof and change.proof.golden, live.live()) == (DEPLOY, "passed", second)
