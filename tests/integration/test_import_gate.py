"""The import gate on a real build machine, where the MAP is put together in the registry and lies on no machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import Failure

from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.platform import TINY_APP, Platform, platform

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("imports")
    shutil.copytree(TINY_APP, folder / "app")
    with platform(local_cloud, "imports", folder, MONAI_AWS_APP_SOURCE=str(folder / "app")) as made:
        assert made.materialize("gpu_ami").success
        yield made


def pushed(place: Platform) -> list[str]:
    """Tags of MAPs in the repository."""
    found = place.clients.ecr.describe_images(repositoryName=place.settings.ecr_repository)["imageDetails"]
    return sorted(tag for image in found for tag in image.get("imageTags", []) if tag.startswith("0.1.0-"))


def test_an_image_that_cannot_make_an_import_is_not_pushed_and_a_change_without_a_new_one_moves_no_image(place: Platform):
    entry = Path(place.settings.app_source) / "__main__.py"
    sound = entry.read_text()
    unseen = "import numpy as np\nimport numpy.nothing_of_that_name\n"  # by a doctor who knows packages and not what is in them
    entry.write_text(sound.replace("import numpy as np\n", unseen))
    with pytest.raises(Failure, match=r"numpy\.nothing_of_that_name \(__main__\.py:\d+\): ModuleNotFoundError"):
        place.materialize("map_image")
    assert pushed(place) == []

    entry.write_text(sound)
    first = place.materialize("map_image").asset_materializations_for_node("map_image")[0].metadata
    assert str(first["imports"].value).startswith("passed (")
    assert first["stages_reused"].value == "dependencies", "those of the run that failed"

    entry.write_text(f"{sound}\n# changed\n")
    second = place.materialize("map_image").asset_materializations_for_node("map_image")[0].metadata
    assert str(second["imports"].value).startswith("passed before (")
    assert len(pushed(place)) == 2
