"""SSH to our own machines: fresh keys, strict verification of the host key, streamed and redacted output, folders sent as a tar.

Here belongs the connection and what runs over it; which machine and which commands is the caller's. No Dagster, no boto3.
No command is handed a secret: the machine has a role of its own.
"""

from __future__ import annotations

import base64
import io
import math
import re
import shlex
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from monai_aws_pipeline.cloud.waiting import EVERY_S, wait_until
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.redaction import Redactor

OnLine = Callable[[str], None]


class Wire(Protocol):
    """What carries an SSH connection in place of a socket of its own. ``ended``: why it is over, empty while it is not."""

    ended: str
    _closed: bool  # paramiko asks its sockets by this name

    def settimeout(self, seconds: float | None) -> None:
        """How long ``recv`` waits."""

    def recv(self, size: int) -> bytes:
        """Some bytes; none at its end. Raises TimeoutError."""

    def send(self, data: bytes) -> int:
        """Send some of it."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Tunnel:
    """The way to a machine that no address leads to: ``open`` makes a wire, which is ended after ``seconds`` by whoever carries it."""

    open: Callable[[], Wire]
    seconds: float
    name: str
    """What it leads through, for errors."""


_MAX_LINE = 4000
_MAX_UNBROKEN = 1 << 16
"""Bytes that are held back for their line's end. A line is redacted as a whole, because a cut may go through a secret."""
_CHUNK = 1 << 18
_READ = 1 << 15
_KEPT_LINES = 200
_SHOWN_LINES = 20
_LOOK_S = 1.0
"""How often whoever waits for a machine's bytes looks at the clock."""
_STUCK_S = 120.0
"""Longest time in which a machine takes nothing of what is sent to it: its disk may be busy, and its network slow."""


_OTHER_MACHINE = (
    "Another machine may have this address by now, or someone is between you and it. Materialise again: that makes a new machine with new "
    "keys. If it happens twice, look for a proxy or a VPN on the way, and connect from another network."
)
_READ_ON = "The whole output is in the run's log. Remove the cause it names, and start the run again."
_LOST = "The machine may have been stopped. Start the run again."
_GONE = f"The SSH connection is gone. {_LOST}"
FULL: Final = r"no space left on device|disk quota exceeded|disk is full"
"""How programs say it, in whatever case."""
FULL_REMEDY: Final = "The machine's disk is full: set a larger MONAI_AWS_ROOT_VOLUME_GIB, and start the run again."


def remedy_for(lines: Iterable[str], otherwise: str = _READ_ON) -> str:
    """What to do about a machine that ended something with these words."""
    return FULL_REMEDY if any(re.search(FULL, line, re.IGNORECASE) for line in lines) else otherwise


class RemoteError(NamedError):
    """Base of what can go wrong on the way to a machine or on it."""


class HostKeyMismatchError(RemoteError):
    """The machine that answered is not the one we made."""


class ConnectError(RemoteError):
    """No SSH within the time given."""


class ConnectionLostError(RemoteError):
    """The connection to the machine ended before the work did."""


class RemoteTimeoutError(RemoteError):
    """A command did not end in the time it was given."""


class RemoteCommandError(RemoteError):
    """A command ended with another exit code than 0. ``tail`` holds its last lines, redacted; ``remedy`` says what to do."""

    def __init__(self, what: str, exit_code: int, tail: Iterable[str], remedy: str = "") -> None:
        self.what, self.exit_code, self.tail = what, exit_code, tuple(tail)[-_SHOWN_LINES:]
        how = f"failed on the machine with exit code {exit_code}" if exit_code >= 0 else "was ended by a signal on the machine"
        super().__init__(f"{what} {how}. {_last_words(self.tail)}", remedy or remedy_for(self.tail))


def _last_words(tail: Iterable[str]) -> str:
    lines = "\n".join([*tail][-_SHOWN_LINES:])
    return f"Its last lines:\n{lines}" if lines else "It printed nothing."


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


_APART = """folder=$(mktemp -d) && : > "$folder/output" && {{
  setsid sh -c '"$SHELL" -c "$1" > "$0/output" 2>&1; echo $? > "$0/ending"; mv "$0/ending" "$0/ended"' "$folder" {command} \\
    < /dev/null > /dev/null 2>&1 & echo "$folder $!"; }}"""
"""Runs a command apart from the connection, and prints where its output and its end are written, and its process group."""
_READ_ON_FROM = "tail -s 0.2 --pid={group} -c +{byte} -f {folder}/output; exit $(cat {folder}/ended || echo 137)"
"""Prints such a command's output from a byte on (the first is 1) until its end, and ends as it did; 137 where it was killed."""
_HERE_S = 600.0
"""Through a tunnel, a command that may take longer than this runs apart from the connection."""
_MARGIN_S = 120.0
"""A connection is used for what ends so long before its tunnel does."""
_SHORT_S = 30.0
_SENDING_S = 3000.0
"""Seconds that a connection has left, at least, when a folder is begun to be sent through it."""


