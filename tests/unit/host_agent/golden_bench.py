"""A MAP that is ready for its golden study."""

from __future__ import annotations

from monai_aws_pipeline.contract import MapFacts
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.maps.spec.run import RunSpec

READY = ReadyMap("map", RunSpec(("true",), "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan"), MapFacts(), 1, 0.0)
