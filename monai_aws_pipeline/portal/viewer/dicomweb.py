"""DICOMweb of one study and one answer, at the portal's own origin: GET on named paths, named parameters, and nothing that writes.

Every UID in a path is looked up in the study's index (``study_view``); a study that is not the path's own does not exist here.
Sources: PS3.18 10.4 (Retrieve), 10.6 (Search), 8.7.3 (multipart media types).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monai_aws_pipeline.portal.responses import language
from monai_aws_pipeline.portal.study_files import NotThereError
from monai_aws_pipeline.portal.viewer.frames import Frame
from monai_aws_pipeline.portal.viewer.study_view import Json, StudyView, ViewError
from monai_aws_pipeline.portal.viewer.views import Views

ROOT: Final = "/dicomweb"
MOST_FRAMES: Final = 8
"""Of one request."""
_OTHER_STUDY: Final = "These addresses have one study, and it is not this one."
_JSON: Final = "application/dicom+json"
_PASSED_OVER: Final = frozenset(("includefield", "fuzzymatching", "accept"))
_KNOWN: Final = {
    "StudyInstanceUID": "study", "0020000D": "study",
    "SeriesInstanceUID": "series", "0020000E": "series",
    "SOPInstanceUID": "instance", "00080018": "instance",
    "PatientID": "patient", "00100020": "patient",
    "Modality": "modality", "00080060": "modality", "ModalitiesInStudy": "modality", "00080061": "modality",
}  # fmt: skip
_TAGS: Final = {"series": "0020000E", "instance": "00080018"}


class DicomWebRoutes:
    """The routes below ``/dicomweb/STUDY/JOB``."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def routes(self) -> list[Route]:
        """All of them."""
        study = f"{ROOT}/{{study}}/{{job}}/studies"
        series, instance = f"{study}/{{uid}}/series", f"{study}/{{uid}}/series/{{series}}/instances"
        named: list[tuple[str, Callable[[Request, StudyView], Response]]] = [
            (study, self.studies),
            (series, self.all_series),
            (f"{study}/{{uid}}/metadata", self.metadata),
            (f"{study}/{{uid}}/instances", self.instances),
            (f"{series}/{{series}}/metadata", self.metadata),
            (instance, self.instances),
            (f"{instance}/{{instance}}", self.instance),
            (f"{instance}/{{instance}}/metadata", self.metadata),
            (f"{instance}/{{instance}}/frames/{{frames}}", self.frames),
        ]
        return [Route(path, self._answer_by(answer), methods=["GET"]) for path, answer in named]

    def _answer_by(self, answer: Callable[[Request, StudyView], Response]) -> Callable[[Request], Response]:
        def answered(request: Request) -> Response:
            try:
                _check_path(request)
                study, job = request.path_params["study"], request.path_params["job"]
                with self._views.opened(study, job) as found:
                    return answer(request, _own(request, found.view))
            except (ViewError, NotThereError) as error:
                return refused(request, error)

        return answered

    # ---------------------------------------------------------------------------------------------------------------------- search

    def studies(self, request: Request, view: StudyView) -> Response:
        """QIDO: the one study."""
        asked = _asked(request, view)
        found = [view.study_json()] if not asked.keys() & {"series", "instance"} else []
        if wanted := asked.get("modality"):
            found = [each for each in found if wanted in each["00080061"]["Value"]]
        return _search(request, found)

    def all_series(self, request: Request, view: StudyView) -> Response:
        """QIDO: its series."""
        asked = _asked(request, view)
        return _search(request, [each for each in view.series_json().values() if _fits(each, asked)])

    def instances(self, request: Request, view: StudyView) -> Response:
        """QIDO: its objects, or those of a series."""
        asked = _asked(request, view)
        found = view.instances_json(request.path_params.get("series", ""))
        return _search(request, [each for each in found if _fits(each, asked)])

    # -------------------------------------------------------------------------------------------------------------------- retrieve

    def metadata(self, request: Request, view: StudyView) -> Response:
        """WADO: whole headers, without what identifies."""
        _asked(request, view)
        series, instance = request.path_params.get("series", ""), request.path_params.get("instance", "")
        found = [view.instance_json(series, instance)] if instance else view.instances_json(series)
        return JSONResponse(found, media_type=_JSON)

    def instance(self, request: Request, view: StudyView) -> Response:
        """WADO: one object as a file, without what identifies."""
        _asked(request, view)
        body = view.part10(request.path_params["series"], request.path_params["instance"])
        if "multipart/related" in request.headers.get("accept", "multipart/related"):
            return _multipart("application/dicom", [(body, "")])
        return Response(body, media_type="application/dicom")

    def frames(self, request: Request, view: StudyView) -> Response:
        """WADO: frames as they are stored."""
        _asked(request, view)
        listed = request.path_params["frames"].split(",")
        if len(listed) > MOST_FRAMES or not all(each.isascii() and each.isdigit() and len(each) < 10 for each in listed):
            raise ViewError(f"Frames are asked for by their numbers, at most {MOST_FRAMES} at once.", status=400)
        found: list[Frame] = view.frames(request.path_params["series"], request.path_params["instance"], [int(each) for each in listed])
        return _multipart("application/octet-stream", [(each.data, each.syntax) for each in found])