class Remote:
    """An SSH connection, made anew between two commands where a tunnel would end it. Use ``connect``."""

    def __init__(self, client: paramiko.SSHClient, redact: Redactor, way: _Way | None = None) -> None:
        self._client = client
        self._redact = redact
        self._way = way
        self._until = time.monotonic() + way.tunnel.seconds if way and way.tunnel else math.inf

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def run(self, command: str, on_line: OnLine, *, what: str, seconds: float = 3600) -> list[str]:
        """Run one command, hand over each line of its output while it runs, and return the last 200 lines.

        Standard error is merged into the output. Where the way leads through a tunnel, a command that may take long runs on when that ends,
        and is followed through the next one. Raises RemoteCommandError on a non-zero exit code, RemoteTimeoutError when time is up,
        whatever the command prints, and ConnectionLostError.
        """
        deadline = time.monotonic() + seconds
        tail: deque[str] = deque(maxlen=_KEPT_LINES)

        def keep(line: str) -> None:
            tail.append(line)
            on_line(line)

        if self._way and self._way.tunnel and seconds > min(_HERE_S, self._way.tunnel.seconds - _MARGIN_S):
            exit_code = self._run_apart(command, keep, deadline)
        else:
            exit_code = self._run_here(command, keep, deadline)
        if exit_code is None:
            raise RemoteTimeoutError(f"{what} did not end within {seconds:.0f} s; it was stopped. {_last_words(tail)}\n{remedy_for(tail)}")
        if exit_code < 0 and self._is_lost():
            raise ConnectionLostError(
                f"The SSH connection was lost{self._why()}: {what} did not end. {_last_words(tail)}\n{remedy_for(tail, _LOST)}"
            )
        if exit_code != 0:
            raise RemoteCommandError(what, exit_code, tail)
        return [*tail]

    def _run_here(self, command: str, on_line: OnLine, deadline: float) -> int | None:
        """Run a command over one connection. Its exit code: -1 where it has none, None where the time was over first."""
        self._renew(deadline - time.monotonic() + _MARGIN_S)
        channel = self._execute(command)
        try:
            for line in self._lines(channel, deadline):
                on_line(line)
            return _exit_code(channel, deadline)
        finally:
            channel.close()

    def _run_apart(self, command: str, on_line: OnLine, deadline: float) -> int | None:
        """Run a command that may outlast a connection: its output goes to a file, which is read on through the next one."""
        folder, group = self._begin_apart(command)
        lines, bytes_read = LineReader(self._redact), 0
        while time.monotonic() < deadline:
            self._renew(_MARGIN_S)
            try:
                with closing(self._execute(_READ_ON_FROM.format(group=group, byte=bytes_read + 1, folder=folder))) as channel:
                    for chunk in _chunks(channel, deadline):
                        bytes_read += len(chunk)
                        for line in lines.feed(chunk):
                            on_line(line)
                    exit_code = _exit_code(channel, deadline)
            except ConnectionLostError:
                exit_code = -1
            if exit_code is None:
                break
            if exit_code >= 0 or not self._is_lost():
                for line in lines.end():
                    on_line(line)
                self._try_short(f"rm -rf {folder}")  # an image may be made of the machine
                return exit_code
            on_line(f"the tunnel to the machine has ended{self._why()}; the command goes on, and is followed through a new one")
        self._try_short(f"kill -- -{group}")
        return None

    def _try_short(self, command: str) -> None:
        """Run a short command that nothing depends on."""
        with suppress(RemoteError):
            self._run_here(command, lambda _: None, time.monotonic() + _SHORT_S)

    def _begin_apart(self, command: str) -> tuple[str, str]:
        """Begin such a command. Returns the folder of its output and its process group."""
        said: list[str] = []
        code = self._run_here(_APART.format(command=shlex.quote(command)), said.append, time.monotonic() + _SHORT_S)
        if code != 0 or not said:
            raise RemoteError(f"The machine did not begin a command. {_last_words(said)}\n{remedy_for(said, _LOST)}")
        folder, group = said[-1].split()
        return folder, group

    def _renew(self, seconds: float) -> None:
        """Make the connection anew where it leads through a tunnel that has ended, or would within so many seconds."""
        if self._way is None or self._way.tunnel is None or (self._is_connected() and self._until - time.monotonic() >= seconds):
            return
        self._client.close()
        self._client = self._way.connect()
        self._until = time.monotonic() + self._way.tunnel.seconds

    def _is_connected(self) -> bool:
        transport = self._client.get_transport()
        return bool(transport and transport.is_active())

    def _is_lost(self) -> bool:
        """Whether a command has no exit code because the connection is gone. Its channel says so a moment before the connection does."""
        transport = self._client.get_transport()
        if transport is not None:
            transport.join(_LOOK_S)
        return not self._is_connected()

    def _why(self) -> str:
        """Why the connection is over, in brackets, where that is known."""
        ended = getattr(getattr(self._client.get_transport(), "sock", None), "ended", "")
        return f" ({ended})" if ended else ""

    def _execute(self, command: str) -> paramiko.Channel:
        """A channel on which a command has begun. Whoever waits for its bytes gets a TimeoutError each second, to look at the clock."""
        try:
            channel = self._session()
        except ConnectionLostError:
            if self._way is None or self._way.tunnel is None:
                raise
            self._client.close()  # the tunnel has ended unseen; nothing has begun yet
            self._renew(0)
            channel = self._session()
        try:
            channel.settimeout(_LOOK_S)
            channel.set_combine_stderr(True)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionLostError(_GONE) from error
        return channel

    def _session(self) -> paramiko.Channel:
        """A channel on which nothing has begun. Raises ConnectionLostError."""
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise ConnectionLostError(_GONE)
        try:
            return transport.open_session(timeout=30)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionLostError(_GONE) from error

    def _lines(self, channel: paramiko.Channel, deadline: float = math.inf) -> Iterator[str]:
        """What a command prints, redacted, until it has printed all of it or the time is over."""
        lines = LineReader(self._redact)
        for chunk in _chunks(channel, deadline):
            yield from lines.feed(chunk) if chunk else lines.end()

    def send_folder(self, local: Path, remote: str, on_line: OnLine, *, what: str) -> int:
        """Send a folder's content as one tar stream into an empty remote folder. Returns the bytes of its files.

        Raises RemoteCommandError with the machine's own words where it ends early, as with a full disk, and RemoteError where it takes
        nothing more, is lost, or a file cannot be read here.
        """
        folder = shlex.quote(remote)
        self._renew(_SENDING_S)
        channel = self._execute(f"rm -rf {folder} && mkdir -p {folder} && tar -x -f - -C {folder}")
        sent = _Sent(channel, lambda count: on_line(f"{what}: {count / 1e6:.0f} MB sent"))
        words: deque[str] = deque(maxlen=_KEPT_LINES)
        reader = threading.Thread(target=lambda: words.extend(self._lines(channel)), daemon=True)
        reader.start()
        total, broken = 0, ""
        try:
            total = _write_tar(local, sent)
            channel.shutdown_write()
            exit_code = _exit_code(channel, time.monotonic() + _STUCK_S)
        except _BrokenOffError as error:  # a machine that ended it has said how, and why, before it closed the channel
            broken = str(error)
            exit_code = channel.exit_status if channel.status_event.is_set() else None
        except OSError as error:
            raise RemoteError(f"{what} broke off: a file cannot be read here ({error.strerror or error}). Start the run again.") from error
        finally:
            channel.close()
            reader.join(5)
        if exit_code is not None and exit_code > 0:
            raise RemoteCommandError(what, exit_code, words)
        if broken or exit_code != 0:
            reason = broken or ("it was ended" if exit_code else f"no end of it within {_STUCK_S:.0f} s after the last byte")
            said = f" {_last_words(words)}\n" if words else " "
            raise RemoteError(f"{what} broke off after {sent.bytes / 1e6:.0f} MB: {reason}.{said}{remedy_for(words, _LOST)}")
        return total


