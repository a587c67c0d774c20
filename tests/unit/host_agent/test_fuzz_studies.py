"""A hundred changed studies with a fixed seed, and whether the search would see what it searches for.

Each is answered rightly or refused by a name, and no planted identifier is anywhere. ``make fuzz-studies`` runs two thousand with a new
seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.fuzz.honest_applications import APPLICATIONS, SDK, Application, sdk_volume
from tests.fuzz.studies import Case, build, cases, made, report, run
from tests.fuzz.study_axes import AXES, Phase
from tests.fuzz.study_draft import BIRTH_DATE, CENTER, Draft, TruePlane, good_draft, object_at, points_of
from tests.fuzz.study_host import study_host
from tests.fuzz.study_oracle import DICE, Planes, Verdict, dice_of, judge, masks_of, planted

Array = NDArray[Any]

SEED = 20261128


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_hundred_changed_studies_have_a_right_answer_or_a_named_refusal(tmp_path: Path) -> None:
    summary = run(SEED, 100, tmp_path, processes=1)
    assert (summary.studies, summary.findings) == (100, []), report(summary)
    assert summary.axes > 80
    assert summary.answered > 25
    assert summary.refused.total() > 25


def test_studies_are_changed_along_more_than_forty_axes_of_every_family() -> None:
    assert len(AXES) > 400
    assert {axis.phase for axis in AXES.values()} == set(Phase)


def test_a_long_run_tries_every_axis_alone_with_each_application_that_it_matters_to() -> None:
    wanted = {(case.axes, case.application) for case, _ in zip(cases(SEED, 2000), range(2000), strict=False)}
    assert {((name,), application) for name in AXES for application in ("sdk", "careful")} <= wanted


def test_the_same_seed_makes_the_same_study() -> None:
    case = Case("sdk", ("acquired_oblique", "members_shuffled"), SEED)
    one, other = made(case), made(case)
    assert one
    assert other
    assert one[1] == other[1]
    assert one[1] != made(replace(case, seed=SEED + 1))[1]  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name, axis in AXES.items() if axis.phase is Phase.ACQUISITION and axis.right.answer])
def test_what_is_acquired_on_other_planes_is_the_same_object_in_the_patient(name: str) -> None:
    usual, other = (_smooth(build(Case("sdk", axes, SEED))) for axes in (("position_jitter_1e-4",), (name,)))
    points = usual.points
    middle = points[np.abs(points[:, 2] - CENTER[2]) < 8]  # elsewhere the object is cut where planes end
    assert other.contains(middle).mean() > 0.9


def _smooth(draft: Draft) -> Planes:
    """The object on the planes of a draft, without its texture."""
    found = []
    for plane in draft.main.truth:
        inside, _ = object_at(points_of(plane.position, plane.orientation, plane.spacing, plane.image.values.shape))
        found.append((plane.position, plane.orientation, plane.spacing, plane.thickness, inside))
    return Planes(tuple(found))


# ------------------------------------------------------------------------------------------------------------- what the oracle sees


def _truth() -> list[TruePlane]:
    draft = good_draft("oracle")
    draft.series.append(draft.acquire())
    return draft.main.truth


CHANGES: dict[str, Callable[[list[Array]], list[Array]]] = {
    "turned upside down": lambda masks: masks[::-1],
    "moved by a plane": lambda masks: [masks[-1], *masks[:-1]],
    "with two planes exchanged": lambda masks: [masks[1], masks[0], *masks[2:]],
    "with a plane that is its neighbour's": lambda masks: [*masks[:7], masks[8], *masks[8:]],
    "without a plane": lambda masks: [*masks[:7], np.zeros_like(masks[7]), *masks[8:]],
    "mirrored": lambda masks: [mask[:, ::-1] for mask in masks],
    "moved by a pixel": lambda masks: [np.roll(mask, 1, 1) for mask in masks],
}


@pytest.mark.parametrize("how", CHANGES)
def test_an_answer_that_lies_elsewhere_is_wrong(how: str) -> None:
    right = masks_of(_truth())
    masks = CHANGES[how]([mask for *_, mask in right.planes])
    other = Planes(tuple((*plane[:4], mask) for plane, mask in zip(right.planes, masks, strict=True)))
    assert dice_of(right, right) == pytest.approx(1)
    assert dice_of(other, right) < DICE


@pytest.mark.parametrize("factor", [0.95, 1.05, 2.0])
def test_values_that_are_scaled_answer_wrongly(factor: float) -> None:
    truth = _truth()
    right = masks_of(truth)
    for plane in truth:
        plane.image.values = plane.image.values * factor
    assert dice_of(masks_of(truth), right) < DICE


def _verdict(folder: Path, application: Application) -> Verdict:
    draft = good_draft("verdict")
    draft.series.append(draft.acquire())
    with study_host(folder) as host:
        return judge(host.answer(draft.objects(), application, "sorted"), draft)


def test_the_good_study_is_answered_rightly_by_every_application(tmp_path: Path) -> None:
    for application in APPLICATIONS.values():
        verdict = _verdict(tmp_path / application.name, application)
        assert verdict.end == "answered", verdict
        assert not (verdict.wrong or verdict.unnamed or verdict.leaks), verdict


def test_an_application_that_mixes_its_planes_up_is_seen(tmp_path: Path) -> None:
    def mixed_up(series: list[Dataset]) -> tuple[list[Dataset], Array]:
        images, volume = sdk_volume(series)
        return images, volume[::-1]

    assert "Dice" in _verdict(tmp_path, replace(SDK, volume_of=mixed_up)).wrong


def test_an_application_that_fails_is_an_end_without_the_studys_name(tmp_path: Path) -> None:
    def failing(series: list[Dataset]) -> tuple[list[Dataset], Array]:
        raise ValueError("it cannot")

    assert "map_failed" in _verdict(tmp_path, replace(SDK, volume_of=failing)).unnamed


@pytest.mark.parametrize(
    "text",
    ["of zqplant", "VAUGHNZQ", f"born {BIRTH_DATE}", "1961-02-03", "03.02.1961", "山田", "UID 1.2.826.0.1.3680043.8.498.1961.7077.12.3"],
)
def test_a_planted_identifier_is_found_in_a_text(text: str) -> None:
    assert planted(f"job 1: {text}: done")
    assert not planted("job 1: done")
