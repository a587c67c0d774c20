"""What the lineage graph knows of an asset that another one builds on, and how an event that no step made says what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dagster import AssetKey, AssetSpec, DagsterInstance, Definitions, Failure
from dagster._core.definitions.data_version import extract_data_version_from_entry

DATA_VERSION_TAG: Final = "dagster/data_version"

# The tags that a run writes onto its materializations and that Dagster reads back for staleness (dagster._core.definitions.data_version,
# 1.13): a materialization recorded without a run shows its provenance the same way. tests/unit/studies hold that they still mean that.
_CODE_VERSION: Final = "dagster/code_version"
_DATA_VERSION_IS_OURS: Final = "dagster/data_version_is_user_provided"
_INPUT_DATA_VERSION: Final = "dagster/input_data_version"
_INPUT_EVENT: Final = "dagster/input_event_pointer"


def with_code_version(defined: Definitions, asset: AssetKey, version: str) -> Definitions:
    """Definitions in which an asset has a code version, so that it is stale when that is another one than it was made with."""

    def versioned(spec: AssetSpec) -> AssetSpec:
        return spec.replace_attributes(code_version=version) if spec.key == asset else spec

    return defined.permissive_map_resolved_asset_specs(func=versioned, selection=None)


def latest_version(instance: DagsterInstance, name: str) -> str:
    """The data version of an asset's latest materialization, empty where there is none."""
    event = instance.get_latest_data_version_record(AssetKey(name))
    version = extract_data_version_from_entry(event.event_log_entry) if event else None
    return version.value if version else ""


def latest_metadata(instance: DagsterInstance, name: str, entry: str) -> str:
    """A text of the metadata of an asset's latest materialization, empty where there is none."""
    event = instance.get_latest_materialization_event(AssetKey(name))
    found = event.asset_materialization.metadata.get(entry) if event and event.asset_materialization else None
    return str(found.value) if found else ""


def materialized_version(instance: DagsterInstance, name: str) -> str:
    """Like ``latest_version``. Raises Failure where there is none yet."""
    version = latest_version(instance, name)
    if not version:
        raise Failure(f"{name} has never been materialised. Materialise it first, or run the job deploy_all.")
    return version


def version_tags(version: str, code_version: str, inputs: Mapping[AssetKey, tuple[str, int]]) -> dict[str, str]:
    """Tags that give a materialization its data version and its provenance.

    ``inputs``: data version and storage id (0 where it is not known) of each upstream asset it was made from.
    """
    tags = {DATA_VERSION_TAG: version, _DATA_VERSION_IS_OURS: "true", _CODE_VERSION: code_version or "unknown"}
    for key, (input_version, storage_id) in inputs.items():
        tags[f"{_INPUT_DATA_VERSION}/{key.to_user_string()}"] = input_version or "unknown"
        tags[f"{_INPUT_EVENT}/{key.to_user_string()}"] = str(storage_id) if storage_id else "NULL"
    return tags
