"""Named errors of what an operator does by hand."""

from __future__ import annotations

from monai_aws_pipeline.errors import NamedError


class OperationError(NamedError):
    """Something the operator asked for cannot be done. The message says why and what to do."""


class NotAnsweredError(OperationError):
    """The wait for an answer is over and there is no commit record; the job itself stays queued."""


class QueueMissingError(OperationError):
    """The deployment has no queues."""
