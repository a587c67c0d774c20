"""What others wrote is shown as they wrote it."""

from __future__ import annotations

import pytest
from rich.table import Table

from monai_aws_pipeline.terminal import literal_console

TEXTS = [
    "arn:aws:secretsmanager:us-east-1:123456789012:secret:monai-aws/dev/study-key-AbCdEf",
    "a key :lock: in [bold]brackets[/bold]",
    "[/no] opening",
]


@pytest.mark.parametrize("text", TEXTS)
def test_words_between_colons_are_no_pictures_and_brackets_no_styles(text: str, capsys: pytest.CaptureFixture[str]):
    console = literal_console(width=200)
    console.print(text, soft_wrap=True)
    console.print(text, style="bold")
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    assert capsys.readouterr().out.count(text) == 5
