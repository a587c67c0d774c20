"""What can go wrong with the embedded AWS itself, each error with its cause and what the user can do about it.

Here belong the exceptions that ``monai-aws local …`` shows. Errors of the emulated services are answered as AWS answers them and
have no class here.
"""

from __future__ import annotations

from monai_aws_pipeline.errors import NamedError


class LocalCloudError(NamedError):
    """The embedded AWS cannot do what was asked. ``cause`` and ``remedy`` are sentences for the user, and none goes without."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)


class NotLinuxError(LocalCloudError):
    """Machines of the embedded AWS are Linux containers, so it runs on Linux only."""


class NotRootError(LocalCloudError):
    """Starting a container engine and machines needs root."""


class PortTakenError(LocalCloudError):
    """Another program listens on the port of the front door."""


class DiskShortError(LocalCloudError):
    """Too little room for the base images and the machines."""


class PackagesError(LocalCloudError):
    """A program that the embedded AWS needs is missing and could not be installed."""


class EngineError(LocalCloudError):
    """The container engine did not start or refused to do its work."""


class BaseImageError(LocalCloudError):
    """A base root could not be built."""


class StartError(LocalCloudError):
    """A part of the embedded AWS did not start in time."""


class ProfileError(LocalCloudError):
    """No account profile has that name, or the embedded AWS that runs has another."""


class BusyError(LocalCloudError):
    """Another command is starting or stopping the same embedded AWS."""
