"""Keys, and machines that are slow, full, silent, talkative or lost. All else is tested on real machines in tests/integration, redaction in
test_redaction.py.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_SUCCESS

from monai_aws_pipeline import remote
from monai_aws_pipeline.remote import ConnectionLostError, KeyPair, Remote, RemoteCommandError, RemoteError, RemoteTimeoutError, connect

MB = 1_000_000
USER, HOST = KeyPair.fresh(), KeyPair.fresh()


def test_each_key_pair_is_new_and_its_private_half_is_not_shown():
    first, second = KeyPair.fresh(), KeyPair.fresh()
    assert first.public != second.public
    assert first.private not in repr(first)
    assert "PRIVATE" not in repr(first)


Serve = Callable[[paramiko.Channel], None]
"""What a machine does with a command, on a channel."""


class Machine(paramiko.ServerInterface):
    """An SSH server whose commands all do one thing."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.asked, self.accepted = threading.Event(), threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key.get_base64() == USER.public.split()[1] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._work, args=(channel,), daemon=True).start()
        self.asked.set()
        return True

    def _work(self, channel: paramiko.Channel) -> None:
        assert self.accepted.wait(30), "as with every SSH server, the command begins when it was accepted"
        with suppress(OSError, EOFError):  # the other side has gone
            self.serve(channel)


class Transport(paramiko.Transport):
    """Tells when the client knows that its command was accepted."""

    accepted: threading.Event

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)
        if data.asbytes()[:1] == cMSG_CHANNEL_SUCCESS:
            self.accepted.set()


class Taking:
    """Takes nothing for ``idle`` seconds, and everything after that. ``received`` is what came."""

    def __init__(self, idle: float = 0.0) -> None:
        self.idle, self.received = idle, b""

    def __call__(self, channel: paramiko.Channel) -> None:
        time.sleep(self.idle)
        while data := channel.recv(1 << 16):
            self.received += data
        channel.send_exit_status(0)
        channel.close()


@contextmanager
def machine(serve: Serve) -> Iterator[tuple[Machine, Remote]]:
    """A machine, and a connection to it."""
    served = Machine(serve)
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(HOST.private))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            transport = Transport(listener.accept()[0])
            transport.accepted = served.accepted
            transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=served)

        threading.Thread(target=answer, daemon=True).start()
        with connect("127.0.0.1", port=listener.getsockname()[1], user="ubuntu", key=USER, host_key=HOST.public) as made:
            yield served, made


def send(made: Remote, folder: Path, on_line: Callable[[str], None] = lambda _: None) -> int:
    (folder / "model.ts").write_bytes(bytes(4 * MB))  # more than the window of an SSH channel
    return made.send_folder(folder, "/folder", on_line, what="Sending")


def test_a_machine_that_takes_nothing_for_seconds_is_waited_for(tmp_path: Path):
    taking = Taking(idle=2.5)
    with machine(taking) as (_, made):
        assert send(made, tmp_path) == 4 * MB
    with tarfile.open(fileobj=io.BytesIO(taking.received)) as archive:
        assert archive.getmember("model.ts").size == 4 * MB


def test_a_machine_that_takes_nothing_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_STUCK_S", 1.5)
    with machine(Taking(idle=30)) as (_, made), pytest.raises(RemoteError, match=r"broke off after . MB: nothing was taken for 2 s"):
        send(made, tmp_path)


