"""What a MAP asks of a study, by the labels of its image: a series that its rules select, a regular volume. Judged before it runs.

A MAP without these labels, or with rules that cannot be decided, is run: its own word counts then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pydicom

from monai_aws_pipeline.host_agent.dicom import Instance, Study
from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.geometry import require_volumes
from monai_aws_pipeline.maps.series_rules import LABEL_RULES, Rules, matches, rules_in
from monai_aws_pipeline.maps.study_contract import contract_of

log = logging.getLogger(__name__)

_UNDECIDED: Final = "the MAP's series rules cannot be decided for this study (%s); the MAP decides"


@dataclass(frozen=True)
class Demands:
    """Selection rules of the SDK, none where they are not known; whether a series must be a volume."""

    rules: Rules
    volume: bool

    def check(self, study: Study) -> None:
        """Raises RefusedError for a study that the MAP could not answer. ``study``: its instances where they lie now."""
        chosen = self._chosen(study.instances) if self.rules else study.instances
        if not chosen:
            raise RefusedError(
                Code.NO_MATCHING_SERIES, f"None of the {study.series} series of the study is one that the application's rules select."
            )
        if self.volume:
            require_volumes([Study(study.uid, tuple(chosen))])

    def _chosen(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Instances of the series that the rules select; all where that cannot be decided."""
        chosen: set[str] = set()
        try:
            for series, item in {item.series_uid: item for item in reversed(instances)}.items():
                header = pydicom.dcmread(item.path, stop_before_pixels=True)
                if any(matches(conditions, header) for _, conditions in self.rules):
                    chosen.add(series)
        except Exception as wrong:  # rules and header are both somebody else's; its text may quote a value
            log.info(_UNDECIDED, wrong.__class__.__name__)
            return instances
        return [item for item in instances if item.series_uid in chosen]


NO_DEMANDS: Final = Demands([], volume=False)


def demands_of(labels: Mapping[str, str]) -> Demands:
    """What the labels of an image say."""
    return Demands(rules_in(labels.get(LABEL_RULES, "")), contract_of(labels).volume)
