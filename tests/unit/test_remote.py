"""Keys, and sending to a slow machine. All else is tested on real machines in tests/integration, redaction in test_redaction.py."""

from __future__ import annotations

import io
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import paramiko
import pytest

from monai_aws_pipeline import remote
from monai_aws_pipeline.remote import KeyPair, RemoteError, connect

MB = 1_000_000
USER, HOST = KeyPair.fresh(), KeyPair.fresh()


def test_each_key_pair_is_new_and_its_private_half_is_not_shown():
    first, second = KeyPair.fresh(), KeyPair.fresh()
    assert first.public != second.public
    assert first.private not in repr(first)
    assert "PRIVATE" not in repr(first)


class Machine(paramiko.ServerInterface):
    """An SSH server that takes nothing for ``idle`` seconds, and everything after that. ``received`` is what came."""

    def __init__(self, idle: float) -> None:
        self.idle = idle
        self.received = b""
        self.asked = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key.get_base64() == USER.public.split()[1] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._take, args=(channel,), daemon=True).start()
        self.asked.set()
        return True

    def _take(self, channel: paramiko.Channel) -> None:
        time.sleep(self.idle)
        while data := channel.recv(1 << 16):
            self.received += data
        channel.send_exit_status(0)
        channel.close()


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, int]]:
    served = Machine(request.param)
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(HOST.private))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=served)

        threading.Thread(target=answer, daemon=True).start()
        yield served, listener.getsockname()[1]


def send(port: int, folder: Path) -> int:
    (folder / "model.ts").write_bytes(bytes(4 * MB))  # more than the window of an SSH channel
    with connect("127.0.0.1", port=port, user="ubuntu", key=USER, host_key=HOST.public) as made:
        return made.send_folder(folder, "/folder", lambda _: None, what="Sending")


@pytest.mark.parametrize("machine", [2.5], indirect=True)
def test_a_machine_that_takes_nothing_for_seconds_is_waited_for(machine: tuple[Machine, int], tmp_path: Path):
    served, port = machine
    assert send(port, tmp_path) == 4 * MB
    with tarfile.open(fileobj=io.BytesIO(served.received)) as archive:
        assert archive.getmember("model.ts").size == 4 * MB


@pytest.mark.parametrize("machine", [30.0], indirect=True)
def test_a_machine_that_takes_nothing_at_all_is_an_error(machine: tuple[Machine, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_STUCK_S", 1.5)
    with pytest.raises(RemoteError, match=r"Sending broke off after . MB: nothing was taken for 2 s"):
        send(machine[1], tmp_path)


class CancelledError(Exception):
    """What Dagster raises in the middle of a run that is cancelled."""


@pytest.mark.parametrize("machine", [30.0], indirect=True)
def test_a_cancelled_run_waits_no_longer_for_a_machine_that_takes_nothing(
    machine: tuple[Machine, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    served, port = machine
    monkeypatch.setattr(remote, "_STUCK_S", 10.0)  # so long it would wait before another error than this one ends it

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        raise CancelledError

    def cancel_while_it_is_stuck() -> None:
        if served.asked.wait(30):
            time.sleep(1)  # by then the channel's window is full
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, cancel)
    thread = threading.Thread(target=cancel_while_it_is_stuck)
    thread.start()
    try:
        with pytest.raises(CancelledError):
            send(port, tmp_path)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
