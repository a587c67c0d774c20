"""A hundred changed studies with a fixed seed: each is answered rightly or refused by a name, and no planted identifier is anywhere.

``make fuzz-studies`` runs two thousand with a new seed.
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.studies import report, run

SEED = 20261128


def test_a_hundred_changed_studies_have_a_right_answer_or_a_named_refusal(tmp_path: Path) -> None:
    summary = run(SEED, 100, tmp_path, processes=1)
    assert (summary.studies, summary.findings) == (100, []), report(summary)
    assert summary.axes > 80
    assert summary.answered > 25
    assert summary.refused.total() > 25
