"""Having a host started for jobs that somebody has queued: the wake function is called as its schedule calls it."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.settings import Settings


def wake(clients: Clients, settings: Settings, who: str, report: Report) -> None:
    """Call it, and do not wait. Where it cannot be called nothing is lost: the schedule calls it too, and it finds what is queued.

    ``who`` asks, for the function's log. What it is called with is no upload, so it only looks whether jobs are queued.
    """
    event = json.dumps({"source": f"monai-aws.{who}"}).encode()
    try:
        clients.functions.invoke(FunctionName=settings.names.wake_function, InvocationType="Event", Payload=event)
    except ClientError as error:
        report(f"Could not wake a host at once ({code_of(error)}); the schedule does within {settings.wake_every_minutes} minutes.")
