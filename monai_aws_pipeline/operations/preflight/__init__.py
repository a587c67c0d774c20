"""The preflight: whether account, permissions and settings allow a deployment, asked before the first run. It changes nothing.

A field test that costs nothing. Each module here asks about one subject; what an answer means is a pure function beside the asking.
All questions are asked at once, whatever the answers, so that one look shows everything that is missing. Only when AWS does not know the
caller are the others left out: they would all say the same. The application itself is examined by ``maps.doctor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_aws_pipeline.archive.connection import HEALTHIMAGING
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.waiting import silently
from monai_aws_pipeline.operations.preflight.account import account_probes
from monai_aws_pipeline.operations.preflight.answers import Answer, State, in_order
from monai_aws_pipeline.operations.preflight.archive import archive_probes
from monai_aws_pipeline.operations.preflight.asking import SECONDS, ask_all
from monai_aws_pipeline.operations.preflight.caller import identity_probes, machine_probes
from monai_aws_pipeline.operations.preflight.machines import machine_type_probes
from monai_aws_pipeline.operations.preflight.money import money_probes
from monai_aws_pipeline.operations.preflight.portal import portal_probes
from monai_aws_pipeline.operations.preflight.rehearsals import rehearsal_probes
from monai_aws_pipeline.operations.preflight.sources import source_probes

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

__all__ = ["Answer", "State", "in_order", "preflight"]
CALLER_SECONDS = 5.0
"""For the questions about the caller, before all others."""


def preflight(clients: Clients, settings: Settings, report: Report = silently, seconds: float = SECONDS) -> list[Answer]:
    """Ask everything. ``report`` is told what is still open where that takes longer. Raises nothing that is the account's fault."""
    clients.make_all(imaging=settings.archive == HEALTHIMAGING)
    first = ask_all([*machine_probes(clients, settings), *identity_probes(clients, settings)], report, min(CALLER_SECONDS, seconds))
    if any(each.check == "identity" and each.state is State.ERROR for each in first):
        return first
    probes = [
        *account_probes(clients, settings),
        *machine_type_probes(clients, settings),
        *rehearsal_probes(clients, settings),
        *source_probes(clients, settings),
        *archive_probes(clients, settings),
        *money_probes(clients, settings),
        *portal_probes(clients, settings),
    ]
    return [*first, *ask_all(probes, report, seconds)]
