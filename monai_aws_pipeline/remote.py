"""SSH to our own machines: fresh keys, strict verification of the host key, streamed and redacted output, folders sent as a tar.

Here belongs the connection and what runs over it; which machine and which commands is the caller's. No Dagster, no boto3.
Secrets are handed to commands on standard input only: neither argv nor logs ever hold one.
"""

from __future__ import annotations

import base64
import io
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.redaction import Redactor

OnLine = Callable[[str], None]

_MAX_LINE = 4000
_MAX_UNBROKEN = 1 << 16
"""Bytes that are held back for their line's end. A line is redacted as a whole, because a cut may go through a secret."""
_CHUNK = 1 << 18
_STUCK_S = 120.0
"""Longest time in which a machine takes nothing of what is sent to it: its disk may be busy, and its network slow."""


_OTHER_MACHINE = (
    "Another machine may have this address by now, or someone is between you and it. Materialise again: that makes a new machine with new "
    "keys. If it happens twice, look for a proxy or a VPN on the way, and connect from another network."
)


_READ_ON = "The whole output is in the run's log. Remove the cause it names, and start the run again."


class RemoteError(NamedError):
    """Base of what can go wrong on the way to a machine or on it."""


class HostKeyMismatchError(RemoteError):
    """The machine that answered is not the one we made."""


class ConnectError(RemoteError):
    """No SSH within the time given."""


class RemoteCommandError(RemoteError):
    """A command ended with another exit code than 0. ``tail`` holds its last lines, redacted; ``remedy`` says what to do."""

    def __init__(self, what: str, exit_code: int, tail: Iterable[str], remedy: str = _READ_ON) -> None:
        self.what, self.exit_code = what, exit_code
        self.tail = tuple(tail)
        last = "\n".join(self.tail)
        super().__init__(f"{what} failed on the machine with exit code {exit_code}. Its last lines:\n{last}", remedy)


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's forms; made fresh for each machine, kept in memory only."""

    private: str
    public: str

    @classmethod
    def fresh(cls) -> KeyPair:
        """A new pair."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private.decode(), public.decode())

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


class LineReader:
    """Chunks of bytes in, redacted lines out as soon as each is whole. A progress bar's states are lines of their own."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact.stream()
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines that this chunk completes."""
        *whole, self._rest = re.split(rb"\r\n|\n|\r", self._rest + chunk)
        for line in whole:
            skipped, self._skipping = self._skipping, False
            if line.strip() and not skipped:
                yield self._clean(line)
        if len(self._rest) > _MAX_UNBROKEN:
            # No cut is safe without an end in sight: what follows of this line is left out.
            if not self._skipping:
                yield f"[a line of more than {_MAX_UNBROKEN} bytes was left out]"
            self._skipping, self._rest = True, b""

    def end(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        if self._rest.strip() and not self._skipping:
            yield self._clean(self._rest)
        self._rest = b""

    def _clean(self, line: bytes) -> str:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.decode("utf-8", "replace"))
        return self._redact("".join(char if char.isprintable() or char == "\t" else "?" for char in text))[:_MAX_LINE]


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Refuses every host key that was not pinned beforehand."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Always."""
        raise HostKeyMismatchError(
            f"{hostname} answered with a {key.get_name()} host key that we did not make. Nothing was sent to it. {_OTHER_MACHINE}"
        )


