"""Which package brings what an application imports, and what is said of an import that nothing brings.

Here belong the map from import names to packages and the judgement. What is installed comes from pip's own answer (``resolution``) or from
gathered wheels; where neither is known, nothing here is more than a warning. Reading the code is ``app_code``'s. Nothing is imported.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from monai_aws_pipeline.maps.app_code import AppCode, Import
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.manifest import APP_YAML
from monai_aws_pipeline.maps.requirements import HOLOSCAN, OTHER_HOLOSCANS, REQUIREMENTS, SDK

POINT: Final = "imports"

_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "monai.deploy": (SDK,),
    "monai": ("monai", "monai-weekly"),
    "holoscan": (HOLOSCAN, *OTHER_HOLOSCANS),
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "sklearn": ("scikit-learn",),
    "skimage": ("scikit-image",),
    "PIL": ("pillow", "pillow-simd"),
    "yaml": ("pyyaml",),
    "ruamel.yaml": ("ruamel-yaml",),
    "SimpleITK": ("simpleitk", "simpleitk-simpleelastix"),
    "itk": ("itk", "itk-core"),
    "stl": ("numpy-stl",),
    "gdcm": ("python-gdcm",),
    "openjpeg": ("pylibjpeg-openjpeg",),
    "libjpeg": ("pylibjpeg-libjpeg",),
    "jpeg_ls": ("pyjpegls",),
    "functorch": ("torch",),
    "torchgen": ("torch",),
    "nvidia.dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110"),
    "nvidia.nvimgcodec": ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12"),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cucim": ("cucim-cu13", "cucim-cu12", "cucim"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "torch_tensorrt": ("torch-tensorrt",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"),
    "keras": ("keras", "tensorflow"),
    "ignite": ("pytorch-ignite",),
    "pytorch_lightning": ("pytorch-lightning",),
    "tritonclient": ("tritonclient",),
    "grpc": ("grpcio",),
    "google.protobuf": ("protobuf",),
    "google.cloud": ("google-cloud-core", "google-cloud-storage"),
    "google.auth": ("google-auth",),
    "pkg_resources": ("setuptools",),
    "setuptools": ("setuptools",),
    "distutils": ("setuptools",),
    "_distutils_hack": ("setuptools",),
    "attr": ("attrs",),
    "attrs": ("attrs",),
    "bs4": ("beautifulsoup4",),
    "dateutil": ("python-dateutil",),
    "dotenv": ("python-dotenv",),
    "docx": ("python-docx",),
    "pptx": ("python-pptx",),
    "magic": ("python-magic",),
    "jose": ("python-jose",),
    "jwt": ("pyjwt",),
    "Crypto": ("pycryptodome", "pycrypto"),
    "Cryptodome": ("pycryptodomex",),
    "OpenSSL": ("pyopenssl",),
    "zmq": ("pyzmq",),
    "serial": ("pyserial",),
    "usb": ("pyusb",),
    "MySQLdb": ("mysqlclient",),
    "psycopg2": ("psycopg2-binary", "psycopg2"),
    "git": ("gitpython",),
    "github": ("pygithub",),
    "fitz": ("pymupdf",),
    "PyPDF2": ("pypdf2",),
    "mpl_toolkits": ("matplotlib",),
    "pylab": ("matplotlib",),
    "IPython": ("ipython",),
    "clara": ("clara-viz",),
    "vtkmodules": ("vtk",),
    "ants": ("antspyx",),
    "radiomics": ("pyradiomics",),
    "openslide": ("openslide-python",),
    "segmentation_models_pytorch": ("segmentation-models-pytorch",),
    "efficientnet_pytorch": ("efficientnet-pytorch",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "umap": ("umap-learn",),
    "hydra": ("hydra-core",),
    "huggingface_hub": ("huggingface-hub",),
    "sentence_transformers": ("sentence-transformers",),
    "pywt": ("pywavelets",),
    "Levenshtein": ("levenshtein",),
    "snappy": ("python-snappy",),
    "nrrd": ("pynrrd",),
    "fhir": ("fhir-resources",),
    "pydicom_seg": ("pydicom-seg",),
    "tensorboardX": ("tensorboardx",),
    "cuda": ("cuda-bindings", "cuda-python", "cuda-core"),
    "typing_extensions": ("typing-extensions",),
    "importlib_metadata": ("importlib-metadata",),
    "importlib_resources": ("importlib-resources",),
    "flask_cors": ("flask-cors",),
    "websocket": ("websocket-client",),
    "pythonjsonlogger": ("python-json-logger",),
    "progressbar": ("progressbar2",),
    "slugify": ("python-slugify",),
    "multipart": ("python-multipart",),
}
"""Packages by import name, the first one the one to write; only where name and package differ, or where several bring it."""

_KNOWN_REQUIREMENTS: Final = frozenset({name for names in _PACKAGES.values() for name in names} | {
    "numpy", "scipy", "torch", "torchvision", "torchaudio", "pandas", "nibabel", "pydicom", "highdicom", "trimesh", "matplotlib", "tqdm",
    "einops", "h5py", "requests", "tensorboard", "transformers", "timm", "typeguard", "colorama", "imageio", "networkx", "numba", "joblib",
    "psutil", "seaborn", "plotly", "pytest", "boto3", "pydantic", "mlflow", "nptyping", "acvl-utils", "dynamic-network-architectures",
    "albumentations", "batchgenerators", "dicom2nifti", "nnunetv2", "totalsegmentator", "pynetdicom", "torchmetrics", "pypdf", "reportlab",
    "holoscan-cli", "cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "packaging", "pylibjpeg", "tifffile", "xmltodict",
})  # fmt: skip
"""Requirements of which is known under which name they are imported."""

_BROUGHT: Final[Mapping[str, tuple[str, ...]]] = {
    SDK: ("numpy", HOLOSCAN, "holoscan-cli", "colorama", "tritonclient", "typeguard"),
    "highdicom": ("pydicom", "numpy", "pillow", "pyjpegls"),
    "monai": ("torch", "numpy"),
    "monai-weekly": ("torch", "numpy"),
    "torch": ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec"),
    "torchvision": ("torch", "numpy", "pillow"),
    "scikit-image": ("numpy", "scipy", "networkx", "pillow", "imageio", "tifffile", "packaging", "lazy-loader"),
    "scikit-learn": ("numpy", "scipy", "joblib", "threadpoolctl"),
    "scipy": ("numpy",),
    "pandas": ("numpy", "python-dateutil"),
    "matplotlib": ("numpy", "pillow", "packaging", "python-dateutil", "cycler", "kiwisolver"),
    "nibabel": ("numpy", "packaging", "typing-extensions"),
    "numpy-stl": ("numpy", "python-utils"),
    "trimesh": ("numpy",),
    "itk": ("numpy",),
    "opencv-python": ("numpy",),
    "opencv-python-headless": ("numpy",),
    "totalsegmentator": ("torch", "numpy", "nibabel", "nnunetv2", "tqdm", "dicom2nifti", "requests", "pyarrow"),
    "nnunetv2": ("torch", "numpy", "scipy", "batchgenerators", "simpleitk", "nibabel", "tqdm", "scikit-image", "scikit-learn", "pandas"),
    "tensorboard": ("numpy", "protobuf", "grpcio", "markdown", "werkzeug"),
    "transformers": ("numpy", "requests", "tqdm", "pyyaml", "huggingface-hub", "tokenizers", "safetensors", "filelock", "regex"),
    "tritonclient": ("numpy",),
}
"""What well-known packages bring along, for where pip gave no answer. Not complete, and not meant to be."""

OPERATORS: Final[Mapping[str, tuple[str, ...]]] = {
    "DICOMDataLoaderOperator": ("pydicom",),
    "DICOMSeriesToVolumeOperator": ("pydicom",),
    "DICOMSegmentationWriterOperator": ("pydicom", "highdicom"),
    "DICOMTextSRWriterOperator": ("pydicom",),
    "DICOMEncapsulatedPDFWriterOperator": ("pydicom", "pypdf"),
    "MonaiBundleInferenceOperator": ("torch", "monai"),
    "MonaiSegInferenceOperator": ("torch", "monai"),
    "MONetBundleInferenceOperator": ("torch", "monai"),
    "NiftiDataLoader": ("SimpleITK",),
    "PNGConverterOperator": ("PIL",),
    "STLConversionOperator": ("nibabel", "SimpleITK", "skimage", "stl", "trimesh"),
    "ClaraVizOperator": ("clara", "IPython", "ipywidgets"),
}
"""What operators of SDK 4.0.0 import when they are used, and the SDK does not require. Source: ``monai/deploy/operators``."""

_GONE: Final[Mapping[tuple[int, int], frozenset[str]]] = {
    (3, 12): frozenset({"asynchat", "asyncore", "distutils", "imp", "smtpd"}),
    (3, 13): frozenset(
        {"aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev"}
        | {"pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"}
    ),
}
"""Modules that left the standard library, by the first Python without them (PEP 594, PEP 632)."""
_NEW: Final[Mapping[str, tuple[int, int]]] = {"tomllib": (3, 11), "annotationlib": (3, 14), "compression": (3, 14)}
_LOADED_FIRST: Final = frozenset(sys.builtin_module_names) | {
    "abc", "codecs", "encodings", "genericpath", "importlib", "io", "os", "posixpath", "runpy", "stat", "types", "warnings", "zipimport",
}  # fmt: skip
"""Modules of Python's own that it has loaded before an application's first line, whatever lies in the application's folder."""
_EVERYBODYS: Final = frozenset(
    {
        "ast", "collections", "contextlib", "copy", "copyreg", "dataclasses", "datetime", "dis", "enum", "functools", "heapq", "inspect",
        "json", "keyword", "linecache", "logging", "opcode", "operator", "pathlib", "pkgutil", "re", "reprlib", "string", "struct",
        "subprocess", "threading", "token", "tokenize", "traceback", "typing", "weakref",
    }
)  # fmt: skip
"""Modules that Python's own and nearly all libraries import: where another stands in for one of them, next to nothing can be imported."""
_SELDOM_USED: Final = frozenset({"antigravity", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "turtledemo", "venv"})
_LINKS_GL: Final = frozenset({"opencv-python", "opencv-contrib-python"})
GL_PACKAGES: Final = ("libgl1", "libglib2.0-0")


