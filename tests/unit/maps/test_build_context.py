"""The build context of a real application: rendered by the SDK's own packager, a MAP by our own checks, the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import assembly, conformance, dockerfile, sdk_renderer
from monai_aws_pipeline.maps.build_context import BuildContext, BuildContextError, sdk_pins, write_context
from monai_aws_pipeline.maps.golden import Golden, read_expectation
from monai_aws_pipeline.maps.manifest import ManifestError, parse_app_manifest, parse_package_manifest
from monai_aws_pipeline.maps.sdk_renderer import RendererError
from monai_aws_pipeline.maps.source import Source, checkout, content_hash
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES, rules_in
from monai_aws_pipeline.maps.spec.study_contract import LABEL_STUDY_CONTRACT, contract_of
from tests.unit.maps.contexts import BASE, BASE_CONFIG, BASE_LAYERS, DIGEST, TINY, WEIGHTS, context
from tests.unit.maps.wheels import local_wheelhouse

EXAMPLE = "examples/brain_mri/app"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.ts"
    path.write_bytes(WEIGHTS)
    return path


def image_of(built: BuildContext, tmp_path: Path) -> tuple[dict[str, object], list[str]]:
    """The configuration and files of the image that is put together from a context, on a dependency image of one layer."""
    target = tmp_path / f"image-{built.path.name}"
    assembly.write_image(built, BASE_CONFIG, BASE_LAYERS, target)
    files = ["/var/holoscan/input", "/var/holoscan/output"]  # made by the dependency layer's script
    for path in (target / "layers").iterdir():
        with tarfile.open(path) as archive:
            files += [f"/{name}" for name in archive.getnames()]
    return json.loads((target / "config.json").read_text()), files


@pytest.mark.parametrize("app", [EXAMPLE, TINY])
def test_what_is_built_is_a_map_by_every_point(app, tmp_path, model):
    built = context(tmp_path, "c", app, model_file=model, model_sha256=DIGEST, timeout_s=600)
    image, files = image_of(built, tmp_path)
    assert conformance.check(image, built.app_json, built.pkg_json, files) == []
    manifest = parse_app_manifest(built.app_json)
    assert manifest.run.command == ("python3", "/opt/holoscan/app")
    assert (manifest.run.input_path, manifest.run.timeout_s, manifest.sdk) == ("/var/holoscan/input", 600, "monai-deploy")
    assert parse_package_manifest(built.pkg_json).models == {"net": "/opt/holoscan/models/net"}
    assert (built.path / "model/opt/holoscan/models/net/net.ts").read_bytes() == WEIGHTS


def test_the_engines_way_to_the_image_writes_the_same_configuration(tmp_path, model):
    """Where a golden study has to be answered first, an engine builds the Dockerfile; it must say what the put-together image says."""
    built = context(tmp_path, "c", model_file=model, model_sha256=DIGEST)
    image, _ = image_of(built, tmp_path)
    text = (built.path / "Dockerfile").read_text()
    labels = {
        json.loads(f'"{name}"'): json.loads('"' + value.replace("\\$", "$") + '"')
        for name, value in re.findall(r'^LABEL "(.*?)"="(.*)"$', text, re.MULTILINE)
    }
    variables = [f"{name}={value}" for name, value in re.findall(r'^ENV (\w+)="(.*)"$', text, re.MULTILINE)]
    said = image["config"]
    assert said["Labels"] == {"vendor": "someone", **labels}  # type: ignore[index]
    assert said["Env"] == [*BASE_CONFIG["config"]["Env"], *variables]  # type: ignore[index]
    assert said["Entrypoint"] == json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert said["User"] == re.search(r"^USER (\d.*)$", text, re.MULTILINE)[1]  # type: ignore[index]
    assert said["WorkingDir"] == re.search(r"^WORKDIR (.*)$", text, re.MULTILINE)[1]  # type: ignore[index]


def test_an_application_without_a_model_has_two_layers(tmp_path):
    built = context(tmp_path, "c")
    assert not (built.path / "model").exists()
    assert "source=model" not in (built.path / "Dockerfile").read_text()
    assert parse_package_manifest(built.pkg_json).models == {}


def test_equal_inputs_give_equal_contexts(tmp_path, model):
    wheels = local_wheelhouse(tmp_path / "wheels")
    first = context(tmp_path, "a", model_file=model, model_sha256=DIGEST, wheels=wheels)
    second = context(tmp_path, "b", model_file=model, model_sha256=DIGEST, wheels=wheels)
    assert (first.tag, first.content_hash, first.layers) == (second.tag, second.content_hash, second.layers)
    assert content_hash(first.path) == content_hash(second.path)
    times = [{str(p.relative_to(c.path)): p.stat().st_mtime for p in c.path.rglob("*")} for c in (first, second)]
    assert times[0] == times[1]


def test_a_changed_file_of_the_same_size_has_another_time(tmp_path):
    """BuildKit takes name, size and time for a file's identity; one fixed time for all would make it build from the old file."""
    sources = []
    for word in ("one", "two"):
        folder = tmp_path / word
        folder.mkdir()
        (folder / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
        (folder / "__main__.py").write_text(f"print('{word}')\n")
        sources.append(Source(folder, "0" * 40, False, content_hash(folder)))
    made = [
        write_context(source, tmp_path / f"c{i}", base_image=BASE).path / "app/opt/holoscan/app/__main__.py"
        for i, source in enumerate(sources)
    ]
    assert made[0].stat().st_size == made[1].stat().st_size
    assert made[0].stat().st_mtime != made[1].stat().st_mtime


def test_each_layer_changes_with_its_own_inputs_only(tmp_path, model):
    wheels, other_wheels = local_wheelhouse(tmp_path / "w1"), local_wheelhouse(tmp_path / "w2", ("alpha", "gamma"))
    other_model = tmp_path / "other" / "net.ts"
    other_model.parent.mkdir()
    other_model.write_bytes(b"other")
    other_digest = hashlib.sha256(b"other").hexdigest()

    def keys(name: str, **options: object) -> list[str]:
        chosen = {"model_file": model, "model_sha256": DIGEST, "wheels": wheels, **options}
        return [layer.key for layer in context(tmp_path, name, **chosen).layers]

    base = keys("base")
    assert keys("model", model_file=other_model, model_sha256=other_digest) == [base[0], other_digest, base[2]]
    assert keys("same", wheels=other_wheels) == base  # the wheelhouse's name decides, so that the key is known before anything is gathered
    assert keys("wheels", gathered="w2")[1:] == base[1:]
    assert keys("wheels2", gathered="w2")[0] != base[0]
    assert keys("image", base_image="registry.example.org/base:2")[0] != base[0]


def test_with_wheels_the_build_needs_no_network_and_without_it_does(tmp_path):
    with_wheels = context(tmp_path, "a", wheels=local_wheelhouse(tmp_path / "wheels"))
    without = context(tmp_path, "b")
    assert (with_wheels.network, without.network) == ("none", "default")
    assert (with_wheels.path / "dependencies/wheels.txt").read_text() == "alpha==1.0\nbeta==1.0\n"
    assert (with_wheels.path / "dependencies/python.txt").read_text() == "3.11"
    assert not (without.path / "dependencies/wheels.txt").exists()


def test_a_stage_that_is_kept_is_left_out_and_nothing_else_changes(tmp_path, model):
    chosen: dict[str, object] = {"model_file": model, "model_sha256": DIGEST, "gathered": "w1"}
    whole = context(tmp_path, "whole", wheels=local_wheelhouse(tmp_path / "wheels"), **chosen)
    planned = context(tmp_path, "planned", **chosen)
    later = context(tmp_path, "later", kept=("dependencies",), **chosen)
    latest = context(tmp_path, "latest", kept=("dependencies", "model"), **chosen)
    for each in (planned, later, latest):
        assert (each.tag, each.content_hash, each.stages) == (whole.tag, whole.content_hash, whole.stages)
        assert (each.path / "Dockerfile").read_text() == (whole.path / "Dockerfile").read_text()
    assert [path.name for path in sorted(later.path.iterdir())] == ["Dockerfile", "app", "model"]
    assert [path.name for path in sorted(latest.path.iterdir())] == ["Dockerfile", "app"]
    assert context(tmp_path, "internet", kept=("dependencies",)).network == "none"


def test_the_name_of_a_stage_changes_with_what_it_is_made_of(tmp_path, model):
    def tags(name: str, **options: object) -> list[str]:
        return [stage.tag for stage in context(tmp_path, name, **{"model_file": model, "model_sha256": DIGEST, **options}).stages]

    dependencies, with_model = tags("a")
    assert dependencies.startswith("dependencies-")
    assert with_model.startswith("model-")
    renamed = model.with_name("other.ts")
    renamed.write_bytes(WEIGHTS)
    assert tags("b", model_file=renamed)[0] == dependencies
    assert tags("b2", model_file=renamed)[1] != with_model
    other = tags("c", base_image="registry.example.org/base:2")
    assert other[0] != dependencies
    assert other[1] != with_model
    assert tags("d", app=EXAMPLE)[0] != dependencies
    assert len(tags("e", model_file=None, model_sha256="")) == 1


def test_the_tag_speaks_and_labels_tell_where_an_image_comes_from(tmp_path, model):
    built = context(tmp_path, "c", model_file=model, model_sha256=DIGEST, image_name="monai-aws/map")
    image, _ = image_of(built, tmp_path)
    labels = image["config"]["Labels"]  # type: ignore[index]
    assert built.tag == f"0.1.0-{built.commit[:7]}-{built.content_hash[:8]}"
    assert labels["tag"] == f"monai-aws/map:{built.tag}"
    assert labels["org.opencontainers.image.revision"] == built.commit
    assert labels["monai-aws.model-sha256"] == DIGEST
    assert labels["monai-aws.dependencies"] == built.dependency_key


def test_labels_tell_what_the_application_asks_of_a_study(tmp_path):
    source = checkout(EXAMPLE, "HEAD", ".", tmp_path / "source")
    plain = dict(write_context(source, tmp_path / "plain", base_image=BASE).labels)
    ((name, conditions),) = rules_in(plain[LABEL_RULES])
    assert (name, conditions["Modality"]) == ("MR", "(?i)^MR$")
    before = contract_of(plain)
    assert before.volume
    with (source.path / "app.yaml").open("a") as config:
        config.write("\nmonai-aws: {require-volume: true, min-slices: 17, stack: {EchoTime: 90}, system-packages: [libgl1]}\n")
    (source.path / "more.json").write_text('{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}')
    asking = dict(write_context(source, tmp_path / "asking", base_image=BASE).labels)
    assert contract_of(asking) == replace(before, min_slices=17, stack=(("EchoTime", "90"),), handles=frozenset(), volumes=())
    assert "libgl1" not in asking[LABEL_STUDY_CONTRACT], "which is the image's, and asks nothing of a study"
    assert asking[LABEL_RULES] == ""  # which of two sets of rules decides is the application's secret


def test_the_golden_study_names_itself_in_labels_and_the_tag_and_is_not_in_the_image(tmp_path):
    expectation = read_expectation(Path(TINY))
    assert expectation is not None
    without = context(tmp_path, "a")
    built = context(tmp_path, "b", golden=Golden(tmp_path / "study.zip", "1" * 64, expectation))
    image, files = image_of(built, tmp_path)
    labels = image["config"]["Labels"]  # type: ignore[index]
    assert (labels["monai-aws.golden-study"], labels["monai-aws.golden-reference"]) == ("1" * 64, "")
    assert labels["monai-aws.golden-expect"] == hashlib.sha256(expectation.to_json()).hexdigest()
    assert image_of(without, tmp_path)[0]["config"]["Labels"]["monai-aws.golden-study"] == ""  # type: ignore[index]
    assert built.tag != without.tag
    assert built.layers == without.layers
    assert not [path for path in files if "golden" in path]


def test_a_title_cannot_leave_its_label(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    title = 'a "quoted" $HOME \\ title'
    (folder / "app.yaml").write_text(f"application:\n  title: '{title}'\n  version: 1.0.0\nresources: {{cpu: 1}}\n")
    (folder / "__main__.py").write_text("")
    built = write_context(Source(folder, "0" * 40, False, ""), tmp_path / "c", base_image=BASE)
    image, _ = image_of(built, tmp_path)
    assert image["config"]["Labels"]["org.opencontainers.image.title"] == title  # type: ignore[index]


@pytest.mark.parametrize("base_image", ["a b", "base\nRUN id", "--platform=x", "", "$BASE"])
def test_a_base_image_that_is_no_reference_is_refused(base_image):
    with pytest.raises(dockerfile.RecipeError, match="MONAI_AWS_BASE_IMAGE"):
        dockerfile.dependency_stage(base_image)


def test_an_application_that_is_none_is_refused_by_name(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
    source = Source(folder, "0" * 40, False, "")
    with pytest.raises(RendererError, match=r"__main__\.py"):
        write_context(source, tmp_path / "a", base_image=BASE)
    (folder / "app.yaml").write_text("application: {version: 1.0.0}\n")
    with pytest.raises(ManifestError):
        write_context(source, tmp_path / "b", base_image=BASE)


def test_pip_packages_that_a_wheelhouse_cannot_see_are_refused(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text("")
    (folder / "app.yaml").write_text("application: {title: t, version: 1.0.0, pip-packages: [numpy]}\nresources: {cpu: 1}\n")
    source = Source(folder, "0" * 40, False, "")
    built = write_context(source, tmp_path / "a", base_image=BASE)
    assert "numpy" in (built.path / "dependencies/requirements.txt").read_text()
    with pytest.raises(BuildContextError, match=r"requirements\.txt"):
        write_context(source, tmp_path / "b", base_image=BASE, gathered="w1", wheels=local_wheelhouse(tmp_path / "w"))
    with pytest.raises(BuildContextError, match="name of their wheelhouse"):
        write_context(source, tmp_path / "c", base_image=BASE, wheels=local_wheelhouse(tmp_path / "w2"))


def test_versions_are_those_the_application_pins():
    assert sdk_pins("monai-deploy-app-sdk==3.0.0\nholoscan-cu12 == 3.8.0  # x\n", "") == ("3.0.0", "3.8.0")
    assert sdk_pins("numpy\n", "") == (sdk_renderer.SDK_VERSION, sdk_renderer.HOLOSCAN_VERSION)


def test_labels_are_those_of_the_sdks_own_template():
    """Where the SDK's packager adds a label, this fails and says so."""
    text = (sdk_renderer._templates() / "Dockerfile.jinja2").read_text()
    theirs = set(re.findall(r"^LABEL ([\w.-]+)=", text, re.MULTILINE))
    assert theirs <= {*conformance._LABELS, "org.monai.deploy.app-sdk"}


def test_nothing_of_the_application_layer_can_be_changed_by_its_user(tmp_path):
    built = context(tmp_path, "c")
    modes = {oct(path.stat().st_mode & 0o777) for path in (built.path / "app").rglob("*")}
    assert modes <= {"0o755", "0o644"}
    assert os.access(built.path / "app/var/holoscan/tools", os.X_OK)
