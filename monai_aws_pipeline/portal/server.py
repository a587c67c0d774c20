"""The application as a process: on loopback only, until it is told to end.

Nothing is logged of what is asked for. Whoever reaches the port reads studies with the credentials of whoever started it, as with
Dagster's own UI; a team puts both behind the same login (docs/operations.md).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import uvicorn

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.whereabouts import look
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import OWN_HOSTS, Portal, build_app
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from monai_aws_pipeline.settings import Settings

HOST: Final = "127.0.0.1"
PORT: Final = 3070
"""Where the setting names a host that stands in front of this one."""
MOST_AT_ONCE: Final = 256
"""Those who follow a job stay connected."""


class LinksError(NamedError):
    """The pages cannot be served."""


def port_of(address: str) -> int:
    """The loopback port behind the setting's address."""
    parts = urlsplit(address)
    return parts.port or PORT if parts.hostname in OWN_HOSTS else PORT


def serve(settings: Settings, report: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises LinksError, SettingsError."""
    if not settings.links_url:
        raise LinksError("MONAI_AWS_LINKS_URL is empty, which switches these pages off.", "Leave it out, or name an address.")
    where = Addresses.of(settings)
    clients, bucket = Clients(settings.region), settings.require_bucket()
    clients.make_all()
    files = StudyFiles(clients, bucket)
    portal = Portal(Uploads(clients, bucket, settings.upload_max_mib * MIB), Watcher(files.store, partial(look, clients, settings)))
    app = build_app(files, where, portal)
    port = port_of(where.links)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()  # before it is said to be there: whoever connects at once waits for the first answer
        except OSError as error:
            raise LinksError(
                f"Port {port} of this machine is taken ({error.strerror}).", "Choose another in MONAI_AWS_LINKS_URL."
            ) from error
        report(f"Studies open at {where.links}/studies/STUDY/, on this machine's loopback port {port}. Ctrl-C ends it.")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])