@dataclass(frozen=True)
class Installed:
    """What an image will hold. ``packages``: canonical names; ``complete``: pip's own answer, so that there is nothing else.

    ``modules``: names at the top of the gathered wheels, where there are any. ``versions`` by package, where they are known.
    """

    packages: frozenset[str]
    complete: bool = False
    modules: frozenset[str] | None = None
    versions: Mapping[str, str] | None = None

    @classmethod
    def guessed(cls, requirements: Iterable[str]) -> Installed:
        """From the names of the requirements alone, with what well-known ones bring along."""
        found: set[str] = set()
        waiting: list[str] = [canonicalize_name(name) for name in requirements]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += _BROUGHT.get(name, ())
        return cls(frozenset(found))


def modules_in(wheels: Iterable[Path]) -> frozenset[str]:
    """The names that these wheels put at the top of ``site-packages``. What is no wheel is passed over."""
    found: set[str] = set()
    for path in wheels:
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    first, slash, _ = name.partition("/")
                    if not first.endswith((".dist-info", ".data")) and (slash or first.endswith((".py", ".so", ".pth"))):
                        found.add(first if slash else first.partition(".")[0])
        except (OSError, zipfile.BadZipFile):
            continue
    return frozenset(found)


def examine(code: AppCode, installed: Installed, requirements: Iterable[str], python: str) -> list[Finding]:
    """Everything that the code imports and nothing brings.

    Args:
        code: The application's files.
        installed: What the image will hold.
        requirements: Canonical names of what the application itself asks for.
        python: The MAP's, such as ``3.12``.
    """
    reached = code.reachable()
    named = frozenset(requirements)
    by_cause: dict[str, list[Finding]] = {}
    for each in _first_of_each(code.imports, reached):
        if finding := _judged(each, code, installed, named, _number(python)):
            cause = finding.paste or (each.module if code.is_own(each.module) else each.module.partition(".")[0])
            by_cause.setdefault(cause, []).append(finding if each.file in reached else _not_reached(finding))
    findings = [_gravest(each) for each in by_cause.values()]
    findings += [finding if finding.file in reached else _not_reached(finding) for each in code.imports for finding in _lacking(each, code)]
    return [*findings, *_needed_by_operators(code, installed, {each.paste for each in findings})]


