"""S3 → SQS → Lambda: queues with dead letters, the wake function, its event source, the scheduled wake, the bucket's notification.

Every call may be repeated: what exists is brought to what is wanted, and what others put on the bucket stays. The bucket and the
roles are the administrator's (infra/bootstrap.yaml) and are only referred to. What is done with each is in its own module.
"""

from __future__ import annotations

from monai_aws_pipeline.cloud.bucket_notifications import BucketNotifications
from monai_aws_pipeline.cloud.functions import Functions
from monai_aws_pipeline.cloud.queues import Queues
from monai_aws_pipeline.cloud.schedules import Schedules


class Trigger(Queues, Functions, Schedules, BucketNotifications):
    """The S3 trigger of one deployment: all of it, for who sets it up or takes it down."""