def refused(request: Request, error: ViewError | NotThereError) -> Response:
    """The answer to an error, in the browser's language where it is one that a person's study may have and not a script's."""
    return JSONResponse({"error": error.said_in(language(request))}, error.status if isinstance(error, ViewError) else 404)


def _own(request: Request, view: StudyView) -> StudyView:
    """The study, where the address is about it. Raises ViewError."""
    if request.path_params.get("uid", view.uid) != view.uid:
        raise ViewError(_OTHER_STUDY)
    return view


def _check_path(request: Request) -> None:
    """Refuse an address that is written in another way than ours are: UIDs, hex digits and words need no escape."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    if raw.partition(b"?")[0] != request.scope["path"].encode() or any(sign in raw for sign in (b"%", b"\\", b";", b"//", b"..")):
        raise ViewError("There is no such address.")


def _asked(request: Request, view: StudyView) -> dict[str, str]:
    """The conditions of a search by what they mean. Raises ViewError for a parameter that is none, and for another study."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in ("limit", "offset"):
            if not (value.isascii() and value.isdigit() and len(value) < 8):
                raise ViewError(f"{name} is no number.", status=400)
        elif name not in _PASSED_OVER:
            meaning = _KNOWN.get(name)
            if meaning is None:
                raise ViewError("A parameter of this search is not known here.", status=400)
            if found.setdefault(meaning, value) != value:
                raise ViewError("A parameter of this search is given twice.", status=400)
    if found.pop("study", view.uid) != view.uid or found.pop("patient", view.study) != view.study:
        raise ViewError(_OTHER_STUDY)
    return {meaning: value for meaning, value in found.items() if value}


def _fits(item: Json, asked: dict[str, str]) -> bool:
    return all(value in item.get(_TAGS.get(meaning, "00080060"), {}).get("Value", []) for meaning, value in asked.items())


def _search(request: Request, found: Sequence[Json]) -> Response:
    offset, limit = int(request.query_params.get("offset", 0)), int(request.query_params.get("limit", len(found)))
    return JSONResponse(list(found)[offset : offset + limit], media_type=_JSON)


def _multipart(kind: str, parts: Sequence[tuple[bytes, str]]) -> Response:
    boundary, body = secrets.token_hex(16), b""
    for data, syntax in parts:
        said = f"; transfer-syntax={syntax}" if syntax else ""
        body += f"--{boundary}\r\nContent-Type: {kind}{said}\r\n\r\n".encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return Response(body, media_type=f'multipart/related; type="{kind}"; boundary={boundary}')
