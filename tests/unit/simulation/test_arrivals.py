"""When studies come: exactly as many as the day has, by its clock, and the same for the same seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.simulation.arrivals import DAY_S, WEEKEND, WORKING_DAY, Load, uploads


@given(
    load=st.builds(
        Load,
        st.integers(1, 3000),
        st.booleans(),
        st.floats(1, 30),
        st.integers(1, 7),
        st.floats(0, 2),
    ),
    seed=st.integers(0, 100),
)
def test_a_day_has_its_studies_in_order_and_within_it(load: Load, seed: int):
    found = uploads(load, seed)
    assert sum(each.studies for each in found) == load.studies
    assert [each.at for each in found] == sorted(each.at for each in found)
    assert all(0 <= each.at <= DAY_S and 1 <= each.studies <= load.studies_an_upload and each.size > 0 for each in found)
    assert found == uploads(load, seed)


@pytest.mark.parametrize("curve", [WORKING_DAY, WEEKEND])
def test_a_curve_is_a_whole_day(curve: tuple[float, ...]):
    assert len(curve) == 24
    assert sum(curve) == pytest.approx(100)


def test_the_design_load_has_its_peak():
    assert Load(1500).peak_per_hour == pytest.approx(300)


def test_studies_follow_the_clock():
    by_hour = [0] * 24
    for each in uploads(Load(100_000), 1):
        by_hour[min(int(each.at / 3600), 23)] += 1
    assert by_hour == pytest.approx([share * 1000 for share in WORKING_DAY], rel=0.15)


def test_a_weekend_has_about_a_third():
    assert Load(1500, weekend=True).studies == 525


def test_bursts_come_together_and_unequal_studies_take_as_long_on_average():
    spread = uploads(Load(20_000, burst=20, spread=0.5), 1)
    gaps = [later.at - earlier.at for earlier, later in pairwise(spread)]
    alone = uploads(Load(20_000), 1)
    even = [later.at - earlier.at for earlier, later in pairwise(alone)]
    assert max(gaps) > 5 * max(even) / 2
    assert sorted(gaps)[len(gaps) // 2] < sorted(even)[len(even) // 2]
    assert sum(each.size for each in spread) / len(spread) == pytest.approx(1, rel=0.05)
