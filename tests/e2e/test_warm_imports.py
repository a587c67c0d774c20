"""An application whose imports start threads is hosted warm on a real host: pandas with pyarrow, one of whose threads outlives a fork."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_aws_pipeline.contract import ROLE_INFERENCE, Status
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.platform import Platform, platform
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud, pytest.mark.long]

PACKAGES = "pandas==3.1.1\npyarrow==26.0.1\n"


def with_pandas(folder: Path) -> Path:
    """The tiny application, which also logs a table by pandas."""
    shutil.copytree(PROJECT_ROOT / "tests" / "apps" / "tiny", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "requirements.txt").open("a") as requirements:
        requirements.write(PACKAGES)
    main = folder / "__main__.py"
    text = main.read_text()
    table = "pandas.DataFrame({'slices': pyarrow.array([len(slices)]).to_pandas()})"
    for line, more in (
        ("import numpy as np\n", "import pandas\nimport pyarrow\n"),
        ("    slices = read_series(source)\n", f"    print({table}.to_csv())\n"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, line + more)
    main.write_text(text)
    return folder


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    app = with_pandas(tmp_path_factory.mktemp("application") / "app")
    settings = {"MONAI_AWS_APP_SOURCE": str(app), "MONAI_AWS_IDLE_STOP_MINUTES": "0.5"}  # its verdict is read when all is answered
    with platform(local_cloud, "warm", tmp_path_factory.mktemp("warm"), **settings) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def test_pandas_with_pyarrow_is_hosted_warm_with_equal_outputs(place: Platform) -> None:
    jobs = [place.upload(f"input/{number}.zip", tiny_study_zip(wish="tiny")) for number in range(4)]
    records = [found[0] for found in place.answers(jobs, 300).values()]
    assert [record.status for record in records] == [Status.SUCCEEDED] * 4
    (host,) = place.machines(ROLE_INFERENCE)
    said = place.on_host(host.id, "cat /var/lib/monai-aws/hosting/*.json")
    verdict = json.loads(said)
    assert verdict["digest"] == records[0].map.digest
    assert verdict["hosting"] == "warm", verdict["reason"]
    assert "the same outputs both ways" in verdict["reason"]
    assert "pandas is imported by each study itself" in verdict["reason"], "it names the import, its seconds and why"
    assert sorted({record.resources.hosting for record in records}) == ["per_study", "warm"], "the first is the proof"
    place.wait_stopped()
