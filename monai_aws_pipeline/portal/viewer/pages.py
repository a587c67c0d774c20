"""The viewers' pages, their own files, and what the 3D page draws; each answer says for itself what its page may do (CSP).

Here belong routes and headers. What a study has is in ``views``, where the files come from in ``packages``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from monai_aws_pipeline.portal.pages import message_page, viewer_page, volume_page
from monai_aws_pipeline.portal.responses import language, page
from monai_aws_pipeline.portal.study_files import NotThereError, StudyFiles
from monai_aws_pipeline.portal.texts import texts_in
from monai_aws_pipeline.portal.viewer.packages import ADDRESS, NIIVUE, OHIF, NotYetError, PackageFiles, Packages
from monai_aws_pipeline.portal.viewer.study_view import ViewError
from monai_aws_pipeline.portal.viewer.surface import surface_in_ras
from monai_aws_pipeline.portal.viewer.views import OpenStudy, Views
from monai_aws_pipeline.portal.viewer.volume import mask_of, nifti, segmentations_of, volume_of

VIEWER_CSP: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; font-src 'self'; "
    # Its decoders are WebAssembly. The arrays (ndarray) in which it keeps a segmentation make their constructors of texts in its bundle.
    "script-src 'self' 'wasm-unsafe-eval' 'unsafe-eval'; "
    "worker-src 'self'; "
    "style-src 'self' 'unsafe-inline'; "  # its components write style attributes, and style elements
    "img-src 'self' data:"  # icons, and thumbnails that it draws itself
)
VOLUME_CSP: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data:"  # its font is an image in its code
)
HANGING: Final = "@ohif/seg"
"""OHIF's hanging protocol that begins with a segmentation on its images."""
_FOR_EVER: Final = "private, max-age=31536000, immutable"
_SHORTLY: Final = "private, max-age=600"

_T = TypeVar("_T")


