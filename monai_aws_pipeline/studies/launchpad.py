"""Links of the lineage's tables into Dagster's own pages: the next click of whoever reads them.

Here belong addresses within the UI. They are without a host, because a browser opens them where it has the page from; a study's own files
are ``portal``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import yaml

from monai_aws_pipeline.portal.addresses import study_path

LOCATION: Final = "monai_aws_pipeline"
"""Name of the code location in every workspace.yaml of ours; the state of sensors hangs on it too."""


def rerun_link(text: str, which: Mapping[str, Any], *, dry_run: bool = False) -> str:
    """Markdown that opens rerun_studies with its config written: what is left to do is to look at it, and Launch Run."""
    config = {"ops": {"answer_studies_again": {"config": {"which": dict(which), "dry_run": dry_run}}}}
    query = urlencode({"config": yaml.safe_dump(config, sort_keys=False)})
    return f"[{text}](/locations/{LOCATION}/jobs/rerun_studies/playground/setup?{query})"


def study_link(study: str) -> str:
    """Markdown that opens what happened to a study."""
    return f"[{study}]({study_path(study)})"
