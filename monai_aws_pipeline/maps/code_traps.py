"""What an application's code does that the platform does not give, or that its SDK no longer has.

Here belong the traps that are seen in the code itself: the API of SDK 0.5, images instead of DICOM, a network, several series, rules that
nobody can read, the SDK's own way to a volume, decoders. What it imports is judged in ``imports``; its pins in ``doctor``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Final

from pydicom import uid

from monai_aws_pipeline.maps.app_code import AppCode, Call, decorators
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.manifest import APP_YAML, AppConfig
from monai_aws_pipeline.maps.spec import series_rules, study_contract
from monai_aws_pipeline.maps.spec.study_contract import VOLUME_OPERATOR, Handles

SELECTOR: Final = "DICOMSeriesSelectorOperator"
_CORE: Final = "monai.deploy.core"

# ------------------------------------------------------------------------------------------------------------ SDK 0.5 and before

_OLD_NAMES: Final = {
    f"{_CORE}.input": "spec.input() in the operator's setup()",
    f"{_CORE}.output": "spec.output() in the operator's setup()",
    f"{_CORE}.resource": "'resources' in app.yaml",
    f"{_CORE}.env": "requirements.txt",
}
"""Decorators of SDK 0.5, and what took their place. ``resource`` is today the name of a module, and none can be called."""
_GONE_MODULES: Final = (
    f"{_CORE}.env", f"{_CORE}.resource", f"{_CORE}.application", f"{_CORE}.operator", f"{_CORE}.operator_info",
    f"{_CORE}.execution_context", f"{_CORE}.io_context", "monai.deploy.utils.deco",
)  # fmt: skip
_OLD_METHODS: Final = {"get": "receive", "set": "emit"}
_OPERATOR_BASES: Final = frozenset({"Operator", "InferenceOperator", "MonaiSegInferenceOperator"})


def old_api(code: AppCode) -> list[Finding]:
    """One finding where the application is written for SDK 0.5 or before, whose API is gone; at the first place that shows it."""
    signs = sorted(_old_signs(code))
    if not signs:
        return []
    _, file, line, sign, instead = signs[0]
    others = f" (and {len(signs) - 1} places more)" if len(signs) > 1 else ""
    message = f"the code is written for MONAI Deploy App SDK 0.5 or before, whose API is gone: {sign}{others}"
    remedy = (
        f"Replace {sign} by {instead}; and each of these: decorators by setup(self, spec) with spec.input() and spec.output(), "
        "op_input.get() by op_input.receive(NAME), op_output.set() by op_output.emit(VALUE, NAME), Operator() by Operator(self, …), "
        "App(do_run=True) by App().run(). Or build it with its own SDK elsewhere: a finished image of it is run as it is"
    )
    return [Finding("sdk", message, remedy, file=file, line=line)]


def _old_signs(code: AppCode) -> Iterator[tuple[int, str, int, str, str]]:
    """(how much it tells, file, line, what, what took its place); the smallest first tells most."""
    for name, file, line in decorators(code):
        if name in _OLD_NAMES:
            yield 0, file, line, f"@{name.rpartition('.')[2]}", _OLD_NAMES[name]
    for each in code.imports_of(_CORE, *_GONE_MODULES):
        if any(each.module == gone or each.module.startswith(f"{gone}.") for gone in _GONE_MODULES):
            yield 1, each.file, each.line, f"the module {each.module}", f"what {_CORE} brings today"
        for name in each.names:
            if each.module == _CORE and f"{_CORE}.{name}" in _OLD_NAMES and not each.optional:
                yield 1, each.file, each.line, f"'{name}' of {_CORE}", _OLD_NAMES[f"{_CORE}.{name}"]
    yield from ((2, *found) for found in _old_methods(code))
    for call in code.calls():
        if any(keyword.arg == "do_run" for keyword in call.node.keywords) and code.imports_of("monai.deploy"):
            yield 3, call.file, call.line, "do_run=True", "run()"


def _old_methods(code: AppCode) -> Iterator[tuple[str, int, str, str]]:
    """``op_input.get()`` and ``op_output.set()`` in the ``compute`` of an operator."""
    for file, tree in code.trees.items():
        for kind in ast.walk(tree):
            if not isinstance(kind, ast.ClassDef) or not any(_last(base) in _OPERATOR_BASES for base in kind.bases):
                continue
            for method in kind.body:
                if isinstance(method, ast.FunctionDef) and method.name == "compute":
                    yield from ((file, line, sign, instead) for line, sign, instead in _old_calls(method))


def _old_calls(method: ast.FunctionDef) -> Iterator[tuple[int, str, str]]:
    arguments = [argument.arg for argument in method.args.args[1:3]]  # of compute(self, op_input, op_output, context)
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            place, name = node.func.value.id, node.func.attr
            if place in arguments and name in _OLD_METHODS and (name, arguments.index(place)) in (("get", 0), ("set", 1)):
                yield node.lineno, f"{place}.{name}()", f"{place}.{_OLD_METHODS[name]}()"


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# ------------------------------------------------------------------------------------------------------------------ images, network

_IMAGE_READERS: Final = frozenset(
    {"PIL.Image.open", "cv2.imread", "skimage.io.imread", "skimage.io.imread_collection", "imageio.imread", "imageio.v2.imread"}
    | {"imageio.v3.imread", "matplotlib.pyplot.imread", "matplotlib.image.imread", "torchvision.io.read_image"}
    | {"torchvision.io.decode_image", "torchvision.datasets.ImageFolder", "monai.data.PILReader", "tensorflow.keras.utils.load_img"}
)
_VOLUME_READERS: Final = frozenset({"nibabel.load", "nibabel.nifti1.load", "nibabel.loadsave.load", "nrrd.read"})
"""They read formats of their own, which many applications use on the way from DICOM: they tell something only where nothing reads that."""
_MAY_READ_DICOM: Final = frozenset({"LoadImage", "LoadImaged", "ReadImage"})
_CONVERTERS: Final = re.compile(r"dcm2\w+|dcmdjpeg|gdcmconv|^[*/]*\.dcm$", re.IGNORECASE)
"""Programs that turn DICOM files into others, and patterns that look for DICOM files, as texts in the code."""
_IMAGE_FORMATS: Final = re.compile(r"image/|\b(?:jpe?g|png|bmp|tiff?)\b", re.IGNORECASE)
_READS_DICOM: Final = re.compile(r"dicom|dcm|ImageSeriesReader|GDCM|ITKReader", re.IGNORECASE)
_NOT_READING: Final = re.compile(r"writer|write|save|ModelInfo|EquipmentInfo|_sr_|TextSR", re.IGNORECASE)
GIVEN: Final = "DICOM files of one study in /var/holoscan/input (HOLOSCAN_INPUT_PATH), and nothing else"


def reads_images(code: AppCode, config: AppConfig | None) -> list[Finding]:
    """JPEG, PNG, NIfTI and the like, read as input: the platform gives DICOM. An error where nothing in the code reads DICOM at all."""
    names = {name for name, _, _ in code.names()}
    dicom = any(_READS_DICOM.search(name) and not _NOT_READING.search(name) for name in names)
    dicom = dicom or bool(code.imports_of("dicom2nifti", "monai.deploy.operators.dicom_data_loader_operator"))
    dicom = dicom or any(_CONVERTERS.search(text[:200]) for text, _, _ in code.texts())
    wanted = _IMAGE_READERS if dicom or names & _MAY_READ_DICOM else _IMAGE_READERS | _VOLUME_READERS
    readers = [call for call in code.calls() if call.name in wanted]
    formats = [each for each in (config.input_formats if config else ()) if _IMAGE_FORMATS.search(each)]
    if not readers and not formats:
        return []
    severity = Severity.WARNING if dicom else Severity.ERROR
    first = min(readers, key=lambda call: (call.file, call.line), default=None)
    what = f"{first.name}() reads an image file" if first else f"app.yaml asks for {', '.join(formats)}"
    message = f"{what}, and the platform gives an application {GIVEN}"
    remedy = (
        "If that is the application's input, read the study with pydicom or DICOMDataLoaderOperator instead, and write "
        'input-formats: ["DICOM"] into app.yaml'
    )
    place = (first.file, first.line) if first else (APP_YAML, 0)
    return [Finding("input", message, remedy, severity, *place)]


def needs_arguments(code: AppCode) -> list[Finding]:
    """What the command line has to name, where the container's names nothing. The SDK's own Application reads the environment too."""
    if code.imports_of("monai.deploy"):
        return []
    reached = code.reachable()
    calls = [call for call in code.calls() if call.file in reached]
    parsing = {call.file for call in calls if call.name.endswith(".parse_args") and not (call.node.args or call.node.keywords)}
    parsing -= {call.file for call in calls if call.name.endswith(".add_subparsers")}
    for call in calls:
        if call.file in parsing and call.name.endswith(".add_argument") and (name := _required_argument(call.node)):
            message = f"the command line must name {name}, and the container starts the application without arguments"
            remedy = "Take it from the environment where it is not named: HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH, HOLOSCAN_MODEL_PATH"
            return [Finding("entry-point", message, remedy, file=call.file, line=call.line)]
    return []


def _required_argument(call: ast.Call) -> str:
    """The first name of an argument that argparse does not do without; empty for any other."""
    first = call.args[0] if call.args else None
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return ""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    nargs = keywords.get("nargs")
    positional = not first.value.startswith("-") and None not in keywords
    waived = isinstance(nargs, ast.Constant) and nargs.value in ("?", "*", 0)
    return first.value if (positional and not waived) or _is_true(keywords.get("required")) else ""


_NETWORK_MODULES: Final = (
    "requests", "urllib.request", "urllib3", "httpx", "aiohttp", "http.client", "ftplib", "smtplib", "huggingface_hub", "wget", "gdown",
    "boto3", "botocore", "azure.storage", "google.cloud", "paramiko", "websocket", "websockets", "tritonclient", "grpc", "pynetdicom",
    "pymongo", "psycopg2", "redis", "openai", "kaggle", "minio",
)  # fmt: skip
_NETWORK_CALLS: Final = frozenset(
    {"monai.bundle.download", "monai.bundle.load", "monai.apps.download_url", "monai.apps.download_and_extract"}
    | {"monai.apps.utils.download_url", "monai.apps.utils.download_and_extract", "monai.apps.load_from_mmar", "torch.hub.load"}
    | {"torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file", "nltk.download", "wandb.init", "mlflow.set_tracking_uri"}
)
_NETWORK_METHODS: Final = frozenset({"from_pretrained", "urlretrieve", "urlopen"})
_TRITON: Final = "tritonclient"


def needs_network(code: AppCode, network: str) -> list[Finding]:
    """What asks another machine, where the container has no network. One finding, at the first place, which names the others."""
    if network != "none":
        return []
    signs = [(each.file, each.line, f"imports {each.module}") for each in code.imports_of(*_NETWORK_MODULES) if not each.optional]
    signs += [(call.file, call.line, f"calls {call.name.lstrip('.')}()") for call in code.calls() if _asks_elsewhere(call)]
    if not signs:
        return []
    file, line, sign = min(signs)
    more = sorted({text for _, _, text in signs} - {sign})
    message = f"the code {', '.join([sign, *more[:4]])}, and an application runs without a network (--network none)"
    if any(_TRITON in text for _, _, text in signs):
        remedy = "Let it infer in its own process, with the model in the MAP, or let it reach the server: MONAI_AWS_MAP_NETWORK=host"
    else:
        remedy = "Put what it fetches into the MAP (model, weights, tables), unless a study does without it; or set MONAI_AWS_MAP_NETWORK"
    return [Finding("network", message, remedy, Severity.WARNING, file, line)]


def _asks_elsewhere(call: Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.node.keywords}
    if _is_true(keywords.get("local_files_only")):
        return False
    last = call.name.rpartition(".")[2]
    fetches_weights = call.name.startswith(("torchvision.models.", "timm.")) and _is_true(keywords.get("pretrained"))
    return call.name in _NETWORK_CALLS or last in _NETWORK_METHODS or fetches_weights


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


# --------------------------------------------------------------------------------------------------------------- series and volumes


def series_choice(code: AppCode, config: AppConfig | None) -> list[Finding]:
    """All series asked for and one given; rules that the platform cannot read."""
    findings = []
    asks = [call for call in code.calls() if any(word.arg == "all_matched" and _is_true(word.value) for word in call.node.keywords)]
    if (config is None or config.study.series is None) and asks:
        message = "the selector is asked for every series that its rules take (all_matched=True), and the platform gives the largest only"
        remedy = "Say in app.yaml which is meant: 'largest', or 'all' for an application that goes through all of them"
        paste = "monai-aws:\n  series: largest"
        findings.append(Finding("series", message, remedy, Severity.WARNING, asks[0].file, asks[0].line, paste, APP_YAML))
    used = code.first_use(SELECTOR)
    if used is None or series_rules.label_of(code.folder):
        return findings
    calls = [call for call in code.calls() if call.name.rpartition(".")[2] == SELECTOR]
    if len(list(series_rules.series_rules(code.folder))) > 1:
        why = "there are several sets of selection rules"
    elif calls and not any(word.arg in ("rules", None) for call in calls for word in call.node.keywords):
        why = "the selector is given no rules"
    else:
        why = "the selection rules are put together by code"
    message = f"{why}, so that the platform cannot choose a series by them and refuses a study where the choice is in doubt"
    remedy = "Write the rules as one text (JSON with 'selections') in the code or in a .json file of the application"
    return [*findings, Finding("series", message, remedy, Severity.WARNING, *used)]


_HANDLES: Final = {
    Handles.MONOCHROME1: "inverted grey values (MONOCHROME1)",
    Handles.PIXEL_TYPE: "slices of different pixel types",
    Handles.ENHANCED: "multi-frame objects (enhanced CT, MR, PET)",
    Handles.GANTRY_TILT: "a tilted gantry",
    Handles.FLOAT_PIXELS: "floating-point pixels",
    Handles.COLOR: "colour",
    Handles.NON_SQUARE: "pixels that are not square",
}


def volumes(code: AppCode, config: AppConfig | None) -> list[Finding]:
    """What the SDK's way from a series to a volume reads wrongly, and is therefore not given unless app.yaml says so."""
    used = code.first_use(VOLUME_OPERATOR)
    if used is None:
        return []
    open_ones = [kind for kind in Handles if config is None or kind not in config.study.handles]
    if not open_ones:
        return []
    kinds = "; ".join(f"{kind.value}: {_HANDLES[kind]}" for kind in open_ones)
    message = f"{VOLUME_OPERATOR} builds the volumes, which reads some images wrongly, so that they are refused by name ({kinds})"
    remedy = "Nothing, unless the application reads one of these rightly by itself: then list it under 'handles'"
    paste = f"monai-aws:\n  handles: [{open_ones[0].value}]"
    return [Finding("series", message, remedy, Severity.INFO, *used, paste=paste, into=APP_YAML)]


_COMMON: Final = {
    str(uid.JPEGLosslessSV1): "JPEG Lossless",
    str(uid.JPEGLSLossless): "JPEG-LS",
    str(uid.JPEG2000Lossless): "JPEG 2000",
    str(uid.JPEGBaseline8Bit): "JPEG Baseline",
}


def decoders(packages: Iterable[str] | None) -> list[Finding]:
    """Compressed studies that nothing in the image decodes. ``packages``: names of what is installed, None where that is not known."""
    if packages is None:
        message = "which compressed studies the application decodes is not known, because it has no requirements"
        return [Finding("decoders", message, "List its packages in requirements.txt", Severity.INFO)]
    decoded = study_contract.decoded_syntaxes(packages)
    missing = [name for syntax, name in _COMMON.items() if syntax not in decoded]
    if not missing:
        return []
    message = f"no package decodes {', '.join(missing)}: studies that are compressed so are refused by name"
    remedy = "Write a decoder into requirements.txt where such studies come"
    return [Finding("decoders", message, remedy, Severity.INFO, file="requirements.txt", paste="python-gdcm")]
