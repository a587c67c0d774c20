"""The portal as ``monai-aws portal`` serves it, with a host that is played: each look finds every followed job in another phase.

AWS is asked as always, so that a look costs what it costs; only what the host says of its work is put in, because no machine runs here.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest.mock import patch

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.operations.status import HostWork, JobAtWork, MachineState
from monai_aws_pipeline.operations.whereabouts import Surroundings, look
from monai_aws_pipeline.portal import server
from monai_aws_pipeline.settings import Settings, load_settings
from tests.unit.studies.records import job_of

FOLLOWED = 50
PLAYED = ("-m", "tests.support.played_portal")
"""The program."""
PHASES = itertools.cycle(("fetching", "pulling", "publishing"))
"""Each another state to a browser."""


def played(clients: Clients, settings: Settings, *, and_group: bool) -> Surroundings:
    """What AWS says, and one host that has all jobs in hand."""
    phase = next(PHASES)
    jobs = tuple(JobAtWork(job_of(number), phase, 1.0, 1.0) for number in range(FOLLOWED))
    host = MachineState("i-0123456789abcdef0", "inference", "running", "g4dn.xlarge", work=HostWork("running", jobs))
    return replace(look(clients, settings, and_group=and_group), hosts=(host,))


if __name__ == "__main__":
    with patch.object(server, "look", played):
        server.serve(load_settings(), lambda _: None, lambda study, failed: "")
