"""The front door: one process, one loopback port for all emulated services.

``python -m monai_aws_pipeline.local_cloud.server CONFIG`` is started by commands.py. ministack answers by default; EC2 goes to moto and
real machines, ECR's images to a real registry, and nothing is answered to a caller whose signature was not verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs, unquote_plus, urlencode

from .base_image import MachineRoot, MapBase, link_map_base
from .config import ACCOUNT, CloudConfig
from .engine import Engine
from .faults import Fault
from .machines import Hypervisor

if TYPE_CHECKING:
    from .dicomweb import Request, Response

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Door = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Any]]

CONTROL_HEADER: Final = "x-local-cloud"
"""Control requests carry this header, which no web page can send across origins unasked."""
_OPEN_PATHS: Final = (
    "/_ministack/health",
    "/_ministack/ready",
    "/_ministack/cfn-response/",
    "/_ministack/cfn-signal/",
    "/_ministack/lambda-code/",
)
TUNNEL_PATH: Final = "/openTunnel"
"""Of the web sockets of EC2 Instance Connect Endpoints."""
_MACHINE_ORDERS: Final = ("end_tunnels", "cut_network", "slow_network", "interrupt_spot", "small_disk", "restore_disk")
_UID_KEYS: Final = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series"}
_SMALL: Final = 65_536
_LOOK_S: Final = 0.05
_log: Final = logging.getLogger("local-cloud.door")


def prepare_environment(config: CloudConfig, images_file: Path) -> None:
    """Set what ministack and moto read when they are imported."""
    state = config.state_dir
    os.environ.update(
        AUTH="true",
        GATEWAY_PORT=str(config.port),
        BIND_HOST="127.0.0.1",
        MINISTACK_HOST="127.0.0.1",
        MINISTACK_ACCOUNT_ID=ACCOUNT,
        MINISTACK_REGION=config.region,
        SFTP_ENABLED="0",
        IOT_MTLS_ENABLED="0",
        PERSIST_STATE="1",
        STATE_DIR=str(state / "services"),
        S3_PERSIST="1",
        S3_DATA_DIR=str(state / "s3"),
        LAMBDA_EXECUTOR="local",
        LOG_LEVEL="WARNING",
        DOCKER_HOST=f"unix://{config.run_dir}/not-for-ministack.sock",
        TMPDIR=str(state / "tmp"),
        AWS_ACCESS_KEY_ID="AKIA" + secrets.token_hex(8).upper(),
        AWS_SECRET_ACCESS_KEY=secrets.token_urlsafe(30),
        AWS_DEFAULT_REGION=config.region,
        MOTO_AMIS_PATH=str(images_file),
        MOTO_ENABLE_AMI_VALIDATION="1",
        MOTO_ENABLE_KEYPAIR_VALIDATION="1",
        MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION="1",
    )
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)


class Cloud:
    """Everything that one server process holds. Imports of ministack and moto happen here, after the environment is set."""

    def __init__(self, config: CloudConfig, engine: Engine, root: MachineRoot, base: MapBase, ssh_port: int) -> None:
        from ministack import app as ministack_app

        from . import (
            account,
            alarms,
            authorization,
            autoscaling,
            autoscaling_launch,
            autoscaling_protocol,
            call_record,
            connect_endpoints,
            dicomweb,
            ec2,
            ec2_images,
            ec2_new_things,
            ecr,
            events,
            faults,
            first_uses,
            functions,
            identity,
            imaging,
            imaging_jobs,
            imaging_store,
            invocations,
            multipart_dates,
            persistence,
            profiles,
            queue_limits,
            registry,
            ssm,
            stacks,
        )

        self.config = config
        self.ministack = ministack_app
        self._root, self._base = root, base
        self._identity, self._stacks, self._multipart_dates = identity, stacks, multipart_dates
        self.faults = faults.FaultBoard(config.agent_delay_s, faults.Account(**profiles.lacking(config.profiles, config.region)))
        self.account = account.AccountFacts(self.faults)
        self.profile_settings: dict[str, str] = {}
        self.hypervisor = Hypervisor(config, engine)
        self.room = ec2.Instances(config, self.hypervisor, self.faults, ssh_port, root.key)
        self.endpoints = connect_endpoints.ConnectEndpoints(config, self.room, ssh_port)
        self.keeper = persistence.StateStore(config.state_dir, self._state)
        self.images = ecr.ImageRegistry(config, on_push=lambda: self.keeper.note("ecr", "PutImage"))
        self.registry_door = registry.RegistryDoor(
            registry.registry_socket(config), self.images.authorise, self.images.accept_manifest, self.images.stored
        )
        calls = call_record.CallRecord(config.state_dir / call_record.FILE)
        images = imaging_store.ImageStore(config.state_dir / "healthimaging")
        self.imaging = imaging.HealthImaging(images, imaging_jobs.ImportJobs(config, images), self.faults)
        self.dicomweb = dicomweb.DicomWeb(self.imaging, self._admit)
        machines = autoscaling_launch.Machines(self.room, self._call_ec2, self.faults)
        noted = partial(self.keeper.note, autoscaling_protocol.SERVICE, "Reconcile")
        self.scaling = autoscaling.AutoScaling(machines, self._may, noted, lambda: self.faults.account.refresh_s)
        self.authorizer = authorization.Authorizer(
            self.room.tags_of,
            identity.roles_of_profile,
            calls,
            lambda: self.faults.account.required_tag,
            lambda arn: self.scaling.tags_of(arn) if arn.startswith("arn:aws:autoscaling:") else self.imaging.tags_of(arn),
            self.scaling.resource,
        )
        self.room.may_grant = self._may_grant
        self.room.target_state = self.scaling.target_state
        self._base_image, self._plain_image = ec2_images.base_image(root.key).id, ec2_images.plain_image(root.key).id
        self._run_command = ssm.RunCommand(self.room)
        self._alarms = alarms.Alarms(config.region)
        self._queue_faults = events.QueueFaults(self.faults, config.region)
        self.new_things = ec2_new_things.NewThings()
        self._queue_limits = queue_limits.QueueLimits(self.faults)
        self._first_uses = first_uses.FirstUses()
        self._functions = functions.Functions(self._first_uses)
        self._invocations = invocations.Invocations(self.faults, self._first_uses, calls)
        self._ec2_threads = ThreadPoolExecutor(4, thread_name_prefix="ec2")

    def install(self) -> None:
        """Join the parts; after this, requests may come."""
        from ministack.core import router

        self._identity.seal_root_keys()
        self._identity.remember_ended_sessions()
        self.room.install()
        self.endpoints.install()
        self.images.install()
        self._run_command.install(self._base_image, self._plain_image)
        self.authorizer.install()
        self._alarms.install()
        self._queue_faults.install()
        self._queue_limits.install()
        self._multipart_dates.install()
        self._stacks.install()
        self._functions.install()
        self._invocations.install()
        handlers = self.ministack.SERVICE_HANDLERS
        handlers["ec2"] = self._ec2_handler()
        handlers["ecr"] = self.images.handle
        router.SERVICE_PATTERNS.setdefault("ec2", {"credential_scope": "ec2"})
        self.account.install(handlers)
        self.imaging.install(handlers)
        self.scaling.install(handlers)
        for service, handler in list(handlers.items()):
            handlers[service] = self._guarded(service, handler)

    def restore(self) -> None:
        """Bring back what was persisted, once ministack has loaded its own; then show what exists from the start."""
        self.hypervisor.wait_for_engine()
        self.room.watch()
        saved = self.keeper.load_ours()
        self._identity.install_admin(self._identity.load_admin_keys(self.config.state_dir))
        self._identity.restore_sessions(saved.get("sessions", {}))
        self.images.tokens.update(saved.get("logins", {}))
        self.room.restore_images(saved.get("images", []))
        self.images.seed(self._base)
        self._become_the_account()
        self.account.show_spot_role()
        self.scaling.restore(saved.get("autoscaling", {}))

    def load_base(self) -> None:
        """Bring the machines' base image into the engine, in the background: the front door need not wait for it."""
        threading.Thread(target=self.hypervisor.load_base, args=(self._root,), name="base-image", daemon=True).start()

    def _become_the_account(self) -> None:
        """Make what the profiles of the account are made of; networks live only as long as the server."""
        from moto.ec2.models import ec2_backends

        from . import profiles

        self._identity.as_account()
        ec2, name = ec2_backends[ACCOUNT][self.config.region], self.config.region
        region = profiles.Region(name, ec2, self.endpoints, self.room.private_subnets, self._identity.customer_key)
        self.profile_settings = profiles.prepare(self.config.profiles, region)

    def _may_grant(self, access_key: str, region: str, key: str) -> bool:
        self._identity.as_account()
        context = {"kms:GrantIsForAWSResource": "true", "kms:ViaService": f"ec2.{region}.amazonaws.com"}
        return self.authorizer.may(access_key, "kms:CreateGrant", region, key, context)

    def _may(self, access_key: str, action: str, region: str, arn: str, context: dict[str, Any]) -> bool:
        return self.authorizer.may(access_key, action, region, arn, context)

    def _call_ec2(self, fields: Mapping[str, str], region: str) -> bytes:
        """What EC2 answers to a service of the account that calls it."""
        scope = f"AWS4-HMAC-SHA256 Credential=service/20260101/{region}/ec2/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"authorization": scope, "content-type": "application/x-www-form-urlencoded"}
        _, _, text = self._answer_ec2("POST", "/", headers, urlencode(fields).encode(), {})
        return bytes(text)

    def _state(self) -> dict[str, Any]:
        ours = {"sessions": self._identity.sessions_state(), "logins": self.images.tokens, "images": self.room.images_state()}
        return {**ours, "autoscaling": self.scaling.state()}

    def _guarded(self, service: str, handler: Handler) -> Handler:
        """A service's handler behind the checks and faults that ministack does not know."""
        from ministack.core import iam_actions, iam_evaluator, router

        async def guarded(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Any:
            parameters = query
            if service == "ec2" and method == "POST":
                parameters = {**query, **parse_qs(body.decode(errors="replace"), keep_blank_values=True)}
            action = (iam_actions.extract_iam_action(service, method, path, headers, body, parameters) or ":").partition(":")[2]
            access_key, region = router.extract_access_key_id(headers, query), router.extract_region(headers, query)
            if access_key:
                refused = self.authorizer.check_rest(service, action, body, parameters, access_key, region, path)
                if refused:
                    denied, needed, arn = refused
                    if isinstance(denied, iam_evaluator.AuthError):
                        return iam_actions.access_denied_response(
                            service, needed, "", str(uuid.uuid4()), error_code=denied.code, message=denied.message
                        )
                    return iam_actions.access_denied_response(
                        service,
                        needed,
                        denied.principal_arn,
                        str(uuid.uuid4()),
                        headers=headers,
                        resource_arn=arn,
                        explicit_deny=denied.decision == "Deny",
                    )
            if arn := self.authorizer.denied_by_organisation(service, action, parameters, region):
                refused_on = (
                    f"is not authorized to perform: ec2:{action} on resource: {arn} with an explicit deny in a service control policy"
                )
                message = f"You are not authorized to perform this operation. User: {self._identity.caller_arn(access_key)} {refused_on}."
                return iam_actions.access_denied_response(
                    service, action, "", str(uuid.uuid4()), error_code="UnauthorizedOperation", message=message, headers=headers
                )
            await self._through_the_network(access_key)
            fault = self.faults.take(service, action, unquote_plus(path) + (body.decode(errors="replace") if len(body) < _SMALL else ""))
            if fault:
                _log.warning("ordered fault: %s %s %s", service, action, fault.code or f"is held for {fault.delay_s:.0f} s")
                await self._held(fault)
            unknown = self._not_known_yet(action, parameters) if service == "ec2" else None
            if unknown and not (fault and fault.code):
                fault = Fault(service, action, *unknown, status=400)
            if fault and fault.code:
                _, head, text = iam_actions.access_denied_response(
                    service, action, "", str(uuid.uuid4()), error_code=fault.code, message=fault.message, headers=headers
                )
                return fault.status, head, text
            answer = await handler(method, path, headers, body, query)
            if service == "ec2":
                self.new_things.note(action, answer[0], answer[2])
            self.keeper.note(service, action or method.title())
            return answer

        return guarded

    def _not_known_yet(self, action: str, parameters: dict[str, list[str]]) -> tuple[str, str] | None:
        """Code and message for a call that names what EC2 was not told of yet."""
        if unknown := self.new_things.unknown(action, parameters):
            return unknown
        named = [parameters[field][0] for field in ("IamInstanceProfile.Name", "IamInstanceProfile.Arn") if field in parameters]
        is_use = action == "RunInstances" and parameters.get("DryRun", ["false"])[0].lower() != "true"
        return self._first_uses.profile(named[0]) if named and is_use else None

    async def _through_the_network(self, access_key: str) -> None:
        """Hold a call of a machine whose network was ordered to be cut or slow: TCP waits and goes on when the network is back."""
        machine = self._identity.session_name(access_key)
        while self.faults.is_cut(machine):
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(self.faults.waits(machine))

    async def _held(self, fault: Fault) -> None:
        """Hold a call for as long as its order says, or until all orders are cleared."""
        until = time.monotonic() + fault.delay_s
        with self.faults.holding(fault):
            while time.monotonic() < until and self.faults.is_held(fault):
                await asyncio.sleep(_LOOK_S)

    async def _registry(self, scope: Scope, receive: Receive, send: Send) -> None:
        from .registry import Refusal, login_of, refuse

        await self._through_the_network(self.images.key_of(login_of(scope["headers"])))
        fault = self.faults.take("registry", "Pull" if scope["method"] in ("GET", "HEAD") else "Push", scope["path"])
        if fault:
            _log.warning("ordered fault: registry %s %s", scope["method"], fault.code)
            await self._held(fault)
        if fault and fault.code:
            await refuse(send, Refusal(fault.status, fault.code, fault.message))
        else:
            await self.registry_door(scope, receive, send)

    async def _admit(self, scope: Scope, request: Request) -> Response | None:
        """Why a DICOMweb request is not admitted, or None: signature, permission, network and orders, as of every call."""
        from ministack.core import iam_actions, iam_evaluator, responses, router

        from . import imaging
        from .dicomweb import denied

        def refused(code: str, message: str, principal: str = "", **said: Any) -> Response:
            answer = iam_actions.access_denied_response(
                imaging.SERVICE, action, principal, str(uuid.uuid4()), error_code=code or None, message=message or None, **said
            )
            return denied(answer)

        action, arn = f"{imaging.SERVICE}:{request.action}", imaging.datastore_arn(request.region, request.named["datastore"])
        access_key = router.extract_access_key_id(dict(request.headers), dict(request.query))
        headers = [*scope["headers"], *([(b"x-amz-content-sha256", request.payload.encode())] if request.payload else [])]
        self._identity.as_account()
        responses.set_request_region(request.region)
        raw_path = scope.get("raw_path") or scope["path"].encode()
        iam_evaluator.pin_signed_request(request.method, raw_path.decode("latin-1"), dict(request.query), headers)
        named = {f"{imaging.SERVICE}:{key}": request.named.get(name) for key, name in _UID_KEYS.items()}
        context = {key: value for key, value in named.items() if value}
        judged = iam_evaluator.enforce(access_key, action, imaging.SERVICE, request.region, resource_arn=arn, service_context=context)
        if isinstance(judged, iam_evaluator.AuthError):
            return refused(judged.code, judged.message)
        if judged:
            return refused("", "", judged.principal_arn, resource_arn=arn, explicit_deny=judged.decision == "Deny")
        await self._through_the_network(access_key)
        fault = self.faults.take(imaging.SERVICE, request.action, scope["path"])
        if fault:
            _log.warning("ordered fault: %s %s %s", imaging.SERVICE, request.action, fault.code or f"is held for {fault.delay_s:.0f} s")
            await self._held(fault)
        if fault and fault.code:
            return replace(refused(fault.code, fault.message), status=fault.status)
        return None

    def _ec2_handler(self) -> Handler:
        from ministack.core import router
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.test import Client, EnvironBuilder

        from .ec2_answers import status_of

        client = Client(DomainDispatcherApplication(create_backend_app))

        def call(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Any:
            fields = {**query, **parse_qs(body.decode(errors="replace"))}
            if told := self.account.disks(fields, router.extract_region(headers, query)):
                return told
            self.room.noting(fields, router.extract_access_key_id(headers, query))
            kept = [(name, value) for name, value in headers.items() if name.lower() not in ("content-length", "transfer-encoding", "host")]
            builder = EnvironBuilder(
                path=path, method=method, headers=kept, data=body, query_string=urlencode(query, doseq=True), base_url=self.config.endpoint
            )
            response = client.open(builder)
            out = {name: value for name, value in response.headers.items() if name.lower() not in ("content-length", "date", "server")}
            return status_of(response.status_code, response.get_data()), out, response.get_data()

        self._answer_ec2 = call

        async def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Any:
            # ministack merges the body's fields into the query of a form request; moto reads them from the body
            rest = {} if method == "POST" else query
            return await asyncio.get_running_loop().run_in_executor(self._ec2_threads, call, method, path, headers, body, rest)

        return handle

    # ---------------------------------------------------------------------------------------------------------------------- the door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        from ministack.core import router

        from .dicomweb import is_dicomweb

        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        path = scope.get("path", "")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", [])}
        if path.startswith("/_local/"):
            await self._control(scope, headers, receive, send)
            return
        if own := self._own_door(scope["type"], path):
            await own(scope, receive, send)
            return
        if path.startswith("/_") and not path.startswith(_OPEN_PATHS):
            await _json(send, 404, {"message": "not here"})
            return
        if not path.startswith(_OPEN_PATHS):
            query = parse_qs(scope.get("query_string", b"").decode(errors="replace"), keep_blank_values=True)
            access_key = router.extract_access_key_id(headers, query)
            refused = self._identity.refusal(access_key, anonymous=not access_key and scope.get("method") != "OPTIONS")
            if not refused and self._identity.signed_too_long_ago(headers, time.time()):
                refused = "Signature expired: the caller's clock is wrong."
            if refused:
                # Without a signature, only what is asked for tells which service is: a call of the query protocol has it in its body.
                form = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
                fields = parse_qs((await _body(receive)).decode(errors="replace")) if form else {}
                await self._refuse(scope, headers, {**query, **fields}, refused, send)
                return
            if scope["type"] == "http" and is_dicomweb(path):
                await self.dicomweb(scope, receive, send)
                return
        await self.ministack.app(scope, receive, send)

    def _own_door(self, kind: str, path: str) -> Door | None:
        """What answers a request that is none of an AWS service's HTTP calls: the registry, or the endpoints' tunnels."""
        from .registry import is_registry_path

        if kind == "websocket" and path == TUNNEL_PATH:
            return self.endpoints.tunnel
        return self._registry if kind == "http" and is_registry_path(path) else None

    @staticmethod
    async def _refuse(scope: Scope, headers: dict[str, str], query: dict[str, list[str]], message: str, send: Send) -> None:
        from ministack.core import iam_actions, router

        from . import dicomweb, imaging

        service = router.detect_service(scope.get("method", "GET"), scope["path"], headers, query)
        if dicomweb.is_dicomweb(scope["path"]):
            service = imaging.SERVICE
        code = "MissingAuthenticationToken" if "Missing" in message else "InvalidClientTokenId"
        if service == "s3":
            code = "AccessDenied" if code.startswith("Missing") else "InvalidAccessKeyId"
        if "expired" in message:
            code = "RequestTimeTooSkewed" if service == "s3" else "InvalidSignatureException"
        status, head, body = iam_actions.access_denied_response(
            service, "", "", str(uuid.uuid4()), error_code=code, message=message, headers=headers
        )
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *((name.lower().encode(), str(value).encode()) for name, value in head.items()),
                    (b"date", formatdate(usegmt=True).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _control(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        from .faults import FaultError

        if scope["type"] != "http" or CONTROL_HEADER not in headers:
            await _json(send, 403, {"message": f"send the header {CONTROL_HEADER}: 1"})
            return
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/_local/health"):
            seen = {"base_image": self._base_image, "machines": self.room.overview(), "settings": self.profile_settings}
            await _json(send, 200, {"status": "ready", **seen})
            return
        try:
            body = json.loads(await _body(receive) or b"{}")
            if (method, path) == ("GET", "/_local/registry"):
                await _json(send, 200, {"received_bytes": dict(self.registry_door.received)})
            elif (method, path) == ("GET", "/_local/faults"):
                await _json(send, 200, {"pending": self.faults.pending(), "held": self.faults.held()})
            elif (method, path) == ("POST", "/_local/faults"):
                await _json(send, 200, await self._order(body))
            elif (method, path) == ("DELETE", "/_local/faults"):
                self.faults.clear()
                self.account.show_spot_role()
                await _json(send, 200, {})
            elif method == "POST" and path in ("/_local/instances/lose", "/_local/instances/refuse-ssh"):
                act = self.room.lose if path.endswith("lose") else self.room.refuse_ssh
                await asyncio.get_running_loop().run_in_executor(None, act, body["instance_id"])
                await _json(send, 200, {})
            elif (method, path) == ("POST", "/_local/scans"):
                self.images.plant_scan(body)
                await _json(send, 200, {})
            else:
                await _json(send, 404, {"message": "no such control request"})
        except (FaultError, KeyError, ValueError) as error:
            await _json(send, 400, {"message": str(error)})

    async def _order(self, data: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order. Raises FaultError, KeyError or ValueError for one that makes no sense."""
        from .faults import FOREVER, FaultError

        if self.faults.order_from(data):
            self.account.show_spot_role()
            return {}
        if (answer := self._order_of_account(data)) is not None:
            return answer
        machine = next((str(data[name]) for name in _MACHINE_ORDERS if name in data), "")
        if self.room.find(machine) is None:
            raise FaultError(f"no such order, or no such machine: {', '.join(sorted(data))}")
        if "end_tunnels" in data:
            return {"tunnels": self.endpoints.end_tunnels(machine)}
        if "cut_network" in data:
            self.faults.cut(machine, float(data.get("seconds", FOREVER)))
        elif "slow_network" in data:
            self.faults.cut(machine, float(data.get("seconds", FOREVER)), float(data["delay_s"]))
        elif "interrupt_spot" in data:
            self.room.interrupt(machine, float(data.get("seconds", 120)), str(data.get("action", "terminate")))
        else:
            change = self.room.shrink_disk if "small_disk" in data else self.room.restore_disk
            options = {"mib": int(data["mib"])} if "small_disk" in data else {}
            await asyncio.get_running_loop().run_in_executor(None, lambda: change(machine, str(data["path"]), **options))
        return {}

    def _order_of_account(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out an order that names no machine; None for any other."""
        if "confirm_mail" in data:
            return {"confirmed": self.account.confirm(str(data["confirm_mail"]))}
        if "publish_base" in data:
            self._run_command.publish_base(str(data["publish_base"]) or self._base_image)
            return {}
        if "end_sessions" in data:
            return {"sessions": self._identity.end_sessions(str(data["end_sessions"]))}
        if "end_logins" in data:
            return {"logins": self.images.end_logins()}
        return {"messages": self._queue_faults.redeliver(str(data["redeliver"]))} if "redeliver" in data else None

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        beside: list[asyncio.Task[None]] = []

        async def notice(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.restore()
                start = asyncio.get_running_loop().create_task
                beside.extend((start(self._save_often()), start(self._watch_alarms()), start(self._scale_groups())))
                self.imaging.resume()
            await send(message)

        await self.ministack.app(scope, receive, notice)
        for task in beside:
            task.cancel()
        self.keeper.save_ours()
        self.room.close()

    async def _watch_alarms(self) -> None:
        from .alarms import EVERY_S

        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self._alarms.tick()
            except Exception:
                _log.exception("the alarms could not be looked at")

    async def _scale_groups(self) -> None:
        from .autoscaling_loop import EVERY_S

        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(self.scaling.tick)

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            try:
                self.keeper.save()
            except Exception:
                _log.exception("the state could not be saved")


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _json(send: Send, status: int, data: dict[str, Any]) -> None:
    body = json.dumps(data).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _serve(cloud: Cloud) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    settings = Config()
    settings.bind = [f"127.0.0.1:{cloud.config.port}"]
    settings.loglevel = "WARNING"
    settings.keep_alive_timeout = 75
    settings.graceful_timeout = 2
    settings.shutdown_timeout = 10
    await serve(cast("Any", cloud), settings, shutdown_trigger=end.wait)
    logging.shutdown()
    os._exit(0)  # everything is saved; ministack's worker threads may be waiting for anything


def main() -> None:
    """Serve until told to end. The one argument is the file that commands.py wrote."""
    from .ec2_images import base_images_file

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("local-cloud").setLevel(logging.INFO)
    orders = json.loads(Path(sys.argv[1]).read_text())
    config = CloudConfig.from_json(orders["config"])
    root = MachineRoot(Path(orders["root"]["archive"]), orders["root"]["key"], orders["root"]["description"])
    base = MapBase(**{**orders["base"], "folder": Path(orders["base"]["folder"])})
    (config.state_dir / "tmp").mkdir(exist_ok=True)
    prepare_environment(config, base_images_file(config.state_dir, root.key, root.description))
    link_map_base(base, config.state_dir / "registry")
    cloud = Cloud(config, Engine(**orders["engine"]), root, base, orders["ssh_port"])
    cloud.install()
    cloud.load_base()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(cloud))


if __name__ == "__main__":
    main()
