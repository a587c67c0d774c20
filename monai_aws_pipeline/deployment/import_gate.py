"""The import gate: an image meets everything that its application imports, as isolated as a study is, before it is pushed.

Here belong what is asked, running it on the build machine, and what each failure means. What runs in the image is ``maps.import_probe``.
Two images are asked. The MAP itself, where it lies on the machine. And the dependency image, where the MAP is put together in the registry
and never lies on a machine: the model and application layers add no package, so the same imports find the same there. What a dependency
image has passed is kept in the bucket, import by import, so that a change of the application that imports nothing new moves no image.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError
from dagster import Failure, MetadataValue

from monai_aws_pipeline.cloud.errors import code_of, named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import sbom_key
from monai_aws_pipeline.deployment.packaging import BUILD_LINE
from monai_aws_pipeline.maps import app_code, import_probe, imports
from monai_aws_pipeline.maps.app_code import AppCode
from monai_aws_pipeline.maps.build_context import BuildContext
from monai_aws_pipeline.maps.import_probe import MARK
from monai_aws_pipeline.maps.requirements import CUDART_PIN, REQUIREMENTS
from monai_aws_pipeline.maps.spec.run import Limits, parse_app_json, python_command, study_container, with_image_variables
from monai_aws_pipeline.remote import Remote, RemoteCommandError
from monai_aws_pipeline.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FOLDER: Final = "/tmp/monai-aws-imports"  # noqa: S108  # on a machine that is ours alone
APPLICATION: Final = "/opt/holoscan/app"
"""Where both packagers put it."""
_NAME: Final = "monai-aws-imports"
_SECONDS: Final = 600
_SCHEMA: Final = "monai-aws/imports/1"
_MOST: Final = 2000
_NOT_STARTED: Final = (125, 126, 127)
_LIBRARIES: Final = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libxcb.so.1": "libxcb1",
    "libgomp.so.1": "libgomp1",
    "libopenslide.so.0": "libopenslide0",
    "libsndfile.so.1": "libsndfile1",
    "libmagic.so.1": "libmagic1",
    "libexpat.so.1": "libexpat1",
    "libquadmath.so.0": "libquadmath0",
    "libgfortran.so.5": "libgfortran5",
}
"""Debian and Ubuntu packages by the library that an import misses."""
_LIBRARY: Final = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file")


@dataclass(frozen=True)
class AskedImport:
    """One import that the image must be able to make; an ``optional`` one is tried, and its failure only told."""

    module: str
    names: tuple[str, ...]
    file: str
    line: int
    optional: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """What has passed when this has."""
        return frozenset([self.module, *(f"{self.module}:{name}" for name in self.names)])


@dataclass(frozen=True)
class FailedImport:
    """An import (or a file) that failed in the image: where it stands, the last line of the error, and what to do."""

    what: str
    place: str
    error: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} ({self.place}): {self.error}. {self.remedy}."


@dataclass(frozen=True)
class Bench:
    """Where images are asked: the machine, and the limits that a study has there."""

    remote: Remote
    settings: Settings
    report: Report
    work: Path
    """An empty folder here."""


def asked_of(code: AppCode) -> tuple[AskedImport, ...]:
    """What an image is asked, each once, in the order of the files. Imports of a file that is never run are tried and tolerated."""
    reached = code.reachable()
    found: dict[tuple[str, tuple[str, ...]], AskedImport] = {}
    for each in code.imports:
        if each.impossible or code.is_own(each.module):
            continue
        optional = each.optional or each.file not in reached
        known = found.get((each.module, each.names))
        if known is None or (known.optional and not optional):
            found[each.module, each.names] = AskedImport(each.module, each.names, each.file, each.line, optional)
    return tuple(found.values())[:_MOST]


def hold(build_host: Bench, image: str, context: BuildContext) -> int:
    """Let a MAP that lies on the machine make its imports; how many passed. Raises Failure that names each that did not."""
    code = app_code.read(context.application)
    return _ask(build_host, image, context, code, asked_of(code), APPLICATION)


def hold_below(build_host: Bench, s3: S3Client, digest: str, image: Callable[[], str], context: BuildContext) -> str:
    """Let the dependency image of a MAP make its imports, where it has not made them before. Returns in words what was done.

    Args:
        bench: Where it is asked.
        s3: Keeps what has passed, where the settings name a bucket.
        digest: The dependency image's.
        image: Brings it to the machine, where it does not lie there already, and names it there. Not called where nothing is to be asked.
        context: The MAP's build context, whose application is sent along.

    Raises Failure that names each import that failed.
    """
    code = app_code.read(context.application)
    asked = asked_of(code)
    bucket = build_host.settings.bucket
    wanted = frozenset(key for each in asked if not each.optional for key in each.keys)
    passed = _passed(s3, bucket, digest, code) if bucket else frozenset()
    if wanted <= passed and not code.unreadable:
        build_host.report(f"the dependency image has made all {len(wanted)} imports of the application before")
        return f"passed before ({len(wanted)})"
    count = _ask(build_host, image(), context, code, asked, f"{_input(context)}/app")
    if bucket:
        _keep(s3, bucket, digest, code, passed | wanted)
    return f"passed ({count})"


def _ask(build_host: Bench, image: str, context: BuildContext, code: AppCode, asked: Sequence[AskedImport], application: str) -> int:
    _lay_out(build_host.work, code, asked, with_application=application != APPLICATION)
    build_host.remote.send_folder(build_host.work, FOLDER, build_host.report, what="Sending what the image has to import")
    told: list[dict[str, object]] = []

    def on_line(line: str) -> None:
        if line.startswith(MARK):
            told.append(_parsed(line.removeprefix(MARK)))
        else:
            build_host.report(f"{BUILD_LINE}{line}")

    environment = _environment(build_host, image) if build_host.settings.packager != "layered" else {}
    command = _command(image, context, application, build_host.settings, environment)
    try:
        with repeating(build_host.report) as say:
            say("the image imports what the application imports")
            build_host.remote.run(command, on_line, what="Importing what the application imports", seconds=_SECONDS + 60)
    except RemoteCommandError as error:
        if error.exit_code in _NOT_STARTED and not told:
            raise
        raise _failure([_ended(told, asked, error.exit_code)]) from error
    failed, tolerated = _judged(told, asked)
    if not any("done" in each for each in told):
        failed = [*failed, _ended(told, asked, 0)]
    for each in tolerated:
        build_host.report(f"an import that the application does without failed in the image: {each}")
    if failed:
        raise _failure(failed)
    build_host.report(f"the image made all imports of the application: {len(asked) - len(tolerated)} in {len(code.files)} files")
    return len(asked) - len(tolerated)


def _command(image: str, context: BuildContext, application: str, settings: Settings, environment: dict[str, str]) -> str:
    """The shell line: one container with a study's isolation and limits, which is removed afterwards."""
    app = with_image_variables(parse_app_json(context.app_json), environment)
    python = python_command(app.command)
    probe = (
        python.interpreter if python else "python3",
        f"{app.input_path}/import_probe.py",
        application,
        f"{app.input_path}/imports.json",
    )
    limits = Limits(memory_mib=settings.map_memory_mib, gpus=settings.gpus, network=settings.map_network, timeout_s=_SECONDS)
    container = study_container(image, replace(app, command=probe), Path(FOLDER, "input"), Path(FOLDER, "output"), limits, name=_NAME)
    run = f"sudo timeout --kill-after=10 {_SECONDS} docker {shlex.join(container.docker_arguments())}"
    readable = f"chmod -R a+rX {FOLDER}"  # the container's user is another one than ours
    return f"{readable} && {run}; code=$?; sudo docker rm --force {_NAME} >/dev/null 2>&1; exit $code"