def _gravest(findings: list[Finding]) -> Finding:
    """One finding for all imports that the same package would bring: the first of the gravest, with how many there are beside it."""
    first = next((each for each in findings if each.severity is Severity.ERROR), findings[0])
    if len(findings) == 1:
        return first
    return replace(first, message=f"{first.message} (and {len(findings) - 1} more of it)")


def _first_of_each(imports: Iterable[Import], reached: frozenset[str]) -> Iterator[Import]:
    """Each imported module once: where it counts most (not optional, in a file that is run), then where it comes first."""
    best: dict[str, Import] = {}
    for each in imports:
        known = best.get(each.module)
        if known is None or (each.optional, each.file not in reached) < (known.optional, known.file not in reached):
            best[each.module] = each
    yield from sorted(best.values(), key=lambda each: (each.file, each.line, each.module))


def _judged(each: Import, code: AppCode, installed: Installed, named: frozenset[str], python: tuple[int, int]) -> Finding | None:
    if each.impossible:
        return _finding(
            each,
            f"'from {each.module} import …' is relative, and 'python3 FOLDER' starts this file outside any package",
            "Write the module's own name, without the leading dots",
        )
    if code.is_own(each.module):
        return _own(each, code)
    within = next((found for name in each.names if (found := _packages_of(f"{each.module}.{name}"))), ())
    brought = _packages_of(each.module) or within
    if not brought and (own_name := canonicalize_name(each.module.partition(".")[0])) in _KNOWN_REQUIREMENTS:
        brought = (own_name,)
    if _is_standard(each.module, python) or _is_brought(each.module, brought, installed):
        return None
    return _missing(each, brought, installed, python) if brought else _unknown(each, code, installed, named)


