"""SSH through tunnels that end: between commands, in the middle of one, and while a folder is sent. The machine's shell is real."""

from __future__ import annotations

import io
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko
import pytest

from monai_aws_pipeline.remote import ConnectError, KeyPair, Remote, RemoteCommandError, RemoteTimeoutError, Tunnel, connect
from tests.support.processes import wait_ended

USER, HOST = KeyPair.fresh(), KeyPair.fresh()
HOUR = 3600.0


class Shell(paramiko.ServerInterface):
    """An SSH server that runs what it is asked in a shell of this computer, as sshd does."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key.get_base64() == USER.public.split()[1] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._work, args=(channel, command.decode()), daemon=True).start()
        return True

    def _work(self, channel: paramiko.Channel, command: str) -> None:
        with subprocess.Popen(
            ["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"SHELL": "/bin/bash"}
        ) as process:
            assert process.stdin and process.stdout
            with suppress(OSError, EOFError):  # the other side has gone
                if "tar -x" in command:
                    while data := channel.recv(1 << 16):
                        process.stdin.write(data)
                process.stdin.close()
                while data := process.stdout.read1():
                    channel.sendall(data)
                channel.send_exit_status(process.wait(30))
                channel.close()
            process.kill()


class Cable:
    """A wire that can be cut; it then says why it has ended, as the web socket of an endpoint does."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self.ended, self._closed = "", False

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def recv(self, size: int) -> bytes:
        return b"" if self.ended else self._socket.recv(size)

    def send(self, data: bytes) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        self._closed = True
        self._socket.close()

    def cut(self) -> None:
        self.ended = "the time is over"
        self._socket.shutdown(socket.SHUT_RDWR)


class Cables:
    """All the tunnels that were opened to one machine."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.laid = address, list[Cable]()

    def open(self) -> Cable:
        self.laid.append(Cable(self.address))
        return self.laid[-1]


@contextmanager
def machine() -> Iterator[Cables]:
    """A machine that answers as often as it is connected to."""
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(HOST.private))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    transport = paramiko.Transport(listener.accept()[0])
                    transport.add_server_key(key)
                    transport.start_server(event=threading.Event(), server=Shell())

        threading.Thread(target=answer, daemon=True).start()
        yield Cables(listener.getsockname())


@contextmanager
def reached(seconds: float = HOUR, on_line: Callable[[str], None] = lambda _: None) -> Iterator[tuple[Cables, Remote]]:
    with machine() as cables:
        tunnel = Tunnel(cables.open, seconds, "the endpoint eice-1")
        with connect("10.0.0.7", port=22, user="ubuntu", key=USER, host_key=HOST.public, tunnel=tunnel, on_line=on_line) as made:
            yield cables, made


def test_a_tunnel_carries_commands_and_folders_with_the_pinned_host_key(tmp_path: Path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "model.ts").write_bytes(bytes(3_000_000))
    with reached() as (cables, made):
        assert made.run("echo one; echo two >&2", lambda _: None, what="Saying", seconds=60) == ["one", "two"]
        assert made.send_folder(tmp_path / "from", str(tmp_path / "to"), lambda _: None, what="Sending") == 3_000_000
        assert (tmp_path / "to" / "model.ts").stat().st_size == 3_000_000
        assert len(cables.laid) == 1


def test_a_tunnel_that_has_ended_between_two_commands_is_made_anew():
    with reached() as (cables, made):
        made.run("true", lambda _: None, what="Doing nothing", seconds=60)
        cables.laid[-1].cut()
        assert made.run("echo again", lambda _: None, what="Saying", seconds=60) == ["again"]
        assert len(cables.laid) == 2


def test_a_tunnel_that_would_end_during_a_command_is_made_anew_before_it():
    with reached(seconds=HOUR / 6) as (cables, made):
        assert made.run("echo long", lambda _: None, what="Saying", seconds=HOUR / 6 - 120) == ["long"]
        assert len(cables.laid) == 2


def test_a_command_that_may_outlast_a_tunnel_is_followed_through_the_next_one(tmp_path: Path):
    gate, said = tmp_path / "gate", list[str]()
    with reached() as (cables, made):

        def hear(line: str) -> None:
            said.append(line)
            if line == "one":
                cables.laid[-1].cut()
            if "followed through a new one" in line:
                gate.touch()

        command = f"echo one; while ! test -e {gate}; do sleep 0.05; done; echo two >&2; exit 7"
        with pytest.raises(RemoteCommandError, match="exit code 7") as error:
            made.run(command, hear, what="Building", seconds=2 * HOUR)
        assert [line for line in said if "tunnel" not in line] == ["one", "two"], "no line is lost and none comes twice"
        assert any("the time is over" in line for line in said[1:-1])
        assert error.value.tail[-1] == "two"
        assert len(cables.laid) >= 2


def test_a_quoted_command_means_the_same_apart_from_its_connection():
    with reached() as (_, made):
        command = """x="it's"; printf '%s|%s\\n' "$x" 'a  b'; printf 'no line end'"""
        assert made.run(command, lambda _: None, what="Saying", seconds=2 * HOUR) == ["it's|a  b", "no line end"]


def test_a_command_apart_from_its_connection_keeps_its_time_and_is_ended(tmp_path: Path):
    mark = tmp_path / "pid"
    with reached(seconds=1.0) as (_, made), pytest.raises(RemoteTimeoutError, match="Waiting did not end within 5 s"):
        made.run(f"echo $$ > {mark}; exec sleep 600", lambda _: None, what="Waiting", seconds=5)
    wait_ended(int(mark.read_text()))


def test_what_ended_the_tunnel_is_the_reason_why_there_is_no_connection():
    def refused() -> Cable:
        cable = Cable(address)
        cable.cut()
        cable.ended = "Unable to connect to target"
        return cable

    with machine() as cables:
        address = cables.address
        tunnel = Tunnel(refused, HOUR, "the endpoint eice-1")
        with (
            pytest.raises(ConnectError, match=r"Unable to connect to target.*eice-1.*security group"),
            connect("10.0.0.7", port=22, user="ubuntu", key=USER, host_key=HOST.public, tunnel=tunnel, seconds=0.5),
        ):
            pass
