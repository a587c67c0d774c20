"""MAPs whose layout is not ours: the official packager's, and that of the packager before it, checked and run as our own are.

The official packager cannot build here (base image and packages come from the vendor's servers), so its own Dockerfile is built without
the steps that fetch something, with wheels in their place: user, home, PATH, layout and entry point are the packager's.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from monai_aws_pipeline.cloud.registry import ImageParts, Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.deployment.map_checks import Conformance, examine
from monai_aws_pipeline.host_agent import golden
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.job_steps import run_study
from monai_aws_pipeline.host_agent.runtime.engine import Engine, RunEnd, find_docker
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, PerStudy
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap, describe
from monai_aws_pipeline.host_agent.runtime.warm_runner import WARM, Verdicts, Warm
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.engine import USUAL_SOCKET, private_engine
from monai_aws_pipeline.maps import wheelhouse
from monai_aws_pipeline.maps.build_context import LABEL_REVISION
from monai_aws_pipeline.maps.golden import Golden, read_expectation
from monai_aws_pipeline.maps.monai_deploy import marking
from monai_aws_pipeline.maps.spec.expectation import LABEL_STUDY, Verdict
from monai_aws_pipeline.maps.spec.run import Limits
from monai_aws_pipeline.settings import load_settings
from tests.support.official_packager import package
from tests.support.platform import TINY_APP, environment
from tests.support.studies import tiny_study_zip

pytestmark = pytest.mark.cloud

_FETCHES = re.compile(r"apt-get|apt update|curl|--upgrade pip|monai-deploy-app-sdk==")
_OLDER = """\
FROM {base}
LABEL base="{base}"
LABEL tag="older:1"
LABEL version="0.1.0"
LABEL sdk_version="0.5.1"
ENV MONAI_INPUTPATH=/var/monai/input MONAI_OUTPUTPATH=/var/monai/output MONAI_WORKDIR=/var/monai MONAI_APPLICATION=/opt/monai/app
ENV MONAI_TIMEOUT=0
RUN groupadd -g 1000 -o -r monai && useradd -g 1000 -u 1000 -m -o -r monai && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
RUN mkdir -p /etc/monai /opt/monai/app /opt/monai/executor /opt/monai/models /var/monai/input /var/monai/output \\
 && chown -R monai:monai /etc/monai /opt/monai /var/monai
COPY --chown=monai:monai ./executor /opt/monai/executor
COPY ./wheels /tmp/wheels
COPY --chown=monai:monai ./app/requirements.txt /tmp/requirements.txt
USER monai:monai
ENV PATH=/home/monai/.local/bin:$PATH
RUN pip install --no-cache-dir --user --no-index --find-links /tmp/wheels -r /tmp/requirements.txt
COPY --chown=monai:monai ./map /etc/monai
COPY --chown=monai:monai ./app /opt/monai/app
WORKDIR /var/monai
ENTRYPOINT ["/opt/monai/executor/monai-exec"]
"""
_OLDER_APP = {
    "api-version": "0.1.0", "sdk-version": "0.5.1", "command": "python3 -u /opt/monai/app/__main__.py", "environment": {},
    "working-directory": "/var/monai", "input": {"path": "input", "formats": []}, "output": {"path": "output", "format": {}},
    "version": "0.1.0", "timeout": 0,
}  # fmt: skip
_OLDER_PACKAGE = {
    "api-version": "0.1.0", "sdk-version": "0.5.1", "application-root": "/var/monai", "models": [], "version": "0.1.0",
    "resources": {"cpu": 1, "gpu": 0, "memory": "512Mi"},
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """An image in the registry and in the engine's store: what it says to the registry's reader, and to the host's."""

    parts: ImageParts
    conformance: Conformance
    ready: ReadyMap


