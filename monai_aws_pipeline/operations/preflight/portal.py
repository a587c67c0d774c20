"""Whether the bucket takes uploads from the portal's pages: asked as a browser asks, which needs no permission and sends nothing.

Source: Amazon S3 User Guide, "Using cross-origin resource sharing"; Fetch Standard, "CORS-preflight fetch".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import INPUT_PREFIX
from monai_aws_pipeline.operations.bootstrap import cors_command
from monai_aws_pipeline.operations.preflight.answers import Judgement, Probe, State
from monai_aws_pipeline.operations.preflight.sources import Reply, ask_registry

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings


def portal_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Where studies are dropped."""
    return [Probe("portal uploads", "the bucket whether the portal's pages may send to it", lambda: _uploads(clients, settings))]


def _uploads(clients: Clients, settings: Settings) -> Judgement:
    if not settings.links_url or not settings.bucket:
        return Judgement(f"{'MONAI_AWS_LINKS_URL' if settings.bucket else 'MONAI_AWS_BUCKET'} is empty", State.SKIPPED)
    address = clients.s3_unsigned.generate_presigned_url("put_object", Params={"Bucket": settings.bucket, "Key": f"{INPUT_PREFIX}x"})
    origin = origin_of(settings.links_url)
    try:
        reply = ask_registry("OPTIONS", address, {"Origin": origin, "Access-Control-Request-Method": "PUT"})
    except OSError as error:
        return Judgement(
            f"the bucket gave no answer ({type(error).__name__})",
            State.WARNING,
            f"Check that browsers reach {urlsplit(address).netloc}: they send studies there themselves.",
        )
    return judge_uploads(settings.bucket, origin, reply)


def origin_of(address: str) -> str:
    """Scheme, host and port of an address, as a browser names the page that asks."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def judge_uploads(bucket: str, origin: str, reply: Reply) -> Judgement:
    """What S3's answer to a browser's question means. ``reply``: with the names of headers in small letters."""
    if reply.status == 200 and reply.headers.get("access-control-allow-origin") in (origin, "*"):
        return Judgement(f"{bucket} takes uploads from {origin}")
    if reply.status in (200, 403):
        return Judgement(
            f"{bucket} takes no uploads from {origin}: a study that is dropped in the portal does not get there",
            State.WARNING,
            f"Let an administrator run: monai-aws bootstrap --portal-origin {origin}\n"
            f"or, where the bucket is not the stack's: {cors_command(bucket, origin)}",
        )
    return Judgement(f"{bucket} answered {reply.status} to a browser's question", State.WARNING, "Check MONAI_AWS_BUCKET and its region.")