def test_a_machine_that_never_says_how_a_transfer_ended_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As where its disk hangs after the last byte was taken."""

    def takes_and_hangs(channel: paramiko.Channel) -> None:
        while channel.recv(1 << 16):
            pass
        time.sleep(60)

    monkeypatch.setattr(remote, "_STUCK_S", 1.5)
    with machine(takes_and_hangs) as (_, made), pytest.raises(RemoteError, match="no end of it within 2 s after the last byte"):
        send(made, tmp_path)


def test_a_large_file_is_reported_while_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "EVERY_S", 0.0)
    said: list[str] = []
    with machine(Taking()) as (_, made):
        send(made, tmp_path, said.append)
    assert any(re.fullmatch(r"Sending: [123] MB sent", line) for line in said), "there is but one file, of 4 MB"


def ends_early(words: bytes, *, takes: int, exit_code: int) -> Serve:
    """A command that takes so many bytes, says something and ends."""

    def serve(channel: paramiko.Channel) -> None:
        taken = 0
        while taken < takes and (data := channel.recv(1 << 15)):
            taken += len(data)
        channel.sendall_stderr(words)
        channel.send_exit_status(exit_code)
        channel.close()

    return serve


@pytest.mark.parametrize("takes", [0, 100_000, 4 * MB], ids=["at once", "in the middle", "at the end"])
def test_a_transfer_that_the_machine_ends_is_told_in_its_own_words(tmp_path: Path, takes: int):
    words = b"tar: model.ts: Cannot write: No space left on device\npassword=hunter2hunter2\n"
    with machine(ends_early(words, takes=takes, exit_code=2)) as (_, made), pytest.raises(RemoteCommandError) as failed:
        send(made, tmp_path)
    error = failed.value
    assert error.exit_code == 2
    assert "Cannot write: No space left on device" in str(error)
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in error.remedy
    assert "stopped" not in str(error), "it was not"
    assert "hunter2" not in str(error)


def test_of_many_words_the_last_are_told(tmp_path: Path):
    words = b"".join(b"tar: file %d: Cannot open\n" % number for number in range(5000))
    with machine(ends_early(words, takes=0, exit_code=2)) as (_, made), pytest.raises(RemoteCommandError) as failed:
        send(made, tmp_path)
    assert failed.value.tail[-1] == "tar: file 4999: Cannot open"
    assert len(failed.value.tail) == 20


def test_a_file_that_cannot_be_read_here_is_not_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreadable(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tarfile.TarFile, "add", unreadable)
    with machine(Taking()) as (_, made), pytest.raises(RemoteError, match="cannot be read here") as failed:
        send(made, tmp_path)
    assert "stopped" not in str(failed.value)


# --------------------------------------------------------------------------------------------------------------------- time limits


def prints_for_ever(words: bytes) -> Serve:
    def serve(channel: paramiko.Channel) -> None:
        while True:
            channel.sendall(words)

    return serve


def prints_nothing(channel: paramiko.Channel) -> None:
    time.sleep(60)
    channel.close()


def closes_its_output(channel: paramiko.Channel) -> None:
    channel.sendall(b"gone to the background\n")
    channel.shutdown_write()
    time.sleep(60)


@pytest.mark.parametrize(
    "serve",
    [prints_for_ever(b"working\n" * 100), prints_for_ever(b"." * 1000), prints_nothing, closes_its_output],
    ids=["lines", "no line ends", "nothing", "closed output"],
)
@pytest.mark.timeout(60)
def test_a_time_limit_holds_whatever_the_command_prints(serve: Serve):
    with machine(serve) as (_, made), pytest.raises(RemoteTimeoutError, match="Working did not end within 1 s"):
        made.run("work", lambda _: None, what="Working", seconds=1)


def test_a_command_that_is_stopped_for_its_time_is_told_in_its_last_words():
    def serve(channel: paramiko.Channel) -> None:
        channel.sendall(b"write error: No space left on device; trying again\n")
        time.sleep(60)

    with machine(serve) as (_, made), pytest.raises(RemoteTimeoutError, match=r"trying again\n.*MONAI_AWS_ROOT_VOLUME_GIB"):
        made.run("work", lambda _: None, what="Working", seconds=1)


@pytest.mark.parametrize(("words", "full"), [(b"write /x: no space left on device\n", True), (b"on purpose\n", False)])
def test_a_command_on_a_full_disk_has_its_remedy(words: bytes, full: bool):
    with machine(ends_early(words, takes=0, exit_code=1)) as (_, made), pytest.raises(RemoteCommandError) as failed:
        made.run("work", lambda _: None, what="Working")
    assert ("MONAI_AWS_ROOT_VOLUME_GIB" in failed.value.remedy) == full


def test_a_connection_that_is_lost_is_not_the_commands_fault():
    def loses(channel: paramiko.Channel) -> None:
        channel.sendall(b"half done\n")
        channel.get_transport().close()

    with machine(loses) as (_, made):
        with pytest.raises(ConnectionLostError, match="half done"):
            made.run("work", lambda _: None, what="Working")
        with pytest.raises(ConnectionLostError, match="connection is gone"):
            made.run("work", lambda _: None, what="Working")


class CancelledError(Exception):
    """What Dagster raises in the middle of a run that is cancelled."""


def test_a_cancelled_run_waits_no_longer_for_a_machine_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_STUCK_S", 10.0)  # so long it would wait before another error than this one ends it

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        raise CancelledError

    def cancel_while_it_is_stuck(served: Machine) -> None:
        if served.asked.wait(30):
            time.sleep(1)  # by then the channel's window is full
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, cancel)
    try:
        with machine(Taking(idle=30)) as (served, made):
            thread = threading.Thread(target=cancel_while_it_is_stuck, args=(served,))
            thread.start()
            with pytest.raises(CancelledError):
                send(made, tmp_path)
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