def _input(context: BuildContext) -> str:
    return parse_app_json(context.app_json).input_path


def _environment(build_host: Bench, image: str) -> dict[str, str]:
    """Variables of an image of the machine, one a line."""
    every = "{{range .Config.Env}}{{println .}}{{end}}"
    command = f"sudo docker image inspect --format {shlex.quote(every)} {shlex.quote(image)}"
    lines = build_host.remote.run(command, lambda _: None, what="Reading the image's variables", seconds=60)
    return dict(line.partition("=")[::2] for line in lines)


def _lay_out(work: Path, code: AppCode, asked: Iterable[AskedImport], *, with_application: bool) -> None:
    """The probe, what it is asked, and the application's Python files where the image has not got them."""
    given = work / "input"
    given.mkdir(parents=True)
    (work / "output").mkdir()
    shutil.copyfile(import_probe.__file__, given / "import_probe.py")
    (given / "imports.json").write_text(json.dumps([asdict(each) for each in asked]), "utf-8")
    for name in code.files if with_application else ():
        (given / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code.folder / name, given / "app" / name)


# ----------------------------------------------------------------------------------------------------------------------- judging


def _parsed(text: str) -> dict[str, object]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _judged(told: Iterable[dict[str, object]], asked: Sequence[AskedImport]) -> tuple[list[FailedImport], list[FailedImport]]:
    """What failed, and of that what the application does without."""
    failed: list[FailedImport] = []
    tolerated: list[FailedImport] = []
    for line in told:
        error = f"{line.get('kind')}: {line.get('text')}".rstrip(": .")
        if "uncompiled" in line:
            place = f"{line['uncompiled']}:{line.get('line', 0)}"
            failed.append(FailedImport("a file that Python does not compile", place, error, "Correct the file"))
        elif isinstance(number := line.get("failed"), int) and 0 <= number < len(asked):
            each, absent = asked[number], str(line.get("absent") or "")
            found = FailedImport(each.module, f"{each.file}:{each.line}", error, remedy_for(each.module, absent, error))
            (tolerated if each.optional else failed).append(found)
    return failed, tolerated


