"""docs/lineage.md and its picture show the lineage as it is defined.

When a definition changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_lineage_page.py. The picture docs/lineage.svg is drawn by
hand; each of its arrows between two assets names them (``data-edge``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DefaultScheduleStatus, DefaultSensorStatus, RepositoryDefinition

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.metadata_keys import KEYS
from monai_aws_pipeline.pages import PAGES, code_of
from monai_aws_pipeline.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, PICTURE = DOCS / "lineage.md", DOCS / "lineage.svg"
HEAD = """# The lineage

![The way of a model and of a study, drawn](lineage.svg)

What Dagster shows, in words: every asset with what it is made from, its checks and the keys of its metadata, then jobs, schedules and
sensors. Times were measured with the example on the embedded AWS on a machine with two cores; on AWS nothing has been measured yet. Prices
are list prices of us-east-1 ([aws](aws.md#what-it-costs)). *Costs* says what running it costs there: the time of a machine, small change or
nothing.

This page is written by a test from the definitions.
"""


@pytest.fixture(scope="module")
def repository() -> RepositoryDefinition:
    return build_defs(Settings(_env_file=None)).get_repository_def()  # type: ignore[call-arg]


def page(given: RepositoryDefinition) -> str:
    graph = given.asset_graph
    assets = [key for key in graph.toposorted_asset_keys if key.to_user_string() in PAGES]
    checks = {name: sorted(key.name for key in graph.asset_check_keys if key.asset_key == name) for name in assets}
    parts = [HEAD, "## Assets", *(asset(graph.get(key), checks[key]) for key in assets), "## Checks"]
    specs = sorted((graph.get_check_spec(key) for key in graph.asset_check_keys), key=lambda spec: spec.name)
    parts += [section(spec.name, spec.description, [f"Of: {link(spec.asset_key.to_user_string())}"]) for spec in specs]
    jobs = sorted((job for job in given.get_all_jobs() if not job.name.startswith("__")), key=lambda job: job.name)
    parts += ["## Jobs", *(section(job.name, job.description, made_by(job)) for job in jobs)]
    parts += [
        "## Schedules",
        *(section(each.name, each.description, [schedule(each)]) for each in sorted(given.schedule_defs, key=by_name)),
    ]
    parts += [
        "## Sensors",
        *(section(each.name, each.description, [sensor(each, graph)]) for each in sorted(given.sensor_defs, key=by_name)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def by_name(each: Any) -> str:
    return str(each.name)


def link(name: str) -> str:
    return f"[{name}](#{name})"


def links(keys: Iterable[AssetKey | str]) -> str:
    return ", ".join(link(key if isinstance(key, str) else key.to_user_string()) for key in sorted(keys, key=str)) or "nothing"


def asset(node: Any, checks: list[str]) -> str:
    name = node.key.to_user_string()
    facts = [
        f"Made from: {links(node.parent_keys)}",
        f"Group: {node.group_name}. Kinds: {', '.join(sorted(node.kinds))}.",
        *([f"Partitions: {getattr(node.partitions_def, 'name', 'daily')}"] if node.partitions_def else []),
        *([f"Checks: {links(checks)}"] if checks else []),
    ]
    return section(name, node.description, facts)


def section(name: str, description: str | None, facts: list[str]) -> str:
    known, place = PAGES[name], code_of(name)
    assert place
    guide = f"[{known.guide.partition('#')[0]}]({known.guide})"
    where = f"Costs: {known.costs.value}. Read on: {guide}. Code: [{place.file.name}](../{place.path})."
    lines = "\n".join(f"- {fact}" for fact in (*facts, where))
    return f"### {name}\n\n{description}\n\n{lines}{keys_of(name)}"


def keys_of(name: str) -> str:
    if name not in KEYS:
        return ""
    rows = "\n".join(f"| `{key}` | {each.meaning} | {each.unit} |" for key, each in KEYS[name].items())
    return f"\n\n| Metadata | Meaning | Unit |\n|---|---|---|\n{rows}"


def made_by(job: Any) -> list[str]:
    assets = job.asset_layer.selected_asset_keys
    return [f"Assets: {links(assets)}"] if assets else []


def schedule(given: Any) -> str:
    on = "on from the start" if given.default_status is DefaultScheduleStatus.RUNNING else "off until someone turns it on"
    return f"When: `{given.cron_schedule}` UTC, {on}"


def sensor(given: Any, graph: Any) -> str:
    on = "on from the start" if given.default_status is DefaultSensorStatus.RUNNING else "off until someone turns it on"
    assets = given.asset_selection.resolve(graph) if given.asset_selection else ()
    started = [job.name for job in given.jobs] if given.has_jobs else [key.to_user_string() for key in assets]
    jobs = f", starts {links(started)}" if started else ", starts no run"
    return f"When: every {given.minimum_interval_seconds} s, {on}{jobs}"


def test_the_page_shows_the_lineage_as_it_is(repository: RepositoryDefinition):
    text = page(repository)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text


def test_the_picture_has_the_arrows_that_the_graph_has(repository: RepositoryDefinition):
    text, graph = PICTURE.read_text(), repository.asset_graph
    names = {key.to_user_string(): key for key in graph.get_all_asset_keys()}
    drawn = names.keys() & set(re.findall(r'class="t">([a-z0-9_]+)</text>', text))
    assert {name for name, key in names.items() if graph.get(key).group_name == "platform"} <= drawn
    arrows = re.findall(r'data-edge="([a-z0-9_]+ [a-z0-9_]+)"', text)
    edges = {f"{parent.to_user_string()} {name}" for name in drawn for parent in graph.get(names[name]).parent_keys}
    assert sorted(arrows) == sorted(edge for edge in edges if edge.split()[0] in drawn)
