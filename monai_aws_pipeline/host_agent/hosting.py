"""How the MAP is kept for studies: a container of its own for each study, behind one protocol.

Here belongs who starts and ends containers of the MAP. The job knows only ``Hosting``: it hands over a study's folders and gets the end of
the run, whichever way it was hosted.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from monai_aws_pipeline.host_agent.engine import Engine, RunEnd
from monai_aws_pipeline.host_agent.live_map import ReadyMap
from monai_aws_pipeline.maps.hosting import Limits, effective_timeout, run_arguments


class Hosting(Protocol):
    """Runs the MAP on one study at a time."""

    def run(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event) -> RunEnd:
        """Run the MAP on the files in ``source``; what it writes lies in ``target`` (empty before) afterwards.

        ``name`` is unique among the containers of this host. Raises FailedError(ENGINE_FAILED) when the MAP could not be started and
        InterruptedJobError on ``stop``; how the application itself ended is in the RunEnd.
        """

    def close(self) -> None:
        """Remove what is kept between studies. May be called more than once."""


class PerStudy:
    """A fresh container for each study, removed after it. Nothing is kept."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def run(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event) -> RunEnd:
        """Start, wait, measure, remove."""
        arguments = run_arguments(ready.image, ready.spec, source, target, limits, name=name)
        timeout = effective_timeout(ready.spec, limits)
        return self._engine.run(arguments, name=name, timeout_s=timeout, stop=stop, gpu=bool(limits.gpus))

    def close(self) -> None:
        """Nothing to do."""