class ViewerPages:
    """The routes below ``/viewer``, ``/3d`` and ``/viewer-files``."""

    def __init__(self, files: StudyFiles, views: Views, packages: Packages) -> None:
        self._files, self._views, self._packages = files, views, packages

    def routes(self) -> list[Route]:
        """All of them."""
        three_d = "/3d/{study}/{job}"
        named: list[tuple[str, Callable[[Request], Response]]] = [
            ("/viewer/{study}/", self.latest),
            ("/viewer/{study}/{job}/", self.begin),
            ("/viewer/{study}/{job}/viewer", self.viewer),
            ("/3d/{study}/", self.latest),
            (f"{three_d}/", self.three_d),
            (f"{three_d}/parts.json", self.parts),
            (f"{three_d}/volume.nii.gz", self.volume),
            (f"{three_d}/mask-{{number:int}}.nii.gz", self.mask),
            (f"{three_d}/surface-{{number:int}}.stl", self.surface),
        ]
        return [
            *(Route(path, _said(answer), methods=["GET"]) for path, answer in named),
            Route(f"{ADDRESS}/{{package}}/{{name:path}}", _said(self.file), methods=["GET"]),
        ]

    # ---------------------------------------------------------------------------------------------------------------------- viewer

    def latest(self, request: Request) -> Response:
        """The newest answer to a study."""
        study = request.path_params["study"]
        record = self._files.store.latest_answer(study) if re.fullmatch(r"[0-9a-f]{16}", study) else None
        if record is None:
            raise NotThereError("no_answers")
        return RedirectResponse(f"{request.url.path}{record.job}/", status_code=302)

    def begin(self, request: Request) -> Response:
        """To the viewer, at this study, with its segmentation laid over where it has one."""
        study, job = _named(request)
        with self._views.opened(study, job) as found:
            view = found.view
            query = {"StudyInstanceUIDs": view.uid, **({"hangingprotocolid": HANGING} if view.has_segmentation else {})}
        return RedirectResponse(f"/viewer/{study}/{job}/viewer?{urlencode(query, safe='@/')}", status_code=302)

    def viewer(self, request: Request) -> Response:
        """OHIF itself."""
        study, job = _named(request)
        self._files.record(study, job)
        bundle = self._package(OHIF.address).first("app.bundle.", ".js")
        return HTMLResponse(viewer_page(study, OHIF.address, bundle), headers={"Content-Security-Policy": VIEWER_CSP})

    def file(self, request: Request) -> Response:
        """One file of a package, which its version names."""
        takes_gzip = "gzip" in request.headers.get("accept-encoding", "")
        package = self._package(f"{ADDRESS}/{request.path_params['package']}/")
        found = package.find(request.path_params["name"], shrunk=takes_gzip)
        if found is None:
            raise NotThereError("The viewer has no such file.")
        path, kind, is_shrunk = found
        headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding", **({"Content-Encoding": "gzip"} if is_shrunk else {})}
        # A worker has the policy that its own file is sent with.
        return FileResponse(path, media_type=kind, headers={**headers, "Content-Security-Policy": VIEWER_CSP})

    def _package(self, address: str) -> PackageFiles:
        return self._packages.files(address)

    # -------------------------------------------------------------------------------------------------------------------------- 3D

    def three_d(self, request: Request) -> Response:
        """The page."""
        study, job = _named(request)
        self._files.record(study, job)
        self._package(NIIVUE.address)
        return HTMLResponse(
            volume_page(study, job, f"{NIIVUE.address}index.js", language(request)), headers={"Content-Security-Policy": VOLUME_CSP}
        )

    def parts(self, request: Request) -> Response:
        """What the page draws, by addresses below it."""
        with self._views.opened(*_named(request)) as found:
            masks, meshes = segmentations_of(found.stored), found.stored.meshes
            return JSONResponse(
                {
                    "volume": "volume.nii.gz",
                    "masks": [f"mask-{number}.nii.gz" for number in range(len(masks))],
                    "meshes": [f"surface-{number}.stl" for number in range(len(meshes))],
                }
            )

    def volume(self, request: Request) -> Response:
        """The images."""
        return self._made(request, "volume.nii.gz", _volume)

    def mask(self, request: Request) -> Response:
        """One segmentation."""
        number: int = request.path_params["number"]
        return self._made(request, f"mask-{number}.nii.gz", lambda found: nifti(mask_of(_numbered(segmentations_of(found.stored), number))))

    def surface(self, request: Request) -> Response:
        """One surface."""
        number: int = request.path_params["number"]
        return self._made(request, f"surface-{number}.stl", lambda found: _surface(found, number))

    def _made(self, request: Request, name: str, make: Callable[[OpenStudy], bytes]) -> Response:
        """A file that is made once and lies in the study's own folder from then on."""
        with self._views.opened(*_named(request)) as found:
            body = found.made(name, make)
        return Response(body, media_type="application/octet-stream", headers={"Cache-Control": _SHORTLY})


def _volume(found: OpenStudy) -> bytes:
    segmentations = segmentations_of(found.stored)
    return nifti(volume_of(found.stored, segmentations[0] if segmentations else None))


def _surface(found: OpenStudy, number: int) -> bytes:
    segmentations = segmentations_of(found.stored)
    return surface_in_ras(_numbered(list(found.stored.meshes.values()), number), mask_of(segmentations[0]) if segmentations else None)


def _numbered(things: Sequence[_T], number: int) -> _T:
    if number >= len(things):
        raise ViewError("volume_no_part")
    return things[number]


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["study"], request.path_params["job"]


def _why_page(error: ViewError, wanted: str) -> str:
    return message_page(texts_in(wanted)["view_title"], error.said_in(wanted), wanted)


def _said(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """An answer, or why there is none: as a page where a person reads it, as JSON where a script does."""

    def answered(request: Request) -> Response:
        try:
            return answer(request)
        except ViewError as error:
            if request.url.path.endswith("/") or request.url.path.endswith("/viewer"):
                again = {"Refresh": "3"} if isinstance(error, NotYetError) else {}
                return page(request, partial(_why_page, error), error.status, again)
            return JSONResponse({"error": error.said_in(language(request))}, error.status)

    return answered
