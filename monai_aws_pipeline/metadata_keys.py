"""Every key of metadata that the lineage writes, by the definition that writes it: what it means, and its unit.

Here belong names and their meaning; values are made where the work is done. A ``*`` stands for what the data names: a phase, a segment, a
kind of file. The tables on the assets' pages and docs/lineage.md are made of this, and ``tests/unit/test_metadata_keys.py`` holds that
nothing writes a key that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Key:
    """What a key of metadata says. ``unit`` is empty for texts, tables and yes or no."""

    meaning: str
    unit: str = ""


_REUSED: Final = Key("whether what was wanted was there already, so that nothing was made")
_SECONDS: Final = Key("how long the step took", "s")
_DIGEST: Final = Key("digest of the MAP in ECR")
_APPLICATION: Final[Mapping[str, Key]] = {
    "application": Key("title of the application in its app.yaml"),
    "repository": Key("where the source lies: git address or folder, without credentials"),
    "ref": Key("branch, tag or commit that is followed (MONAI_AWS_APP_REF)"),
    "commit": Key("git commit of the source; not there where the source is no commit"),
    "content": Key("first 40 digits of the SHA-256 over the files, where the folder is outside git or holds changes"),
}
_CHANGE: Final[Mapping[str, Key]] = {
    "kind": Key("how the MAP became live: deploy, promote or rollback"),
    "digest": _DIGEST,
    "tag": Key("tag of the MAP, or its digest where it has none"),
    "image": Key("whole reference of the MAP in ECR"),
    "previous": Key("digest of the MAP that was live before"),
    "by": Key("who changed it: the setting owner and the run or the command"),
    "why": Key("the reason that was given"),
    "changed": Key("whether another MAP was live before"),
    "changed_at": Key("when it was changed, UTC"),
    "golden_study": Key("how the golden study on a host ended: passed, none (the MAP brings none), not asked, not known"),
    "golden_seconds": Key("how long the host took for the golden study", "s"),
    "golden_host": Key("instance id of the host that answered the golden study"),
    "golden_points": Key("each point of the golden study: what was expected, what was found"),
}
_OF_A_DAY: Final[Mapping[str, Key]] = {
    "window": Key("which results were judged"),
    "results": Key("how many results there are of that time", "results"),
    "not_judged": Key("how many of them gave nothing to judge by", "results"),
    "failing": Key("how many of them fail", "results"),
    "studies": Key("the newest of those: time, study, job, what was found"),
    "what_to_do": Key("what a person does about it"),
}

KEYS: Final[Mapping[str, Mapping[str, Key]]] = {
    "map_source": _APPLICATION,
    "gpu_ami": {
        "image_id": Key("id of the machine image (AMI)"),
        "image_name": Key("name of the machine image"),
        "base_image": Key("id of the image that it was made from"),
        "base_name": Key("name of the image that it was made from"),
        "base_address": Key("hash of MONAI_AWS_BASE_AMI and its owner: by what the base was found"),
        "content": Key("hash over all inputs: base, script, agent, wheels, disk; stock where nothing was baked"),
        "baked_at": Key("when the image was captured, UTC"),
        "reused": _REUSED,
        "copies": Key("ids of the copies by region"),
        "retired": Key("images that were removed because newer ones are kept (MONAI_AWS_AMI_KEEP)"),
        "seconds": _SECONDS,
    },
    "map_image": {
        **_APPLICATION,
        "digest": _DIGEST,
        "image": Key("whole reference of the MAP in ECR"),
        "tag": Key("tag of the MAP: version, source and content"),
        "app_version": Key("version of the application in its app.yaml"),
        "sdk_version": Key("version of the MONAI Deploy App SDK"),
        "model_sha256": Key("SHA-256 of the model files"),
        "bytes_compressed": Key("size of the MAP in ECR, which is what it costs", "bytes"),
        "pushed_at": Key("when it was pushed, UTC"),
        "built_on": Key("id of the machine image that the build machine was started from"),
        "packager": Key("layered, or monai-deploy for the official one"),
        "reused": _REUSED,
        "stages_reused": Key("stages of the build that were taken from the registry"),
        "sbom": Key("address of the bill of materials"),
        "sbom_*": Key("entries in the bill of materials, by kind", "packages"),
        "golden": Key("whether the golden study was answered before the push, and which"),
        "golden_points": Key("each point of the golden study: what was expected, what was found"),
        "imports": Key("how the image met the imports of its application, and how many"),
        "seconds_*": Key("how long a phase of the build took", "s"),
        "findings": Key("of a run that failed: what the doctor found"),
    },
    "live_map": _CHANGE,
    "inference_host": {
        **_CHANGE,
        "instances": Key("instance ids of the hosts"),
        "retired": Key("hosts that were ended, and why"),
        "instance_type": Key("type of the first host"),
        "image_id": Key("id of the machine image of the hosts"),
        "map_digest": Key("digest of the MAP that the hosts hold"),
        "map_tag": Key("tag of that MAP"),
        "not_made_live": Key("MAP that was not made live, and why"),
        "usd_per_hour_while_running": Key("on-demand price of a host by the list in cloud/prices.py", "USD an hour"),
        "idle_stop_minutes": Key("a host without work stops after that long", "min"),
        "root_volume_gib": Key("disk of a host, which costs also while it is stopped", "GiB"),
        "root_volume_gib_for_two_maps": Key("what system, two MAPs and a study need, by estimate", "GiB"),
        "pull_seconds": Key("how long each host pulled the MAP; 0 where it had it", "s"),
        "reused": _REUSED,
        "seconds": _SECONDS,
    },
    "s3_trigger": {
        "bucket": Key("prefix of the bucket that is watched"),
        "function": Key("ARN of the wake function"),
        "function_bytes": Key("size of its zip", "bytes"),
        "function_sha256": Key("SHA-256 of its zip"),
        "uploads_queue": Key("address of the queue that S3 tells"),
        "jobs_queue": Key("address of the queue that hosts take from"),
        "wake_every_minutes": Key("how often the schedule wakes the function", "min"),
        "alarms": Key("alarms that watch the deployment", "alarms"),
        "results_expire_days": Key("when results leave the bucket; 0: never", "days"),
        "originals_expire_days": Key("when originals leave the bucket; 0: never", "days"),
        "seconds": _SECONDS,
    },
    "inference_result": {
        "status": Key("how the job ended: succeeded, failed or quarantined"),
        "error_code": Key("code of the failure; docs/operations.md lists all"),
        "error": Key("what happened, and what to do"),
        "application_said_last": Key("last meaningful line of the application's log, without identifiers"),
        "expired": Key("the result left the bucket before it was recorded"),
        "preview": Key("picture of the answer, leading to the study's page; its place in S3 where there are no pages"),
        "map_app_version": Key("version of the application of the MAP that answered"),
        "map_digest": Key("digest of the MAP that answered"),
        "model_sha256": Key("SHA-256 of its model files"),
        "job": Key("id of the job: one for each upload and each MAP that was asked, and one more for each attempt after a failure"),
        "committed_at": Key("when the answer was committed"),
        "total_s": Key("how long it took, from its place in the queue to the commit", "s"),
        "inference_s": Key("how long the application took of that", "s"),
        "cost_usd": Key("what the study cost", "USD"),
        "links": Key("the study's page, all its answers, log, original and record, where pages are served"),
        "record": Key("where the commit record lies, where no pages are served"),
        "s3_console": Key("the answer in the AWS console, where no pages are served"),
        "checks": Key("what each check found of this study"),
        "volume_*_ml": Key("volume of a segment of the answer", "ml"),
        "volumes_left_out": Key("how many volumes have no room here; the study's page shows them"),
        "compared_with_before": Key("what changed against the answer that the study had before"),
        "details": Key("seconds of each phase, host, input, shares of the cost, source, series, memory, as far as they have room"),
    },
    "unanswered_studies": {
        "last_24_hours": Key("studies and uploads of the last day without an answer", "studies"),
        "last_7_days": Key("the same of the last week", "studies"),
        "by_code": Key("how many there are of each code"),
        "newest": Key("links to what happened to the newest of them"),
        "once_mended": Key("links to the job that has them answered again, ready to launch"),
        "studies": Key("each: time (UTC), code, cause and the application's last line, what to do"),
        "jobs": Key("job of each, in the order of the table, and the MAP"),
        "kept_under": Key("where original and record of a job lie"),
        "not_shown": Key("how many have no room in the table", "studies"),
    },
    "studies_by_map": {
        "not_by_the_live_map": Key("studies whose latest answer is another MAP's than the live one's", "studies"),
        "studies": Key("studies that were counted", "studies"),
        "live_map": Key("digest of the MAP that is live"),
        "by_map": Key("studies of each MAP by digest, its version, and whether it is live"),
        "newest_of_them": Key("which studies those are: of the MAPs that answered last, the newest of each"),
        "maps_not_shown": Key("how many MAPs have no room in the table", "MAPs"),
        "what_to_do": Key("links to the job that lists them, or has them answered again"),
        "counting": Key("older results are still being counted"),
        "counted_up_to_event": Key("number of the event in Dagster's event log up to which results were counted"),
    },
    "studies_by_day": {
        "table": Key("where the day's table lies, a CSV with a line for each result"),
        "page": Key("the table as a page"),
        "s3_console": Key("the table's folder in the AWS console, where no pages are served"),
        "results": Key("results that were committed on that UTC day, answers and failures", "results"),
        "failing": Key("how many of them are no answers", "results"),
        "codes": Key("how many of those have which code, the most frequent first"),
        "maps": Key("how many answers each MAP gave, the most frequent first"),
        "rows": Key("some of the results, those without an answer first, then the newest; each leads to its page"),
        "not_shown": Key("how many have no room here", "results"),
        "unreadable": Key("results whose record or index entry is damaged", "results"),
    },
    **dict.fromkeys(
        ("answered", "outputs_valid", "geometry_on_source", "mesh_agrees", "plausible_volume", "by_live_map"),
        _OF_A_DAY,
    ),
    "within_time_and_cost": {
        **_OF_A_DAY,
        "cost_together_usd": Key("what these results cost together: their hosts' time. Builds and storage are not in it", "USD"),
        "cost_by_hour": Key("results of each hour, by the time of the commit, and what they cost"),
    },
    "rerun_studies": {
        "meant": Key("how many studies are meant (dry run)"),
        "studies": Key("each of them: last end, MAP, where its original is (dry run)"),
        "ends": Key("how many studies ended how"),
        "changes": Key("each segment of each study: MAP and volume before and after, Dice"),
        "rows_left_out": Key("how many rows have no room in the table", "rows"),
    },
    "call_back_studies": {
        "called_back": Key("studies that have become partitions again", "studies"),
        "meant": Key("how many studies are meant, are outside of the window, and are unknown here"),
        "studies": Key("each of them: last end, MAP, whether it is a partition"),
        "rows_left_out": Key("how many rows have no room in the table", "rows"),
    },
    "machine_starts": {
        "image_id": Key("id of the machine image that was tried"),
        "engine": Key("version of the container engine"),
        "agent": Key("starts, where the agent does"),
        "unit": Key("state of the agent's unit in systemd"),
        "gpu": Key("name of the GPU"),
        "driver": Key("version of the NVIDIA driver"),
        "toolkit": Key("version of the NVIDIA container toolkit"),
        "kernel": Key("version of the kernel"),
        "instance_type": Key("type of the machine that was started"),
        "machine_seconds": Key("how long the machine was needed", "s"),
        "cost_usd": Key("what the machine cost", "USD"),
        "cost_basis": Key("the price that the cost was reckoned with"),
    },
    "map_conformance": {
        "digest": _DIGEST,
        "points": Key("each point of the MAP format, and whether it is kept"),
        "findings": Key("what is not kept"),
        "undecided": Key("what only a layer could tell that was not read"),
        "layers": Key("layers of the image", "layers"),
        "layers_not_read": Key("layers that were too large to be read, with their bytes"),
        "seconds": _SECONDS,
    },
    "map_vulnerabilities": {
        "digest": _DIGEST,
        "scan_status": Key("how ECR's scan ended"),
        "scan_completed_at": Key("when it ended"),
        "worst": Key("the gravest findings"),
        "critical": Key("findings of that severity", "findings"),
        "high": Key("findings of that severity", "findings"),
        "medium": Key("findings of that severity", "findings"),
        "low": Key("findings of that severity", "findings"),
        "informational": Key("findings of that severity", "findings"),
        "undefined": Key("findings of that severity", "findings"),
    },
    "sweep_orphans": {"removed": Key("what was removed")},
    "teardown": {"removed": Key("what was removed"), "left": Key("what is still there")},
}
