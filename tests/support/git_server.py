"""Git servers on loopback that ask who one is: HTTPS with basic authentication, and SSH with a key. The git behind them is git's own."""

from __future__ import annotations

import base64
import os
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import paramiko
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class HttpsServer:
    """``address`` of the repository, ``certificate`` to trust. ``asked`` collects the Authorization headers that came."""

    address: str
    certificate: Path
    asked: list[str] = field(default_factory=list)


@contextmanager
def https_server(root: Path, repository: str, folder: Path, *, username: str, token: str) -> Iterator[HttpsServer]:
    """Serve the repositories below ``root`` to whoever knows the token. A path below ``/elsewhere/`` is redirected to another host name."""
    certificate = _certificate(folder)
    expected = "Basic " + base64.b64encode(f"{username}:{token}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Silence."""

        def do_GET(self) -> None:
            if self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", f"https://localhost:{made.address.rsplit(':', 1)[1].split('/')[0]}{self.path[10:]}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            sent = self.headers.get("Authorization", "")
            if sent:
                made.asked.append(sent)
            if sent != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._backend()

        do_POST = do_GET  # noqa: N815

        def _backend(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            variables = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": username,
            }
            done = subprocess.run(
                ["git", "-c", "safe.directory=*", "http-backend"], input=body, env=variables, capture_output=True, check=True
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(lines.pop("Status", "200").split()[0]))
            for name, value in lines.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = HttpsServer(f"https://127.0.0.1:{server.server_port}/{repository}", certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass(frozen=True)
class SshServer:
    """``address`` of the repository and the line for ``known_hosts``."""

    address: str
    known_hosts: str


@contextmanager
def ssh_server(repository: Path, *, allowed: str) -> Iterator[SshServer]:
    """Serve one repository to whoever holds the private key of the public one that is ``allowed``."""
    host_key = paramiko.ECDSAKey.generate()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    class Door(paramiko.ServerInterface):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            return paramiko.AUTH_SUCCESSFUL if key.get_base64() == allowed.split()[1] else paramiko.AUTH_FAILED

        def get_allowed_auths(self, username: str) -> str:
            return "publickey"

        def check_channel_request(self, kind: str, chanid: int) -> int:
            return paramiko.OPEN_SUCCEEDED

        def check_channel_env_request(self, *_: object) -> bool:
            return False

        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            threading.Thread(target=_serve, args=(channel, shlex.split(command.decode())), daemon=True).start()
            return True

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(host_key)
            transport.start_server(event=threading.Event(), server=Door())

    def _serve(channel: paramiko.Channel, command: list[str]) -> None:
        assert command[0] == "git-upload-pack"
        arguments = ["git", "-c", "safe.directory=*", "upload-pack", str(repository)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdin
            assert process.stdout
            incoming = process.stdin

            def feed() -> None:
                while data := channel.recv(65536):
                    incoming.write(data)
                incoming.close()

            threading.Thread(target=feed, daemon=True).start()
            while data := process.stdout.read(65536):
                channel.sendall(data)
        channel.send_exit_status(process.returncode)
        channel.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield SshServer(
            f"ssh://git@127.0.0.1:{port}/{repository.name}", f"[127.0.0.1]:{port} {host_key.get_name()} {host_key.get_base64()}"
        )
    finally:
        listener.close()
