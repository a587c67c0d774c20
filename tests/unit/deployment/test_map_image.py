"""What map_image pushes, and when: nothing of a MAP that misses, the stages below it all the same, no image moved without need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster import Failure
from moto import mock_aws

from monai_aws_pipeline.cloud.registry import ImageParts, LayerBlob, Registry
from monai_aws_pipeline.deployment import map_image, packaging, registry_upload
from monai_aws_pipeline.deployment.import_gate import MARK
from monai_aws_pipeline.maps.build_context import BuildContext, write_context
from monai_aws_pipeline.maps.golden import Golden
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.source import Source
from monai_aws_pipeline.maps.spec.expectation import parse_expectation
from monai_aws_pipeline.remote import RemoteCommandError, RemoteError
from monai_aws_pipeline.settings import Settings, load_settings

REPOSITORY = "registry.example.org/map"
DIGEST = "sha256:" + "d" * 64
PUSHES = ("docker push ", "upload.py saved ")
MISS = {"points": [{"name": "volume of Brain", "expected": "1 ml", "found": "3 ml", "ok": False}], "seconds": 1}


class Machine:
    """A build machine that does what it is told, by what its commands are for. ``fails``: what ends with an error, and which."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.fails: dict[str, Exception] = {}
        self.golden: dict[str, Any] = {"points": [{**MISS["points"][0], "ok": True}], "seconds": 1}  # type: ignore[index]
        self.imports: list[dict[str, Any]] = [{"done": 1}]

    def run(self, command: str, on_line: Callable[[str], None], *, what: str, seconds: float) -> list[str]:
        self.ran.append((what, command))
        for sign, error in self.fails.items():
            if sign in what:
                raise error
        if what == "Importing what the application imports":
            for told in self.imports:
                on_line(f"{MARK}{json.dumps(told)}")
        if what == "The golden study":
            on_line(f"agent-report:{json.dumps(self.golden)}")
            if not self.golden["points"][0]["ok"]:
                raise RemoteCommandError(what, 4, [])
        return [f"{word.rpartition(':')[2]}: digest: {DIGEST} size: 1" for word in command.split()]

    def send_folder(self, local: Path, remote: str, on_line: Callable[[str], None], *, what: str) -> int:
        self.ran.append((what, ""))
        return 0

    @property
    def pushed(self) -> list[str]:
        """Tags that were pushed, in order."""
        found = (command.rpartition(sign)[2].split() for _, command in self.ran for sign in PUSHES if sign in command)
        return [word.rpartition(":")[2] for words in found for word in words if ":" in word]

    def did(self, what: str) -> int:
        return sum(what in done for done, _ in self.ran)