def _is_brought(module: str, packages: tuple[str, ...], installed: Installed) -> bool:
    if packages:
        return any(name in installed.packages for name in packages)
    gathered = installed.modules is not None and module.partition(".")[0] in installed.modules
    return gathered or any(_bears(name, module) for name in installed.packages)


def _own(each: Import, code: AppCode) -> Finding | None:
    """A module below one of the application's own packages that is not there."""
    if each.module in code.modules or code.changes_path:
        return None
    near = difflib.get_close_matches(each.module, sorted(code.modules), n=1, cutoff=0.6)
    remedy = f"Write {near[0]}" if near else "Add the file, or correct the name"
    return _finding(each, f"the application has no module {each.module}", remedy)


def _lacking(each: Import, code: AppCode) -> Iterator[Finding]:
    """Names that a module of the application's own is asked for and does not have."""
    for name in code.lacks(each) if code.is_own(each.module) else ():
        message = f"the application's module {each.module} has no {name}"
        yield _finding(each, message, "Correct the name in the import, or add what it names to the module")


def hides_pythons_own(code: AppCode) -> list[Finding]:
    """Files at the top of the application that have the name of a module of Python's own."""
    findings = []
    for file in code.files:
        top = file.removesuffix("/__init__.py").removesuffix(".py")
        if top not in sys.stdlib_module_names or top in _SELDOM_USED:
            continue
        remedy = "Give the file another name, and correct the imports of it"
        if top in _LOADED_FIRST:
            real = importlib.import_module(top)
            uses = [each for each in code.imports if each.module == top and not all(hasattr(real, name) for name in each.names)]
            message = f"Python loads its own module {top} before the application, so that the application's {file} is never imported"
            findings += [Finding(POINT, message, remedy, Severity.ERROR, each.file, each.line) for each in uses[:1]]
        elif top in _EVERYBODYS:
            message = (
                f"{file} has the name of Python's own module {top}, and what Python and libraries import by that name would be this file"
            )
            findings.append(Finding(POINT, message, remedy, Severity.ERROR, file))
        else:
            message = f"{file} hides Python's own module {top} from every library that imports it"
            findings.append(Finding(POINT, message, remedy, Severity.WARNING, file))
    return findings


def _missing(each: Import, brought: tuple[str, ...], installed: Installed, python: tuple[int, int]) -> Finding:
    top = each.module.partition(".")[0]
    since = next((version for version, gone in _GONE.items() if top in gone and python >= version), None)
    if since:
        message = f"{top} is gone from Python {since[0]}.{since[1]} on, and no requirement brings it"
    else:
        message = f"the code imports {_shown(each)}, and no requirement brings {brought[0]}"
    return _finding(each, message, f"Write {brought[0]}==VERSION into {REQUIREMENTS}", complete=installed.complete, paste=brought[0])


