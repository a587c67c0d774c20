"""Where an embedded AWS lives when the project's folder is reached through a link."""

from pathlib import Path

from monai_aws_pipeline.local_cloud.config import configure


def test_a_state_folder_behind_a_link_is_known_by_its_real_path(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert configure(tmp_path / "link").state_dir == tmp_path / "real"
    assert configure(tmp_path / "link").identity == configure(tmp_path / "real").identity
