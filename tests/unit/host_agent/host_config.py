"""The settings of a host as they arrive there, and a digest."""

from __future__ import annotations

GOOD = {
    "deployment": "dev",
    "region": "us-east-1",
    "bucket": "studies",
    "jobs_queue": "monai-aws-dev-jobs",
    "live_map_parameter": "/monai-aws/dev/live-map",
    "study_key_secret": "monai-aws/dev/study-key",
    "gpus": "",
    "map_network": "none",
    "map_hosting": "warm",
    "studies_at_once": "1",
    "fleet_group": "",
    "map_timeout_s": 600,
    "map_memory_mib": 4096,
    "idle_stop_minutes": 5,
    "upload_max_mib": 8192,
    "unpacked_max_mib": 24576,
    "upload_max_files": 50000,
    "unpack_max_ratio": 250,
    "unpack_max_depth": 1,
    "unpack_max_seconds": 900,
    "require_volume": False,
    "archive": "none",
    "archive_address": "",
    "archive_secret": "",
    "archive_correct": False,
    "datastore_id": "",
    "usd_per_hour": {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006},
    "price_basis": "on-demand, us-east-1",
}
DIGEST = "sha256:" + "a" * 64
