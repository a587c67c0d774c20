"""What the measurements of inference share: a platform of its own on the embedded AWS, commands on its host, and the plain loop.

The loop is what one writes without this project: one Python process on the same kind of machine that downloads a study, unpacks it, calls
``docker run`` on the MAP as its format documents it, and uploads what it wrote, one study after another. It checks nothing and isolates
nothing, keeps its connections open, and pays for no process but docker's.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from examples.brain_mri.fetch import ExampleFiles
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord
from monai_aws_pipeline.local_cloud.commands import up
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.cloud import own_cloud
from tests.support.platform import Platform, environment, platform

LOOP = """
import json, shutil, subprocess, sys, time, zipfile
from pathlib import Path
import boto3
wanted = json.load(sys.stdin)
s3, work, image, bucket = boto3.client("s3"), Path("/var/tmp/plain-loop"), wanted["image"], wanted["bucket"]
seconds = []
for key in wanted["keys"]:
    began = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    source, target = work / "input", work / "output"
    source.mkdir(parents=True), target.mkdir(), target.chmod(0o777)
    s3.download_file(bucket, key, str(work / "study.zip"))
    zipfile.ZipFile(work / "study.zip").extractall(source)
    ran = time.monotonic()
    subprocess.run(["docker", "run", "--rm", "--network", "none", *wanted["options"], "-v", f"{source}:/var/holoscan/input:ro", "-v",
                    f"{target}:/var/holoscan/output", image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    run_seconds = time.monotonic() - ran
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        s3.upload_file(str(path), bucket, f"output/plain-loop/{Path(key).stem}/{path.relative_to(target)}")
    assert any(target.rglob("*.dcm")), "the loop's MAP wrote no DICOM"
    seconds.append([time.monotonic() - began, run_seconds])
shutil.rmtree(work, ignore_errors=True)
print(json.dumps(seconds))
"""


def say(line: str) -> None:
    """Progress."""
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


def brain_example(files: ExampleFiles) -> dict[str, str]:
    """The settings that name the brain example and its model."""
    return {
        "MONAI_AWS_APP_SOURCE": str(PROJECT_ROOT / "examples" / "brain_mri" / "app"),
        "MONAI_AWS_MODEL_URI": str(files.model),
        "MONAI_AWS_MODEL_SHA256": files.model_sha256,
    }


@contextmanager
def deployed(name: str, **variables: str) -> Iterator[Platform]:
    """A platform with everything materialised, on an embedded AWS of its own that is wiped afterwards."""
    with tempfile.TemporaryDirectory() as folder, own_cloud(f"bench-{name}") as config:
        cloud = up(config, lambda _: None)
        with platform(cloud, f"bench-{name}", Path(folder), **variables) as place:
            began = time.monotonic()
            assert place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
            say(f"deployed in {time.monotonic() - began:.0f} s")
            yield place
            stop_host(place)


def answer(place: Platform, studies: Sequence[Path], seconds: float = 1500) -> list[ResultRecord]:
    """Upload studies at once and wait for their commit records, in order."""
    with ThreadPoolExecutor(4) as uploads:
        jobs = list(uploads.map(lambda path: place.upload(f"input/{path.name}", path.read_bytes()), studies))
    found = place.answers(jobs, seconds)
    return [found[job][0] for job in jobs]


def on_host(place: Platform, script: str, seconds: int = 600) -> str:
    """Run lines on the inference host; its standard output. The host is started if it is stopped; its agent is left as it is."""
    (host,) = place.machines(ROLE_INFERENCE)
    commands = Commands(place.clients.ssm)
    commands.wait_online(host.id)
    ended = commands.run(host.id, script, seconds)
    assert ended.exit_code == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
    return ended.stdout


def hold_host(place: Platform) -> None:
    """Have the host run without its agent, so that nothing but the loop uses it and it does not stop."""
    (host,) = place.machines(ROLE_INFERENCE)
    if host.state != "running":
        place.wait_stopped()
        place.clients.ec2.start_instances(InstanceIds=[host.id])
    on_host(place, "systemctl start docker; systemctl stop monai-aws-agent; systemctl is-active docker")


def stop_host(place: Platform) -> None:
    """Stop the host by hand: how long it has been on says nothing about idle time here."""
    place.clients.ec2.stop_instances(InstanceIds=[host.id for host in place.machines(ROLE_INFERENCE)])
    place.wait_stopped()


def plain_loop(place: Platform, keys: Sequence[str], options: Sequence[str] = ()) -> list[tuple[float, float]]:
    """Have the loop answer these objects on the host; for each the seconds in all, and of ``docker run`` alone."""
    image = place.clients.ssm.get_parameter(Name=place.settings.names.live_map_parameter)["Parameter"]["Value"]
    wanted = json.dumps({"image": image, "bucket": place.settings.bucket, "keys": list(keys), "options": list(options)})
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in (("loop.py", LOOP), ("wanted", wanted))}
    lines = [f"echo {text} | base64 -d > /var/tmp/{name}" for name, text in encoded.items()]
    said = on_host(place, "\n".join([*lines, "/opt/monai-aws/venv/bin/python /var/tmp/loop.py < /var/tmp/wanted"]))
    return [(float(whole), float(run)) for whole, run in json.loads(said.strip().splitlines()[-1])]


def put_originals(place: Platform, studies: dict[str, bytes]) -> list[str]:
    """Put studies where no event comes from, for the loop; the keys."""
    with environment(place.cloud.environment):
        s3 = boto3.Session().client("s3")
    for name, body in studies.items():
        s3.put_object(Bucket=place.settings.bucket, Key=f"processed/plain-loop/{name}.zip", Body=body)
    return [f"processed/plain-loop/{name}.zip" for name in studies]


def source_state() -> dict[str, Any]:
    """Which code was measured."""
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False).stdout
    return {"commit": said.strip()}
