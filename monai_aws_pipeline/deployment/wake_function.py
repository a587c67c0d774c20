"""The wake function of a deployment: what s3_trigger makes, and what inference_host switches to the kind of hosts that there are now.

What the function does is in ``lambda_fn``; how one is brought to what is wanted, in ``cloud/functions.py``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from monai_aws_pipeline.cloud.functions import FunctionSpec
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.queues import Queue
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.deployment.lambda_package import build_zip
from monai_aws_pipeline.operations.live_maps import proof_seconds
from monai_aws_pipeline.operations.waking import wake
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import Settings

RUNTIME: Final = "python3.13"
HANDLER: Final = "lambda_fn.wake.handler"
GROUP: Final = "FLEET_GROUP"
"""The function's variable that names the Auto Scaling group to lift; without it named hosts are started."""
FORGOTTEN: Final = "FORGOTTEN_MINUTES"
"""Its variable that says for how long a host may be on with nothing to do."""


def wake_function(clients: Clients, settings: Settings, jobs: Queue) -> FunctionSpec:
    """The function as the settings want it, with its code. It sends jobs to that queue."""
    names = settings.names
    with scratch("monai-aws-lambda") as folder:
        archive = folder / "wake.zip"
        build_zip(archive)
        code = archive.read_bytes()
    return FunctionSpec(
        name=names.wake_function,
        role=f"arn:{clients.partition()}:iam::{clients.account()}:role/{names.wake_role}",
        runtime=RUNTIME,
        handler=HANDLER,
        code=code,
        sha256=base64.b64encode(hashlib.sha256(code).digest()).decode(),
        environment={
            "MONAI_AWS_DEPLOYMENT": settings.deployment,
            "JOBS_QUEUE_URL": jobs.url,
            "UPLOADS_BUCKET": settings.require_bucket(),
            "FOLDER_QUIET_MINUTES": f"{settings.folder_quiet_minutes:g}",
            FORGOTTEN: _forgotten(settings),
            **_group(settings),
        },
    )


def switch_wake_function(clients: Clients, settings: Settings, report: Report) -> bool:
    """Have the function wake hosts of the kind that the settings say, and know how long they may be on; whether it woke others before.

    Where none is deployed yet nothing is done: ``s3_trigger`` makes one for this kind. Jobs that wait meanwhile are looked at once more at
    the end, because the host that was woken for them may be of the kind that goes.
    """
    trigger, name = Trigger(clients, {}, report), settings.names.wake_function
    now, jobs = trigger.function_environment(name), trigger.find_queue(settings.names.jobs_queue)
    if now is None or jobs is None:
        return False
    others = now.get(GROUP, "") != _group(settings).get(GROUP, "")
    if others or now.get(FORGOTTEN) != _forgotten(settings):
        trigger.ensure_function(wake_function(clients, settings, jobs))
    if not others:
        return False
    report(f"{name} wakes {settings.names.fleet_group if settings.fleet == 'autoscaling' else 'named hosts'} from now on")
    wake(clients, settings, "inference-host", report)
    return True


def _group(settings: Settings) -> Mapping[str, str]:
    return {GROUP: settings.names.fleet_group} if settings.fleet == "autoscaling" else {}


def _forgotten(settings: Settings) -> str:
    """Minutes that a host may rightly be on with no job waiting or in hand: the longest proof of a MAP, or its idle time, and a margin."""
    return f"{max(proof_seconds(settings) / 60, settings.idle_stop_minutes) + 30:g}"