def _unknown(each: Import, code: AppCode, installed: Installed, named: frozenset[str]) -> Finding:
    top = each.module.partition(".")[0]
    gone = any(top in names for names in _GONE.values())
    if gone:
        return _finding(each, f"the code imports {top}, which is gone from the standard library", "Replace it", complete=installed.complete)
    near = difflib.get_close_matches(top, sorted(code.top_modules), n=1, cutoff=0.75)
    if near:
        message = f"the application has no module {top}, and no requirement is known to bring it; it has {near[0]}"
        return _finding(each, message, f"Write {near[0]}, or add the package to {REQUIREMENTS}", complete=installed.complete)
    message = f"the code imports {_shown(each)}, and no requirement is known to bring it"
    unaccounted = sorted(name for name in named - _KNOWN_REQUIREMENTS if not any(_bears(name, own.module) for own in code.imports))
    remedy = f"Add the file to the application, or the package to {REQUIREMENTS}"
    if unaccounted:
        # One of these may be imported under a name that nobody here knows; the image's own imports decide before it is pushed.
        remedy += f", unless {' or '.join(unaccounted[:3])} brings it"
    return _finding(each, message, remedy, complete=installed.complete and not unaccounted)


def _finding(each: Import, message: str, remedy: str, *, complete: bool = True, paste: str = "") -> Finding:
    severity = Severity.ERROR if complete and not each.optional else Severity.WARNING
    if each.optional:
        message += " (the code goes on without it)"
    return Finding(POINT, message, remedy, severity, each.file, each.line, paste, REQUIREMENTS if paste else "")


def _not_reached(finding: Finding) -> Finding:
    message = f"{finding.message}; nothing that __main__.py imports leads to this file"
    return replace(finding, message=message, severity=Severity.WARNING)


def _needed_by_operators(code: AppCode, installed: Installed, pasted: set[str]) -> list[Finding]:
    """What operators of the SDK import only when they are made, so that neither an import nor a start shows that it is missing."""
    findings = []
    told: set[str] = set()
    for operator, modules in OPERATORS.items():
        used = code.first_use(operator)
        if used is None or not code.imports_of("monai.deploy"):
            continue
        for module in modules:
            packages = _packages_of(module) or (canonicalize_name(module),)
            if module in told or packages[0] in pasted or any(name in installed.packages for name in packages):
                continue
            told.add(module)
            message = f"{operator} needs {module}, and no requirement brings {packages[0]}"
            severity = Severity.ERROR if installed.complete else Severity.WARNING
            remedy = f"Write {packages[0]}==VERSION into {REQUIREMENTS}"
            findings.append(Finding(POINT, message, remedy, severity, *used, paste=packages[0], into=REQUIREMENTS))
    return findings


def links_gl(code: AppCode, installed: Installed, system_packages: Iterable[str]) -> list[Finding]:
    """The two OpenCV packages that are linked to a screen's libraries, which no base image for servers brings."""
    linked = sorted(_LINKS_GL & installed.packages)
    uses = code.imports_of("cv2")
    if not linked or not uses or GL_PACKAGES[0] in set(system_packages):
        return []
    message = f"{linked[0]} links libGL.so.1, which base images do not bring: 'import cv2' would fail"
    remedy = f"Write {linked[0]}-headless instead, or let app.yaml install {' and '.join(GL_PACKAGES)}"
    paste = f"monai-aws:\n  system-packages: [{', '.join(GL_PACKAGES)}]"
    return [Finding("system-packages", message, remedy, Severity.WARNING, uses[0].file, uses[0].line, paste, APP_YAML)]


def _packages_of(module: str) -> tuple[str, ...]:
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((_PACKAGES[name] for name in names if name in _PACKAGES), ())


def package_for(module: str) -> str:
    """The package to write for a module: the one that is known to bring it, else one of its own name."""
    brought = _packages_of(module)
    return brought[0] if brought else canonicalize_name(module.partition(".")[0])


def _is_standard(module: str, python: tuple[int, int]) -> bool:
    top = module.partition(".")[0]
    if any(top in gone for version, gone in _GONE.items() if python >= version) or python < _NEW.get(top, python):
        return False
    return top in sys.stdlib_module_names or top in _NEW or any(top in gone for gone in _GONE.values())


def _bears(package: str, module: str) -> bool:
    """Whether a package is named as a module is, or as the usual ways make of it."""
    parts = module.split(".")
    for count in range(1, min(len(parts), 3) + 1):
        name = canonicalize_name("-".join(parts[:count]))
        if package in (name, f"python-{name}", f"py{name}", f"{name}-python", f"pytorch-{name}") or package.replace("-", "") == name:
            return True
    return False


def _shown(each: Import) -> str:
    return each.module if len(each.module) <= 80 else f"{each.module[:80]}…"


def _number(python: str) -> tuple[int, int]:
    major, _, minor = python.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else sys.version_info[:2]