@dataclass(frozen=True)
class Workshop:
    """An engine, a repository, and what the tiny application needs to be laid into an image."""

    folder: Path
    registry: Registry
    repository: str
    engine: Engine
    base: str
    python: str
    wheels: Path

    def make(self, context: Path, dockerfile: str, marked: Callable[[str], str] | None = None) -> Made:
        """Build, push, and read back. ``marked``: a second Dockerfile on top of the image that it is given."""
        reference = f"{self.repository}:{context.name}"
        shutil.copytree(self.wheels, context / "wheels")
        (context / "Dockerfile").write_text(dockerfile)
        (context / ".dockerignore").unlink(missing_ok=True)
        user = ["--build-arg", "UID=1000", "--build-arg", "GID=1000", "--build-arg", "UNAME=holoscan"]
        self.docker("build", "--network", "none", *user, "--tag", reference, str(context))
        if marked:
            self.docker("build", "--tag", reference, "-", text=marked(reference))
        pushed = re.search(r"digest: (sha256:[0-9a-f]{64})", self.docker("push", reference))
        assert pushed
        parts = self.registry.parts(pushed[1])
        seen = examine(parts, lambda layer: self.registry.blob(layer.digest, layer.bytes))
        return Made(parts, seen, describe(self.engine.facts(f"{self.repository}@{pushed[1]}"), 0.0))

    @staticmethod
    def docker(*arguments: str, text: str | None = None) -> str:
        done = subprocess.run([find_docker(), *arguments], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def workshop(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("layouts")
    private = private_engine(local_cloud.config).host
    socket = private if Path(private.removeprefix("unix://")).is_socket() else USUAL_SOCKET
    engine = {"DOCKER_HOST": socket, "DOCKER_CONFIG": str(folder / "login"), "DOCKER_BUILDKIT": "0"}
    with environment({**local_cloud.environment, **engine}):
        settings = load_settings()
        registry = Registry(Clients(settings.region).ecr, "tests/other-layouts")
        repository = registry.ensure("layouts", "tests")
        token = Clients(settings.region).ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        (folder / "login").mkdir()
        hosts = {repository.partition("/")[0], settings.base_image.partition("/")[0]}
        (folder / "login" / "config.json").write_text(json.dumps({"auths": {host: {"auth": token} for host in hosts}}))
        wheels = wheelhouse.collect(TINY_APP / "requirements.txt", settings.cache_dir, settings.map_python, lambda _: None)
        yield Workshop(
            folder, registry, repository, Engine(folder / "pulls"), settings.base_image, settings.map_python, wheels,
        )  # fmt: skip


@pytest.fixture(scope="module")
def official(workshop: Workshop) -> Made:
    place = workshop.folder / "packager"
    place.mkdir()
    expectation = read_expectation(TINY_APP)
    assert expectation
    packaged = package(place, str(TINY_APP), workshop.base, golden=Golden(place / "study.zip", "5" * 64, expectation))
    context = packaged.rendered.rename(workshop.folder / "official")
    steps = re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", (context / "Dockerfile").read_text() + "\n")
    kept = [step for step in steps if not _FETCHES.search(step)]
    assert len(steps) - len(kept) == 5, "base, key, Python, pip, SDK"
    offline = "".join(kept).replace("python3.12", f"python{workshop.python}")
    install = "pip install --no-cache-dir --user"
    assert install in offline
    offline = offline.replace("USER $UNAME", "COPY ./wheels /tmp/wheels\nUSER $UNAME")
    offline = offline.replace(install, f"{install} --no-index --find-links /tmp/wheels")
    return workshop.make(context, offline, lambda image: marking(image, packaged.plan))


@pytest.fixture(scope="module")
def older(workshop: Workshop) -> Made:
    context = workshop.folder / "older"
    shutil.copytree(TINY_APP, context / "app")
    (context / "executor").mkdir()
    (context / "executor" / "monai-exec").write_text("#!/bin/sh\nexit 0\n")
    (context / "map").mkdir()
    (context / "map" / "app.json").write_text(json.dumps(_OLDER_APP))
    (context / "map" / "pkg.json").write_text(json.dumps(_OLDER_PACKAGE))
    return workshop.make(context, _OLDER.format(base=workshop.base))


Answer = Callable[[Hosting, ReadyMap], Verdict]


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """The golden study of the tiny application, answered and judged as on a host."""
    (tmp_path / "study.zip").write_bytes(tiny_study_zip())
    expectation = read_expectation(TINY_APP)
    assert expectation

    def judged(hosting: Hosting, ready: ReadyMap) -> Verdict:
        with golden.scratch(tmp_path) as folder:
            given = golden.Given(tmp_path / "study.zip", expectation)
            return golden.examine(hosting, Limits(memory_mib=1024), threading.Event(), ready, given, folder)

    return judged


def run_warm(hosting: Warm, ready: ReadyMap, folder: Path) -> RunEnd:
    """One more study, and how it was run."""
    with zipfile.ZipFile(io.BytesIO(tiny_study_zip())) as archive:
        archive.extractall(folder / "files")
    (study,) = read_studies(sorted((folder / "files").iterdir()))
    (folder / "study").mkdir()
    return run_study(hosting, Limits(memory_mib=1024), threading.Event(), ready, study, folder / "study").end


def answered_both_ways(made: Made, workshop: Workshop, answer: Answer, folder: Path) -> None:
    alone = PerStudy(workshop.engine)
    assert answer(alone, made.ready).passed
    alone.close()
    hosting = Warm(workshop.engine, folder / "verdicts", folder / "warm")
    try:
        assert answer(hosting, made.ready).passed
        verdict = Verdicts(folder / "verdicts").read(made.ready.facts.digest)
        assert verdict and verdict.hosting == WARM, verdict
        end = run_warm(hosting, made.ready, folder)
        assert (end.exit_code, end.hosting) == (0, WARM), end.log_tail
    finally:
        hosting.close()


def test_the_official_layout_is_a_map(official: Made):
    assert official.conformance.findings == official.conformance.refused == ()
    assert official.parts.config["config"]["User"] == "holoscan"
    assert official.parts.config["config"]["Entrypoint"] == ["/var/holoscan/tools"]
    labels = official.parts.config["config"]["Labels"]
    assert (labels["org.monai.deploy.app-sdk"], labels[LABEL_STUDY]) == ("4.0.0", "5" * 64), "the packager's own labels, and ours"
    assert official.ready.facts.commit == labels[LABEL_REVISION]


def test_the_official_layout_answers_in_both_ways_of_hosting(official: Made, workshop: Workshop, answer: Answer, tmp_path: Path):
    assert ("PYTHONUSERBASE", "/home/holoscan/.local") in official.ready.spec.environment
    answered_both_ways(official, workshop, answer, tmp_path)


def test_without_the_place_of_its_packages_it_would_not_answer(official: Made, workshop: Workshop, answer: Answer):
    blind = replace(official.ready, spec=replace(official.ready.spec, environment=()))
    verdict = answer(PerStudy(workshop.engine), blind)
    assert not verdict.passed
    assert "map_failed" in verdict.points[0].found


def test_the_layout_before_it_is_a_map_and_answers_in_both_ways(older: Made, workshop: Workshop, answer: Answer, tmp_path: Path):
    assert older.conformance.findings == older.conformance.refused == ()
    assert older.parts.config["config"]["User"] == "monai:monai"
    assert older.ready.spec.input_path == "/var/monai/input"
    answered_both_ways(older, workshop, answer, tmp_path)
