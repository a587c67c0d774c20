"""ECR's control plane over the real registry: login tokens that remember their principal, and images as they are stored.

Repositories, policies and tags are ministack's; everything about images and logins is answered here.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from ministack.core import iam_evaluator, responses, router
from ministack.services import ecr as ministack_ecr

from . import ecr_lifecycle
from .base_image import MapBase
from .config import ACCOUNT, BASE_REPOSITORY, CloudConfig
from .registry import Refusal, RegistryRequest, drop_repository, garbage_mark, registry_socket

_TOKEN_S: Final = 12 * 3600
_SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED")
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
Json = dict[str, Any]


class ImageRegistry:
    """Images and logins of one cloud. ``tokens`` (hash of the password -> login) is part of the persisted state."""

    def __init__(self, config: CloudConfig, on_push: Callable[[], None]) -> None:
        self._config = config
        self._on_push = on_push
        self.tokens: dict[str, Json] = {}
        self._scans: dict[tuple[str, str], Json] = {}
        self._actions: dict[str, Callable[[Json], Any]] = {
            "DescribeImages": self._describe,
            "ListImages": self._list,
            "BatchGetImage": self._get,
            "BatchDeleteImage": self._delete,
            "PutImage": self._put,
            "DescribeImageScanFindings": self._scan_findings,
        }

    def install(self) -> None:
        """Let repositories name the front door."""
        ministack_ecr._repo_uri = lambda name: f"{self._config.registry_host}/{name}"

    async def handle(self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Any:
        """Answer an ECR call: ours, or ministack's."""
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        data: Json = json.loads(body or b"{}")
        if action == "GetAuthorizationToken":
            return self._give_token(router.extract_access_key_id(headers, query))
        if action in self._actions:
            if data.get("repositoryName") not in ministack_ecr._repositories:
                return _no_repository(str(data.get("repositoryName", "")))
            self._expire(data["repositoryName"])
            return self._actions[action](data)
        if action == "PutLifecyclePolicy" and (wrong := ecr_lifecycle.refusal(str(data.get("lifecyclePolicyText", "")))):
            return responses.error_response_json("InvalidParameterException", wrong, 400)
        answer = await ministack_ecr.handle_request(method, path, headers, body, query)
        if action == "DeleteRepository" and answer[0] == 200:
            drop_repository(self._config, data["repositoryName"])
        return answer

    # -------------------------------------------------------------------------------------------------------------------- logins

    def _give_token(self, access_key: str) -> Any:
        password = secrets.token_urlsafe(48)
        now = time.time()
        self.tokens = {name: login for name, login in self.tokens.items() if login["expires"] > now - _TOKEN_S}
        self.tokens[_hash(password)] = {"key": access_key, "region": responses.get_region(), "expires": now + _TOKEN_S}
        given = {
            "authorizationToken": base64.b64encode(f"AWS:{password}".encode()).decode(),
            "expiresAt": now + _TOKEN_S,
            "proxyEndpoint": self._config.endpoint,
        }
        return responses.json_response({"authorizationData": [given]})

    def _enter(self, password: str | None) -> Json | None:
        """The login of a password, with the emulated account and region set for what follows; None for an unknown one."""
        login = self.tokens.get(_hash(password)) if password else None
        if login is None or login["expires"] < time.time():
            return None
        responses.set_request_account_id(ACCOUNT)
        responses.set_request_region(login["region"])
        return login

    def end_logins(self) -> int:
        """Let all logins be over as if their 12 hours were; how many."""
        now = time.time()
        over = [login for login in self.tokens.values() if login["expires"] > now]
        for login in over:
            login["expires"] = now - 1
        return len(over)

    def key_of(self, password: str | None) -> str:
        """The access key that fetched a login token, empty for none of ours."""
        login = self.tokens.get(_hash(password)) if password else None
        return str(login["key"]) if login else ""

    def authorise(self, password: str | None, wanted: RegistryRequest | None) -> Refusal | None:
        """Why a registry request is refused, or None: no login, no such repository, or no permission of the login's principal."""
        login = self._enter(password)
        if login is None:
            known = password is not None and _hash(password) in self.tokens
            said = "Your authorization token has expired. Reauthenticate and try again." if known else "no basic auth credentials"
            return Refusal(403 if known else 401, "DENIED" if known else "UNAUTHORIZED", said)
        if wanted is None:
            return None
        arn = f"arn:aws:ecr:{login['region']}:{ACCOUNT}:repository/{wanted.name}"
        iam_evaluator._signed_request.set(None)
        iam_evaluator._anonymous.set(False)
        denied = iam_evaluator.enforce(login["key"], f"ecr:{wanted.action}", "ecr", login["region"], resource_arn=arn)
        if denied:
            who = getattr(denied, "principal_arn", "") or "the login's principal"
            return Refusal(403, "DENIED", f"User: {who} is not authorized to perform: ecr:{wanted.action} on resource: {arn}")
        if wanted.name not in ministack_ecr._repositories:
            return Refusal(
                404, "NAME_UNKNOWN", f"The repository with name '{wanted.name}' does not exist in the registry with id '{ACCOUNT}'"
            )
        by_tag = wanted.kind == "manifests" and wanted.action == "BatchGetImage" and not wanted.reference.startswith("sha256:")
        if by_tag and self._holder(wanted.name, wanted.reference) is None:
            return Refusal(404, "MANIFEST_UNKNOWN", f"Requested image not found: {wanted.name}:{wanted.reference}")
        return None

    # -------------------------------------------------------------------------------------------------------------------- pushes

    def accept_manifest(self, password: str | None, wanted: RegistryRequest, body: bytes) -> Refusal | None:
        """Refuse to move a tag of a repository whose tags are immutable."""
        self._enter(password)
        if wanted.reference.startswith("sha256:") or ministack_ecr._repositories[wanted.name].get("imageTagMutability") != "IMMUTABLE":
            return None
        holder = self._holder(wanted.name, wanted.reference)
        if holder and holder["imageDigest"] != f"sha256:{hashlib.sha256(body).hexdigest()}":
            return Refusal(
                400,
                "TAG_INVALID",
                f"The image tag '{wanted.reference}' already exists in the '{wanted.name}' repository and cannot be overwritten",
            )
        return None

    def stored(self, password: str | None, wanted: RegistryRequest, body: bytes, media_type: str) -> None:
        """Record an image that the registry has just taken."""
        self._enter(password)
        self._record(wanted.name, wanted.reference, body, media_type)
        self._on_push()

    def _record(self, name: str, reference: str, body: bytes, media_type: str) -> Json:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        images: list[Json] = ministack_ecr._images.setdefault(name, [])
        image = next((image for image in images if image["imageDigest"] == digest), None)
        if image is None:
            image = {
                "imageDigest": digest,
                "imageTags": [],
                "imageManifest": body.decode(),
                "imageManifestMediaType": media_type or _MANIFEST,
                "imagePushedAt": time.time(),
                "imageSizeInBytes": _size(body, {image["imageDigest"]: image["imageSizeInBytes"] for image in images}),
            }
            images.append(image)
        if not reference.startswith("sha256:"):
            for other in images:
                if reference in other["imageTags"]:
                    other["imageTags"].remove(reference)
            image["imageTags"].append(reference)
        return image

    def seed(self, base: MapBase) -> None:
        """Show the MAP base that was linked into the registry as repository ``monai-aws/base``."""
        responses.set_request_account_id(ACCOUNT)
        responses.set_request_region(self._config.region)
        if BASE_REPOSITORY not in ministack_ecr._repositories:
            ministack_ecr._create_repository(
                {"repositoryName": BASE_REPOSITORY, "tags": [{"Key": "monai-aws:owner", "Value": "local-cloud"}]}
            )
        blob = base.folder / "docker/registry/v2/blobs/sha256" / base.digest[7:9] / base.digest[7:] / "data"
        if self._holder(BASE_REPOSITORY, base.tag) is None:
            self._record(BASE_REPOSITORY, base.tag, blob.read_bytes(), _MANIFEST)

    # ------------------------------------------------------------------------------------------------------------------- questions

    @staticmethod
    def _holder(name: str, tag: str) -> Json | None:
        return next((image for image in ministack_ecr._images.get(name) or [] if tag in image["imageTags"]), None)

    def _match(self, name: str, wanted: Json) -> Json | None:
        for image in ministack_ecr._images.get(name) or []:
            digest_fits = wanted.get("imageDigest") in (None, image["imageDigest"])
            tag_fits = "imageTag" not in wanted or wanted["imageTag"] in image["imageTags"]
            if digest_fits and tag_fits and wanted:
                return dict(image)
        return None

    def _describe(self, data: Json) -> Any:
        name = data["repositoryName"]
        images = [dict(image) for image in ministack_ecr._images.get(name) or []]
        if data.get("imageIds"):
            found = [(wanted, self._match(name, wanted)) for wanted in data["imageIds"]]
            missing = [wanted for wanted, image in found if image is None]
            if missing:
                where = f"within the repository with name '{name}' in the registry with id '{ACCOUNT}'"
                message = f"The image with imageId {json.dumps(missing[0])} does not exist {where}"
                return responses.error_response_json("ImageNotFoundException", message, 400)
            images = list({image["imageDigest"]: image for _, image in found if image}.values())
        status = (data.get("filter") or {}).get("tagStatus", "ANY")
        details = [
            {
                "registryId": ACCOUNT,
                "repositoryName": name,
                "imageDigest": image["imageDigest"],
                **({"imageTags": image["imageTags"]} if image["imageTags"] else {}),
                "imageSizeInBytes": image["imageSizeInBytes"],
                "imagePushedAt": image["imagePushedAt"],
                "imageManifestMediaType": image["imageManifestMediaType"],
                "artifactMediaType": "application/vnd.docker.container.image.v1+json",
            }
            for image in images
            if status == "ANY" or (status == "TAGGED") == bool(image["imageTags"])
        ]
        return responses.json_response({"imageDetails": details})

    def _list(self, data: Json) -> Any:
        status = (data.get("filter") or {}).get("tagStatus", "ANY")
        ids: list[Json] = []
        for image in ministack_ecr._images.get(data["repositoryName"]) or []:
            if image["imageTags"] and status != "UNTAGGED":
                ids += [{"imageDigest": image["imageDigest"], "imageTag": tag} for tag in image["imageTags"]]
            if not image["imageTags"] and status != "TAGGED":
                ids.append({"imageDigest": image["imageDigest"]})
        return responses.json_response({"imageIds": ids})

    def _get(self, data: Json) -> Any:
        name = data["repositoryName"]
        images, failures = [], []
        for wanted in data.get("imageIds", []):
            image = self._match(name, wanted)
            if image is None:
                failures.append(_not_found(wanted))
                continue
            images.append(_shape(name, {**wanted, "imageDigest": image["imageDigest"]}, image))
        return responses.json_response({"images": images, "failures": failures})

    def _put(self, data: Json) -> Any:
        """Put a manifest whose blobs are already there: how a tag is added without pushing."""
        name, manifest = data["repositoryName"], str(data.get("imageManifest", ""))
        media = data.get("imageManifestMediaType") or json.loads(manifest or "{}").get("mediaType") or _MANIFEST
        digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
        reference = data.get("imageTag") or digest
        holder = self._holder(name, reference)
        if holder and holder["imageDigest"] == digest:
            return responses.error_response_json(
                "ImageAlreadyExistsException", f"Image with digest '{digest}' and tag '{reference}' already exists", 400
            )
        if holder and ministack_ecr._repositories[name].get("imageTagMutability") == "IMMUTABLE":
            return responses.error_response_json("ImageTagAlreadyExistsException", f"The image tag '{reference}' already exists", 400)
        status = self._ask_registry("PUT", f"/v2/{name}/manifests/{reference}", manifest.encode(), {"Content-Type": media})
        if status != 201:
            return responses.error_response_json("LayersNotFoundException", "The manifest names layers that were not pushed", 400)
        image = self._record(name, reference, manifest.encode(), media)
        wanted = {"imageDigest": digest, **({"imageTag": data["imageTag"]} if data.get("imageTag") else {})}
        return responses.json_response({"image": _shape(name, wanted, image)})

    def _delete(self, data: Json) -> Any:
        """Delete by digest the image with all its tags, by tag that tag, and the image with its last one (as ECR does)."""
        name = data["repositoryName"]
        deleted, failures = [], []
        for wanted in data.get("imageIds", []):
            images = ministack_ecr._images.get(name) or []
            image = next(
                (image for image in images if (match := self._match(name, wanted)) and match["imageDigest"] == image["imageDigest"]), None
            )
            if image is None:
                failures.append(_not_found(wanted))
                continue
            gone = [wanted["imageTag"]] if "imageTag" in wanted else list(image["imageTags"])
            if set(gone) == set(image["imageTags"]) and (index := ecr_lifecycle.index_of(image, images)):
                reason = f"Requested image referenced by manifest list: [{index}]"
                failures.append({"imageId": wanted, "failureCode": "ImageReferencedByManifestList", "failureReason": reason})
                continue
            deleted += [{"imageDigest": image["imageDigest"], "imageTag": tag} for tag in gone] or [{"imageDigest": image["imageDigest"]}]
            image["imageTags"] = [tag for tag in image["imageTags"] if tag not in gone]
            if not image["imageTags"]:
                self._drop(name, image)
        return responses.json_response({"imageIds": deleted, "failures": failures})

    def _drop(self, name: str, image: Json) -> None:
        ministack_ecr._images[name].remove(image)
        self._ask_registry("DELETE", f"/v2/{name}/manifests/{image['imageDigest']}")
        garbage_mark(self._config).touch()

    def _expire(self, name: str) -> None:
        """Carry out the repository's lifecycle policy: ECR does so within a day, here it has whenever somebody looks."""
        policy = ministack_ecr._lifecycle_policies.get(name)
        for image in ecr_lifecycle.expired(policy, ministack_ecr._images.get(name) or [], time.time()) if policy else []:
            self._drop(name, image)

    # ---------------------------------------------------------------------------------------------------------------------- scans

    def plant_scan(self, scan: Json) -> None:
        """Let the next questions about an image's scan be answered so. Raises ValueError for a scan that makes no sense.

        Nothing here looks for vulnerabilities, so an image without a planted scan was never scanned.
        """
        name, digest, status = str(scan.get("repository", "")), str(scan.get("digest", "")), str(scan.get("status", "COMPLETE"))
        findings = scan.get("findings", [])
        if not name or not digest.startswith("sha256:") or not isinstance(findings, list):
            raise ValueError("a scan needs repository, digest and findings")
        if wrong := [each for each in findings if not isinstance(each, dict) or each.get("severity") not in _SEVERITIES]:
            raise ValueError(f"a finding needs name and severity ({', '.join(_SEVERITIES)}): {wrong[0]}")
        responses.set_request_account_id(ACCOUNT)
        responses.set_request_region(self._config.region)
        if (image := self._match(name, {"imageDigest": digest})) and "manifests" in json.loads(image["imageManifest"]):
            raise ValueError("ECR's basic scan looks at images, not at an index of images: plant it for the image in the index")
        self._scans[name, digest] = {"status": status, "findings": findings, "at": time.time()}

    def _scan_findings(self, data: Json) -> Any:
        name, wanted = data["repositoryName"], data.get("imageId") or {}
        where = f"within the repository with name '{name}' in the registry with id '{ACCOUNT}'"
        image = self._match(name, wanted)
        if image is None:
            message = f"The image with imageId {json.dumps(wanted)} does not exist {where}"
            return responses.error_response_json("ImageNotFoundException", message, 400)
        scan = self._scans.get((name, image["imageDigest"]))
        if scan is None:
            message = f"Image scan does not exist for the image with imageId {json.dumps(wanted)} {where}"
            return responses.error_response_json("ScanNotFoundException", message, 400)
        answer: Json = {
            "registryId": ACCOUNT,
            "repositoryName": name,
            "imageId": {"imageDigest": image["imageDigest"], **wanted},
            "imageScanStatus": {"status": scan["status"], "description": "planted: nothing here looks for vulnerabilities"},
        }
        if scan["status"] == "COMPLETE":
            counts = Counter(finding["severity"] for finding in scan["findings"])
            answer["imageScanFindings"] = {
                "imageScanCompletedAt": scan["at"],
                "vulnerabilitySourceUpdatedAt": scan["at"],
                "findingSeverityCounts": dict(counts),
                "findings": scan["findings"],
            }
        return responses.json_response(answer)

    def _ask_registry(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(registry_socket(self._config)))
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _size(manifest: bytes, others: Mapping[str, int]) -> int:
    """Compressed size of an image in bytes: its layers and its configuration; of an index that of its largest image (as ECR has it)."""
    data = json.loads(manifest)
    if "manifests" in data:
        return max((others.get(str(part.get("digest")), 0) for part in data["manifests"]), default=0)
    parts = [*data.get("layers", []), *([data["config"]] if "config" in data else [])]
    return sum(int(part.get("size", 0)) for part in parts)


def _shape(name: str, wanted: Json, image: Json) -> Json:
    return {
        "registryId": ACCOUNT,
        "repositoryName": name,
        "imageId": wanted,
        "imageManifest": image["imageManifest"],
        "imageManifestMediaType": image["imageManifestMediaType"],
    }


def _not_found(wanted: Json) -> Json:
    return {"imageId": wanted, "failureCode": "ImageNotFound", "failureReason": "Requested image not found"}


def _no_repository(name: str) -> Any:
    message = f"The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'"
    return responses.error_response_json("RepositoryNotFoundException", message, 400)
