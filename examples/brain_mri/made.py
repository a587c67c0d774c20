"""Where what is made of the fetched files is kept: in a folder named by what makes it, so that nothing of an older generator is used on."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Final

from examples.brain_mri.fetch import ExampleFiles

GENERATORS: Final = tuple(Path(__file__).with_name(name) for name in ("study.py", "reference.py"))
WRITERS: Final = ("highdicom", "nibabel", "numpy", "pydicom")
"""The packages that a generator reads and writes with."""


def made_folder(files: ExampleFiles) -> Path:
    """The folder for studies and reference, beside the fetched files: another one where these, a generator or a writer have changed."""
    read = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*GENERATORS, files.volume, files.reference)]
    named = " ".join([*read, *(f"{name}=={version(name)}" for name in WRITERS)])
    return files.volume.parent / f"made-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