class Workshop:
    """An application with a model and a golden study, and what map_image needs to build it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.machine, self.said = folder, Machine(), list[str]()
        app = folder / "app"
        app.mkdir()
        (app / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
        (app / "__main__.py").write_text("import json\n")
        (folder / "net.ts").write_bytes(b"net")
        (folder / "study.zip").write_bytes(b"study")
        self.build_host = packaging.BuildHost(self.machine, REPOSITORY, "eu-central-1", 60, self.said.append)  # type: ignore[arg-type]
        self._number = 0

    def context(self, golden: Golden | None, **options: Any) -> BuildContext:
        self._number += 1
        model = Model("net", self.folder / "net.ts", hashlib.sha256(b"net").hexdigest())
        source = Source(self.folder / "app", "0" * 40, False, "")
        target = self.folder / f"context{self._number}"
        return write_context(source, target, base_image="b:1", models=[model], golden=golden, **options)

    def golden(self) -> Golden:
        return Golden(self.folder / "study.zip", "1" * 64, parse_expectation({"files": [{"kind": "mesh", "count": 1}]}))

    def build(self, prepared: BuildContext, start: packaging.Start = packaging.Start(), **settings: Any) -> Any:  # noqa: B008
        chosen: Settings = load_settings(gpus="", **settings)
        work = self.folder / f"work{self._number}"
        s3 = boto3.client("s3", region_name="us-east-1")
        clients = type("Clients", (), {"s3": s3, "ecr": boto3.client("ecr", region_name="us-east-1")})()
        way = map_image._build_and_judge if prepared.golden or chosen.packager != "layered" else map_image._assemble
        return way(self.build_host, clients, chosen, prepared, start, work, map_image._Clock())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = {"architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}
    monkeypatch.setattr(Registry, "parts", lambda *_: ImageParts(config, (LayerBlob("sha256:" + "2" * 64, 1000),)))
    monkeypatch.setattr(
        packaging,
        "push_assembled",
        lambda build_host, context, *_: build_host.remote.run("docker push x:MAP", print, what="Pushing", seconds=1) and DIGEST,
    )
    contents: dict[str, list[str]] = {"debian": [], "python": [], "models": []}
    monkeypatch.setattr(map_image.bill_of_materials, "inventory", lambda *_: contents)
    monkeypatch.setattr(map_image.bill_of_materials, "of_dependencies", lambda *_: contents)  # kept since the build before
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="studies")
        yield Workshop(tmp_path)


def test_a_golden_miss_pushes_the_stages_and_nothing_of_the_map(shop: Workshop):
    prepared = shop.context(shop.golden())
    shop.machine.golden = MISS
    with pytest.raises(Failure, match="volume of Brain"):
        shop.build(prepared, bucket="studies")
    assert shop.machine.pushed == [stage.tag for stage in prepared.stages]
    assert prepared.tag not in shop.machine.pushed


def test_the_run_after_a_corrected_expectation_starts_from_them(shop: Workshop):
    missed, corrected = (
        shop.context(shop.golden()),
        shop.context(Golden(shop.folder / "study.zip", "1" * 64, parse_expectation({"files": [{"kind": "mesh", "count": 2}]}))),
    )
    assert missed.tag != corrected.tag
    assert missed.stages == corrected.stages
    start = packaging.starting_point(corrected.stages, {stage.tag: f"{REPOSITORY}@{DIGEST}" for stage in missed.stages}.get)  # type: ignore[arg-type]
    assert start.kept == ("dependencies", "model")
    again = shop.context(corrected.golden, kept=start.kept)
    assert sorted(path.name for path in again.path.iterdir()) == ["Dockerfile", "app"], "neither wheels nor the model are sent again"
    assert shop.build(again, start, bucket="studies").digest == DIGEST
    assert shop.machine.pushed == [corrected.tag], "and nothing is kept twice"


def test_a_miss_is_said_although_its_stages_could_not_be_kept(shop: Workshop):
    shop.machine.golden = MISS
    shop.machine.fails["Keeping the stage"] = RemoteError("the connection is gone")
    with pytest.raises(Failure, match="volume of Brain"):
        shop.build(shop.context(shop.golden()), bucket="studies")
    assert any("is not kept" in line for line in shop.said)


@pytest.mark.parametrize("settings", [{}, {"packager": "monai-deploy"}])
def test_an_image_that_cannot_make_its_imports_is_not_pushed_golden_study_or_not(
    shop: Workshop, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packaging, "build_officially", lambda *_: "map:1")
    golden = None if settings else shop.golden()
    prepared = shop.context(golden, packager=settings.get("packager", "layered"))
    shop.machine.imports = [
        {"at": 0},
        {"failed": 0, "kind": "ModuleNotFoundError", "text": "No module named 'json'", "absent": "json"},
        {"done": 1},
    ]
    with pytest.raises(Failure, match=r"json \(__main__.py:1\)"):
        shop.build(prepared, bucket="studies", **settings)
    assert shop.machine.did("The golden study") == 0, "which would have cost its time"
    assert shop.machine.pushed == ([] if settings else [stage.tag for stage in prepared.stages])


def test_without_a_golden_study_the_dependency_image_is_asked_before_the_map_is_pushed(shop: Workshop):
    prepared = shop.context(None)
    made = shop.build(prepared, bucket="studies")
    steps = [what for what, _ in shop.machine.ran]
    assert steps.index("Importing what the application imports") < steps.index("Pushing")
    assert shop.machine.did("Pulling the dependencies") == 0, "it was built there"
    assert made.imports == "passed (1)"
    shop.machine.imports = [{"at": 0}]
    with pytest.raises(Failure):
        shop.build(shop.context(None))
    assert shop.machine.pushed.count("MAP") == 1


def test_a_rebuild_of_the_application_alone_pulls_no_image(shop: Workshop):
    shop.build(shop.context(None), bucket="studies")
    before = len(shop.machine.ran)
    (shop.folder / "app" / "__main__.py").write_text("import json\n# changed\n")
    start = packaging.Start(("dependencies",), f"{REPOSITORY}@{DIGEST}")
    made = shop.build(shop.context(None, kept=start.kept), start, bucket="studies")
    assert [what for what, _ in shop.machine.ran[before:]] == ["Pushing"]
    assert made.imports == "passed before (1)"


def test_a_rebuild_that_imports_something_new_asks_the_image(shop: Workshop):
    shop.build(shop.context(None), bucket="studies")
    (shop.folder / "app" / "__main__.py").write_text("import json\nimport csv\n")
    start = packaging.Start(("dependencies",), f"{REPOSITORY}@{DIGEST}")
    shop.machine.imports = [{"done": 2}]
    assert shop.build(shop.context(None, kept=start.kept), start, bucket="studies").imports == "passed (2)"
    assert shop.machine.did("Pulling the dependencies") == 1


def test_what_only_the_engine_can_save_the_engine_pushes(shop: Workshop):
    shop.machine.fails["Pushing the MAP"] = RemoteCommandError("Pushing the MAP", registry_upload.UNKNOWN_FORMAT, [])
    with pytest.raises(RemoteCommandError):
        packaging.push(shop.build_host, [f"{REPOSITORY}:1"], packaging.Start())
    assert [command.split()[-2:] for what, command in shop.machine.ran if what == "Pushing the MAP"][1] == ["push", f"{REPOSITORY}:1"]


def test_a_refusal_of_the_registry_is_told_and_not_tried_in_another_way(shop: Workshop):
    shop.machine.fails["Pushing the MAP"] = RemoteCommandError("Pushing the MAP", 1, ["the registry answered 403"])
    with pytest.raises(RemoteCommandError, match="403"):
        packaging.push(shop.build_host, [f"{REPOSITORY}:1"], packaging.Start())
    assert shop.machine.did("Pushing the MAP") == 1


def test_what_was_built_on_pulled_layers_the_engine_pushes_which_knows_them(shop: Workshop):
    start = packaging.Start(("dependencies",), f"{REPOSITORY}@{DIGEST}")
    assert packaging.push(shop.build_host, [f"{REPOSITORY}:1", f"{REPOSITORY}:2"], start) == {"1": DIGEST, "2": DIGEST}
    assert shop.machine.pushed == ["1", "2"]