def _chunks(channel: paramiko.Channel, deadline: float) -> Iterator[bytes]:
    """What a command prints, as it comes, until the time is over; nothing at last where it has printed all of it."""
    while time.monotonic() < deadline:
        try:
            chunk = channel.recv(_READ)
        except TimeoutError:
            continue
        yield chunk
        if not chunk:
            return


def _exit_code(channel: paramiko.Channel, deadline: float) -> int | None:
    """The exit code of a command, -1 where it ended without one; None where it has not ended when the time is over."""
    left = deadline - time.monotonic()
    return channel.recv_exit_status() if left > 0 and channel.status_event.wait(left) else None


def _write_tar(local: Path, sent: _Sent) -> int:
    """Write a folder's content as tar; the bytes of its files. Raises _BrokenOffError, and OSError for a file that cannot be read."""
    total = 0
    with tarfile.open(fileobj=sent, mode="w|", bufsize=_CHUNK, format=tarfile.PAX_FORMAT) as archive:
        try:
            for path in sorted(local.rglob("*")):
                archive.add(path, path.relative_to(local).as_posix(), recursive=False)
                total += path.stat().st_size if path.is_file() else 0
        except BaseException:
            sent.given_up = True  # leaving the archive writes what is left of it, which could wait as long once more
            raise
    return total


