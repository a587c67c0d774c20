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
        "preview": Key("picture of the answer"),
        "volume_*_ml": Key("volume of a segment of the answer", "ml"),
        "study": Key("pseudonym of the study"),
        "job": Key("id of the job: one for each upload and each MAP that was asked"),
        "map_image": Key("reference of the MAP that answered"),
        "map_digest": Key("digest of the MAP that answered"),
        "map_app_version": Key("version of its application"),
        "map_sdk_version": Key("version of its MONAI Deploy App SDK"),
        "map_commit": Key("commit of its source, or the start of a content hash"),
        "map_hosting": Key("warm: in a process with the imports in memory; per_study: in a container of its own"),
        "model_sha256": Key("SHA-256 of its model files"),
        "host_instance": Key("instance id of the host"),
        "host_type": Key("type of the host"),
        "host_ami": Key("id of its machine image"),
        "modalities": Key("modalities of the study"),
        "rerun_of_map": Key("digest of the MAP that was asked for; not there for an upload"),
        "committed_at": Key("when the answer was committed"),
        "*_s": Key("how long a phase took: queued, boot, download, pull, inference, upload, total", "s"),
        "cost_usd": Key("what the study cost", "USD"),
        "cost_*_usd": Key("its share for boot, pull, inference, idling", "USD"),
        "cost_basis": Key("the price that the cost was reckoned with"),
        "input_bytes": Key("size of the upload", "bytes"),
        "input_instances": Key("DICOM instances in the study", "instances"),
        "input_series": Key("series in the study", "series"),
        "input_given": Key("instances that the application was given", "instances"),
        "input_selection": Key("how the series was chosen"),
        "input_passed_over": Key("files that are no image, by kind"),
        "input_repairs": Key("what was evened out before the application saw it"),
        "peak_memory_mib": Key("most memory that the application held", "MiB"),
        "peak_gpu_memory_mib": Key("most memory of the GPU that it held", "MiB"),
        "cpu_s": Key("processor time of the application", "s"),
        "record": Key("where the commit record lies"),
        "outputs": Key("files of the answer"),
        "s3_*": Key("where the first file of a kind lies"),
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
