"""s3_trigger: every study uploaded to the bucket becomes a job, and a host is woken for it. S3 → SQS → Lambda → SQS.

The function never waits for a machine; a schedule wakes the same function, so that a lost wake only delays a study.
"""

import hashlib
import time

from dagster import AssetExecutionContext, AssetKey, DataVersion, MaterializeResult, MetadataValue, asset

from monai_aws_pipeline.cloud.alarms import Alarms, wanted
from monai_aws_pipeline.cloud.expiry import BucketExpiry, expiry_rules
from monai_aws_pipeline.cloud.queues import queue_policy, redrive
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import INPUT_PREFIX, TAG_DEPLOYMENT, TAG_OWNER
from monai_aws_pipeline.deployment.wake_function import wake_function
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource

RECEIPTS = 3
UPLOADS_VISIBILITY_S = 360  # six times the function's time limit, as AWS advises for an event source
JOBS_VISIBILITY_S = 120  # the agent extends it while a job runs; a dead host's job is taken again after this
RETENTION_S = 14 * 24 * 3600


@asset(
    deps=[AssetKey("inference_host")],
    group_name="platform",
    kinds={"lambda", "sqs"},
    description="What turns an upload into a job and wakes a host: bucket notification and expiry, queues with dead letters, wake "
    "function and its schedule, alarms. Materialise it once, and when a setting of these changed. It took a second on the embedded AWS; "
    "on AWS it costs at most 1.30 USD a month, most of it for alarms.",
)
def s3_trigger(context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource) -> MaterializeResult:  # type: ignore[type-arg]
    """Bring queues, function, event source, schedule, notification, expiry and alarms to what is wanted."""
    with repeating(context.log.info) as report:
        report("bringing queues, function, schedule, notification and alarms to what the settings say")
        chosen, clients = settings.load(), cloud.clients()
        started = time.monotonic()
        names, bucket, account = chosen.names, chosen.require_bucket(), clients.account()
        roles = f"arn:{clients.partition()}:iam::{account}:role"
        tags = {TAG_DEPLOYMENT: chosen.deployment, TAG_OWNER: chosen.owner}
        trigger = Trigger(clients, tags, report)
        kept = {"MessageRetentionPeriod": str(RETENTION_S), "SqsManagedSseEnabled": "true"}

        uploads_dead = trigger.ensure_queue(names.uploads_dead_letters, kept)
        jobs_dead = trigger.ensure_queue(names.jobs_dead_letters, kept)
        jobs = trigger.ensure_queue(
            names.jobs_queue, kept | {"VisibilityTimeout": str(JOBS_VISIBILITY_S), "RedrivePolicy": redrive(jobs_dead, RECEIPTS)}
        )
        uploads = trigger.ensure_queue(
            names.uploads_queue, kept | {"VisibilityTimeout": str(UPLOADS_VISIBILITY_S), "RedrivePolicy": redrive(uploads_dead, RECEIPTS)}
        )
        # Set last: the policy names the queue's own ARN, which exists only now.
        trigger.ensure_queue(names.uploads_queue, {"Policy": queue_policy(uploads.arn, bucket, account)})
        report(f"queues {names.uploads_queue} and {names.jobs_queue} with their dead letters are there")

        wanted_function = wake_function(clients, chosen, jobs)
        function = trigger.ensure_function(wanted_function)
        trigger.ensure_log_retention(names.wake_function, chosen.log_retention_days)
        trigger.ensure_event_source(names.wake_function, uploads)
        trigger.ensure_schedule(names.wake_schedule, function, f"{roles}/{names.scheduler_role}", chosen.wake_every_minutes)
        changed = trigger.ensure_notification(bucket, names.uploads_queue, uploads, INPUT_PREFIX)
        report(
            f"bucket {bucket} tells {names.uploads_queue} about new objects under {INPUT_PREFIX} ({'set now' if changed else 'as before'})"
        )
        expiry = expiry_rules(chosen.deployment, chosen.results_expire_days, chosen.originals_expire_days)
        if BucketExpiry(clients.s3, bucket, chosen.deployment).ensure(expiry):
            report(
                f"lifecycle rules of {bucket}: {', '.join(rule['ID'] for rule in expiry) or 'none of ours any more'}; those of others stay"
            )
        alarms = wanted(names, chosen.alarm_job_minutes, chosen.wake_every_minutes, chosen.alarm_host_hours)
        Alarms(clients.cloudwatch, names).ensure(alarms, chosen.alarm_topic_arn, tags)
        report(
            f"{len(alarms)} alarms watch dead letters, hosts and waiting jobs and tell {chosen.alarm_topic_arn or 'nobody but CloudWatch'}"
        )
        return MaterializeResult(
            # Not the function's hash: a study does not become stale because the code that announced it changed.
            data_version=DataVersion(f"s3://{bucket}/{INPUT_PREFIX}"),
            metadata={
                "bucket": MetadataValue.md(Addresses.of(chosen).s3_link(INPUT_PREFIX)),
                "function": function,
                "function_bytes": len(wanted_function.code),
                "function_sha256": hashlib.sha256(wanted_function.code).hexdigest(),
                "uploads_queue": uploads.url,
                "jobs_queue": jobs.url,
                "wake_every_minutes": chosen.wake_every_minutes,
                "alarms": len(alarms),
                "results_expire_days": chosen.results_expire_days,
                "originals_expire_days": chosen.originals_expire_days,
                "seconds": round(time.monotonic() - started, 1),
            },
        )