class _BrokenOffError(Exception):
    """The machine takes nothing more."""


class _Sent(io.RawIOBase):
    """A channel as a file to write to; ``report`` is told the bytes sent every 10 s. Once ``given_up`` nothing more is sent."""

    def __init__(self, channel: paramiko.Channel, report: Callable[[int], None]) -> None:
        self._channel, self._report = channel, report
        self._due = time.monotonic() + EVERY_S
        self.bytes = 0
        self.given_up = False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object, /) -> int:
        """Send all of it. Raises _BrokenOffError."""
        block = bytes(data)  # type: ignore[call-overload]
        size = len(block)
        try:
            while block and not self.given_up:
                sent = self._send(block)
                block = block[sent:]
                self.bytes += sent
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.given_up = True
            raise _BrokenOffError(str(error)) from error
        if time.monotonic() >= self._due and not self.given_up:
            self._due = time.monotonic() + EVERY_S
            self._report(self.bytes)
        return size

    def _send(self, block: bytes) -> int:
        """Send some of it, waiting as long as may be for a machine that takes nothing."""
        deadline = time.monotonic() + _STUCK_S
        while True:
            try:
                return self._channel.send(block)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nothing was taken for {_STUCK_S:.0f} s") from None


@dataclass(frozen=True)
class _Way:
    """How one machine is reached, so that it can be reached once more: where it is, who we are, and who it has to be."""

    address: str
    port: int
    user: str
    key: KeyPair
    host_key: str
    tunnel: Tunnel | None
    seconds: float
    on_line: OnLine

    def connect(self) -> paramiko.SSHClient:
        """Connect to a machine that may still be booting. Raises ConnectError when the time is over, HostKeyMismatchError at once."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Pinned())
        kind, blob = self.host_key.split()[:2]
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        client.get_host_keys().add(name, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(blob)))
        waiting = f"waiting for {self.address}:{self.port} to answer SSH"
        try:
            reason = wait_until(
                lambda: self._attempt(client), lambda failed: not failed, self.seconds, what=waiting, report=self.on_line, pause=0.5
            )
        except BaseException:
            client.close()
            raise
        if reason:
            client.close()
            raise ConnectError(f"No SSH to {self.address}:{self.port} within {self.seconds:.0f} s ({reason}). {self._remedy()}")
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(15)
        self.on_line(f"connected to {self.address} as {self.user}; its host key is the one we made")
        return client

    def _attempt(self, client: paramiko.SSHClient) -> str:
        """Connect; why that did not work, empty where it did."""
        wire: Wire | None = None
        try:
            wire = self.tunnel.open() if self.tunnel else None
            made: Any = wire  # paramiko asks for a socket and uses what Wire has
            client.connect(
                self.address,
                port=self.port,
                username=self.user,
                pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(self.key.private)),
                allow_agent=False,
                look_for_keys=False,
                timeout=10,
                banner_timeout=15,
                auth_timeout=15,
                sock=made,
            )
        except paramiko.BadHostKeyException as error:
            raise HostKeyMismatchError(
                f"{self.address} answered with another host key than the one we gave it. Nothing was sent to it. {_OTHER_MACHINE}"
            ) from error
        except (OSError, paramiko.AuthenticationException, paramiko.SSHException, EOFError) as error:
            # Refused or unauthenticated while cloud-init is not done; the same error at the deadline is the reason we report.
            if wire:
                wire.close()
            return f"{wire.ended}" if wire and wire.ended else f"{type(error).__name__}: {error}"
        return ""

    def _remedy(self) -> str:
        if self.tunnel:
            return (
                f"It was tried through {self.tunnel.name}. Check that its security group lets port {self.port} out to the machine's "
                "subnet, and look at the machine's console output."
            )
        return (
            "Check MONAI_AWS_SSH_FROM (the addresses that may connect), the machine's console output and its route to the internet. "
            "In a private subnet set MONAI_AWS_REACH=endpoint."
        )


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
    tunnel: Tunnel | None = None,
) -> Iterator[Remote]:
    """Connect to a machine that is still booting, through a tunnel where there is one, and accept the pinned host key alone.

    Raises ConnectError when it does not answer in time, HostKeyMismatchError at once when it is another machine, and what the tunnel
    raises for good.
    """
    way = _Way(address, port, user, key, host_key, tunnel, seconds, on_line)
    remote = Remote(way.connect(), redact or Redactor(), way)
    try:
        yield remote
    finally:
        remote.close()
