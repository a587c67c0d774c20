"""The application as a process, until it is told to end: on loopback, or where a load balancer says who asks.

Nothing is logged of what is asked for. Whoever reaches the portal reads and sends studies with the credentials of whoever started it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette

from monai_aws_pipeline.archive.connection import HEALTHIMAGING
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.whereabouts import look
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import OWN_HOSTS, AskAgain, Portal, build_app
from monai_aws_pipeline.portal.identity import LoadBalancer, SigningKeys
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from monai_aws_pipeline.portal.viewer.setup import viewer_of
from monai_aws_pipeline.settings import Settings

PORT: Final = 3070
"""Where the setting names a host that stands in front of this one."""
MOST_AT_ONCE: Final = 256
"""Those who follow a job stay connected."""


class PortalError(NamedError):
    """The pages cannot be served."""


def port_of(address: str) -> int:
    """The loopback port behind the setting's address."""
    parts = urlsplit(address)
    return parts.port or PORT if parts.hostname in OWN_HOSTS else PORT


def balancer_of(settings: Settings) -> LoadBalancer | None:
    """Who says which user asks; None where nobody does. Raises PortalError where strangers could reach the portal unasked."""
    arn = settings.portal_load_balancer
    if not arn:
        if not ip_address(settings.portal_listen).is_loopback:
            raise PortalError(
                f"MONAI_AWS_PORTAL_LISTEN is {settings.portal_listen}, where others reach the portal, and nothing says who they are.",
                "Listen on 127.0.0.1, or put an Application Load Balancer with a login before it and name it in "
                "MONAI_AWS_PORTAL_LOAD_BALANCER (docs/portal.md).",
            )
        return None
    region = arn.split(":")[3]
    host = f"public-keys.auth.elb.{region}.amazonaws.com"
    address = f"https://{host}" if settings.portal_keys_url == "auto" else settings.portal_keys_url
    return LoadBalancer(arn, SigningKeys(address))


def serve(settings: Settings, report: Callable[[str], None], ask_again: AskAgain) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises PortalError, SettingsError."""
    if not settings.links_url:
        raise PortalError("MONAI_AWS_LINKS_URL is empty, which switches these pages off.", "Leave it out, or name an address.")
    balancer, where = balancer_of(settings), Addresses.of(settings)
    clients, bucket = Clients(settings.region), settings.require_bucket()
    clients.make_all(imaging=settings.archive == HEALTHIMAGING)
    files = StudyFiles(clients, bucket)
    uploads = Uploads(clients, bucket, settings.upload_max_mib * MIB)
    watcher = Watcher(files.store, partial(look, clients, settings, and_group=False))
    with viewer_of(settings, clients, files, report) as viewer:
        app = build_app(files, where, Portal(uploads, watcher, ask_again, balancer, viewer))
        _listen(app, settings, where, report)


def _listen(app: Starlette, settings: Settings, where: Addresses, report: Callable[[str], None]) -> None:
    port = port_of(where.links)
    family = socket.AF_INET6 if ip_address(settings.portal_listen).version == 6 else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.portal_listen, port))
            listener.listen()  # before it is said to be there: whoever connects at once waits for the first answer
        except OSError as error:
            raise PortalError(
                f"Port {port} of this machine is taken ({error.strerror}).", "Choose another in MONAI_AWS_LINKS_URL."
            ) from error
        report(f"The portal is at {where.links}/, and listens on {settings.portal_listen} port {port}. Ctrl-C ends it.")
        config = uvicorn.Config(
            app,
            log_level="error",  # its warnings are of what strangers send, as often as they send it
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])