def _ended(told: Sequence[dict[str, object]], asked: Sequence[AskedImport], exit_code: int) -> FailedImport:
    """The import at which Python itself ended."""
    number = next((line["at"] for line in reversed(told) if "at" in line), None)
    each = asked[number] if isinstance(number, int) and 0 <= number < len(asked) else None
    what = each.module if each else "the image's Python"
    why = {
        124: f"it did not end within {_SECONDS} s",
        137: "Python was killed, as when the memory limit is reached",
        139: "Python ended with a segmentation fault",
    }.get(exit_code, f"Python ended with exit code {exit_code}")
    remedy = "Raise MONAI_AWS_MAP_MEMORY_MIB" if exit_code == 137 else "Import it in a container of the image to see why"
    return FailedImport(what, f"{each.file}:{each.line}" if each else "before the first import", why, remedy)


def remedy_for(module: str, absent: str, error: str) -> str:
    """What to do about an import that failed with these words. ``absent``: the module that was not found."""
    if library := _LIBRARY.search(error):
        return _library(library[1], module)
    package = imports.package_for(absent or module)
    if absent:
        by = "" if absent.partition(".")[0] == module.partition(".")[0] else f" (which {module.partition('.')[0]} imports)"
        return f"Write {package}==VERSION into {REQUIREMENTS}{by}, or correct the name"
    if "Read-only file system" in error or "Permission denied" in error:
        return "It writes outside /tmp when it is imported; have it write below HOME or TMPDIR, which are /tmp"
    what = "name" if "cannot import name" in error or "has no attribute" in error else "import"
    return f"Correct the {what}, or the version of {package} in {REQUIREMENTS}"


def _library(name: str, module: str) -> str:
    if name.startswith("libcudart"):
        return f"Write {CUDART_PIN} into {REQUIREMENTS}"
    if package := _LIBRARIES.get(name):
        headless = " (or opencv-python-headless in place of opencv-python)" if module.partition(".")[0] == "cv2" else ""
        return f"Write 'monai-aws: {{system-packages: [{package}]}}' into app.yaml{headless}"
    return f"Add the Debian package that holds {name} to 'system-packages' in app.yaml"


def _failure(failed: Sequence[FailedImport]) -> Failure:
    lines = "\n".join(f"  {each}" for each in failed)
    return Failure(
        f"The image cannot make the imports of its application; the MAP was not pushed. What failed in it:\n{lines}\n"
        'Correct it, and materialise map_image again. See docs/your-own-model.md, "Known traps".',
        metadata={"imports": MetadataValue.json([str(each) for each in failed])},
        allow_retries=False,
    )


# ------------------------------------------------------------------------------------------------------------- what passed before


def _key(digest: str) -> str:
    return sbom_key(digest).replace("sbom.cdx.json", "imports.json")


def _stamp(code: AppCode) -> dict[str, object]:
    """What an older answer must agree in to be one: the probe, and the application's own names, which may hide others."""
    probe = hashlib.sha256(Path(import_probe.__file__).read_bytes()).hexdigest()
    return {"schema": _SCHEMA, "probe": probe, "own": sorted(code.top_modules)}


def _passed(s3: S3Client, bucket: str, digest: str, code: AppCode) -> frozenset[str]:
    try:
        kept = json.loads(s3.get_object(Bucket=bucket, Key=_key(digest))["Body"].read())
        passed = frozenset(str(each) for each in kept["passed"])
        return passed if {name: kept[name] for name in _stamp(code)} == _stamp(code) else frozenset()
    except ClientError as error:
        if code_of(error) not in ("NoSuchKey", "404"):
            raise named(error, "reading which imports the dependencies have made") from error
    except (ValueError, KeyError, TypeError):
        pass  # damaged: asked again
    return frozenset()


def _keep(s3: S3Client, bucket: str, digest: str, code: AppCode, passed: Iterable[str]) -> None:
    body = json.dumps({**_stamp(code), "passed": sorted(passed)}).encode()
    try:
        s3.put_object(Bucket=bucket, Key=_key(digest), Body=body, ContentType="application/json")
    except ClientError as error:
        raise named(error, "keeping which imports the dependencies have made") from error
