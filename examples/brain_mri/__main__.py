"""Command line of the example, for development outside any container. See README.md beside this file.

``fetch``, ``study``, ``golden`` and ``evaluate`` run in the project's own environment; ``run`` and ``expected`` need the application's
requirements (torch), which belong to an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

APP = Path(__file__).parent / "app"
DEFAULT_CACHE = Path(__file__).parents[2] / ".cache"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.brain_mri", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of fetched files (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch model and head volume")
    study = commands.add_parser("study", help="write the head volume as a zipped MR study")
    study.add_argument("target", type=Path)
    study.add_argument("--seed", help="the same seed gives the same study; without one each study is new")
    golden = commands.add_parser("golden", help="write the golden study and its reference, and print their settings")
    golden.add_argument("target", type=Path, nargs="?", help="folder (default: one beside the fetched files, named by what makes them)")
    run = commands.add_parser("run", help="run the application on a folder of DICOM files")
    run.add_argument("input", type=Path)
    run.add_argument("output", type=Path)
    run.add_argument("--model", type=Path, help="TorchScript file (default: the fetched one)")
    evaluate = commands.add_parser("evaluate", help="compare a DICOM SEG with the reference mask")
    evaluate.add_argument("segmentation", type=Path)
    commands.add_parser("expected", help="run the model on the volume itself, without DICOM, and print its volume")
    chosen = parser.parse_args(arguments)
    return int(globals()[f"_{chosen.command}"](chosen))


def _fetch(chosen: argparse.Namespace) -> int:
    from examples.brain_mri.fetch import fetch

    files = fetch(chosen.cache)
    print(f"MONAI_AWS_MODEL_URI={files.model}\nMONAI_AWS_MODEL_SHA256={files.model_sha256}")
    return 0


def _study(chosen: argparse.Namespace) -> int:
    from examples.brain_mri.fetch import fetch
    from examples.brain_mri.study import write_study_zip

    written = write_study_zip(fetch(chosen.cache).volume, chosen.target, seed=chosen.seed)
    print(f"{written.path}: {written.instances} instances, {written.bytes:,} bytes")
    return 0


def _golden(chosen: argparse.Namespace) -> int:
    from examples.brain_mri.fetch import fetch
    from examples.brain_mri.reference import write_golden

    for name, value in write_golden(fetch(chosen.cache), chosen.target).items():
        print(f"{name}={value}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    """Start the application as a MAP would, with the libraries it links found where pip put them."""
    from examples.brain_mri.fetch import fetch

    model = chosen.model or fetch(chosen.cache).model
    libraries = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "lib"
    if not libraries.is_dir():
        print(
            "libcudart.so.13 is missing (holoscan links it even without a GPU): "
            "install examples/brain_mri/app/requirements.txt in this environment",
            file=sys.stderr,
        )
        return 2
    chosen.output.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "HOLOSCAN_INPUT_PATH": str(chosen.input.resolve()),
        "HOLOSCAN_OUTPUT_PATH": str(chosen.output.resolve()),
        "HOLOSCAN_MODEL_PATH": str(model.resolve()),
        # The loader reads this once, at the start of a process: setting it inside the application would be too late.
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH", "")])),
    }
    return subprocess.run([sys.executable, str(APP)], check=False, env=environment).returncode


def _evaluate(chosen: argparse.Namespace) -> int:
    from examples.brain_mri.evaluate import evaluate
    from examples.brain_mri.fetch import fetch

    found = evaluate(chosen.segmentation, fetch(chosen.cache).reference)
    print(f"Dice {found.dice:.3f}, brain {found.volume_ml:.0f} ml (reference mask {found.reference_ml:.0f} ml)")
    return 0


def _expected(chosen: argparse.Namespace) -> int:
    """The model on the NIfTI volume itself: what expected.json holds, and what a MAP's result is compared with."""
    import nibabel
    import numpy as np

    from examples.brain_mri.fetch import fetch

    sys.path.insert(0, str(APP))
    from segmentation import brain_mask, load_model  # type: ignore[import-not-found]

    files = fetch(chosen.cache)
    image = nibabel.as_closest_canonical(nibabel.load(files.volume))
    mask = brain_mask(*load_model(files.model), image.get_fdata(dtype=np.float32))
    voxel = float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000
    print(json.dumps({"model_sha256": files.model_sha256, "volume_ml": round(float(mask.sum()) * voxel, 1)}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
