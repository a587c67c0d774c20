"""What the lineage graph knows of an asset that another one builds on: its last data version, read from Dagster's own records."""

from __future__ import annotations

from dagster import AssetKey, DagsterInstance, Failure
from dagster._core.definitions.data_version import extract_data_version_from_entry


def materialized_version(instance: DagsterInstance, name: str) -> str:
    """The data version of an asset's latest materialization. Raises Failure where there is none yet."""
    event = instance.get_latest_data_version_record(AssetKey(name))
    version = extract_data_version_from_entry(event.event_log_entry) if event else None
    if version is None:
        raise Failure(f"{name} has never been materialised. Materialise it first, or run the job deploy_all.")
    return version.value