class Remote:
    """One SSH connection. Use ``connect``."""

    def __init__(self, client: paramiko.SSHClient, redact: Redactor) -> None:
        self._client = client
        self._redact = redact

    def run(self, command: str, on_line: OnLine, *, what: str, stdin: bytes | None = None, seconds: float = 3600) -> list[str]:
        """Run one command, hand over each line of its output while it runs, and return the last 200 lines.

        Standard error is merged into the output. Raises RemoteCommandError on a non-zero exit code and RemoteError when time is up.
        """
        channel = self._open()
        channel.set_combine_stderr(True)
        channel.exec_command(command)
        if stdin is not None:
            channel.sendall(stdin)
            channel.shutdown_write()
        tail: list[str] = []
        try:
            for line in self._lines(channel, time.monotonic() + seconds, what):
                tail = [*tail[-199:], line]
                on_line(line)
            exit_code = channel.recv_exit_status()
        finally:
            channel.close()
        if exit_code != 0:
            raise RemoteCommandError(what, exit_code, tail[-20:])
        return tail

    def _open(self) -> paramiko.Channel:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise RemoteError("The SSH connection is gone; the machine may have been stopped. Start the run again.")
        return transport.open_session(timeout=30)

    def _lines(self, channel: paramiko.Channel, deadline: float, what: str) -> Iterator[str]:
        channel.settimeout(1.0)
        lines = LineReader(self._redact)
        while True:
            try:
                chunk = channel.recv(_CHUNK)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise RemoteError(f"{what} did not end in the time it was given; it was stopped. {_READ_ON}") from None
                continue
            if not chunk:
                break
            yield from lines.feed(chunk)
        yield from lines.end()

    def send_folder(self, local: Path, remote: str, on_line: OnLine, *, what: str) -> int:
        """Send a folder's content as one tar stream into an empty remote folder. Returns the bytes of its files."""
        channel = self._open()
        quoted = "'" + remote.replace("'", "'\\''") + "'"
        channel.set_combine_stderr(True)
        channel.exec_command(f"rm -rf {quoted} && mkdir -p {quoted} && tar -x -f - -C {quoted}")
        sent = _Sent(channel)
        answers: list[str] = []
        reader = threading.Thread(target=lambda: answers.extend(self._lines(channel, time.monotonic() + 3600, what)), daemon=True)
        reader.start()
        total = 0
        try:
            with tarfile.open(fileobj=sent, mode="w|", bufsize=_CHUNK, format=tarfile.PAX_FORMAT) as archive:
                try:
                    for path in sorted(local.rglob("*")):
                        archive.add(path, path.relative_to(local).as_posix(), recursive=False)
                        total += path.stat().st_size if path.is_file() else 0
                        sent.report(on_line, what)
                except BaseException:
                    sent.given_up = True  # leaving the archive writes what is left of it, which could wait as long once more
                    raise
            channel.shutdown_write()
            exit_code = channel.recv_exit_status()
        except OSError as error:
            raise RemoteError(
                f"{what} broke off after {sent.bytes / 1e6:.0f} MB: {error}. The machine may have been stopped. Start the run again."
            ) from error
        finally:
            channel.close()
            reader.join(5)
        if exit_code != 0:
            raise RemoteCommandError(what, exit_code, answers[-20:])
        return total


class _Sent(io.RawIOBase):
    """A channel as a file to write to, with a line of progress every 50 MB. Once ``given_up`` nothing more is sent."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._next = 50_000_000
        self.bytes = 0
        self.given_up = False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object, /) -> int:
        """Send all of it."""
        block = bytes(data)  # type: ignore[call-overload]
        size, deadline = len(block), time.monotonic() + _STUCK_S
        while block and not self.given_up:
            try:
                sent = self._channel.send(block)
            except TimeoutError:  # of the thread that reads: the two share the channel's time limit of one second
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nothing was taken for {_STUCK_S:.0f} s") from None
                continue
            block, deadline = block[sent:], time.monotonic() + _STUCK_S
            self.bytes += sent
        return size

    def report(self, on_line: OnLine, what: str) -> None:
        """One line whenever another 50 MB went through."""
        if self.bytes >= self._next:
            on_line(f"{what}: {self.bytes / 1e6:.0f} MB sent")
            self._next = self.bytes + 50_000_000


@contextmanager
def connect(
    address: str,
    *,
    port: int,
    user: str,
    key: KeyPair,
    host_key: str,
    redact: Redactor | None = None,
    seconds: float = 180,
    on_line: OnLine = lambda _: None,
) -> Iterator[Remote]:
    """Connect to a machine that is still booting, and accept the pinned host key alone.

    Raises ConnectError when it does not answer in time, HostKeyMismatchError at once when it is another machine.
    """
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Pinned())
    kind, blob = host_key.split()[:2]
    pinned = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
    name = address if port == 22 else f"[{address}]:{port}"
    client.get_host_keys().add(name, kind, pinned)
    private = paramiko.Ed25519Key.from_private_key(io.StringIO(key.private))
    deadline = time.monotonic() + seconds
    reason = "no answer"
    try:
        while True:
            try:
                client.connect(
                    address,
                    port=port,
                    username=user,
                    pkey=private,
                    allow_agent=False,
                    look_for_keys=False,
                    timeout=10,
                    banner_timeout=15,
                    auth_timeout=15,
                )
                break
            except paramiko.BadHostKeyException as error:
                raise HostKeyMismatchError(
                    f"{address} answered with another host key than the one we gave it. Nothing was sent to it. {_OTHER_MACHINE}"
                ) from error
            except (OSError, paramiko.AuthenticationException, paramiko.SSHException, EOFError) as error:
                # Refused or unauthenticated while cloud-init is not done; the same error at the deadline is the reason we report.
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise ConnectError(
                    f"No SSH to {address}:{port} within {seconds:.0f} s ({reason}). "
                    "Check MONAI_AWS_SSH_FROM (the addresses that may connect), the machine's console output and its route to the internet."
                )
            time.sleep(0.5)
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(15)
        on_line(f"connected to {address} as {user}; its host key is the one we made")
        yield Remote(client, redact or Redactor())
    finally:
        client.close()
