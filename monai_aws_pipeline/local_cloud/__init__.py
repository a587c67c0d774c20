"""An AWS in one folder: emulated services on a loopback port, with real machines, a real registry and enforced permissions.

A test bed for one's own code, so that the pipeline runs its whole way without an AWS account. It is no sandbox: machines are root on
this computer's kernel and share its network. Nothing but the command line and tests imports this package; it imports nothing of the
project but settings. docs/local-cloud.md says what is real, what is emulated and what differs from AWS.
"""

from .commands import CloudStatus, LocalCloud, down, reset, status, up
from .config import CloudConfig, configure
from .errors import LocalCloudError

__all__ = ["CloudConfig", "CloudStatus", "LocalCloud", "LocalCloudError", "configure", "down", "reset", "status", "up"]
