"""Whether what a build reads is there and readable: models, golden study, and the MAP's base image in its registry. Nothing is fetched.

Registry protocol: https://distribution.github.io/distribution/spec/auth/token/ and the OCI Distribution Specification, "Pulling manifests".
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.objects import looking_into
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.maps import download, models
from monai_aws_pipeline.operations.preflight.answers import Judgement, PreflightError, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

TIMEOUT_SECONDS: Final = 8
DOCKER_HUB: Final = "registry-1.docker.io"
MANIFESTS: Final = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)
BASE: Final = "Set MONAI_AWS_BASE_IMAGE to an image that the build machine can pull."


def source_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Models, golden study, base image."""
    golden = [(download.GOLDEN_STUDY, settings.golden_study), (download.GOLDEN_REFERENCE, settings.golden_reference)]
    return [
        Probe("model", f"for what {download.MODEL.uri} names", lambda: _models(clients, settings)),
        *(Probe(named.what, f"for what {named.uri} names", partial(_file, clients, named, address)) for named, address in golden),
        Probe("MAP base image", "the registry for the image's manifest", lambda: _base_image(clients, settings.base_image)),
    ]


# ------------------------------------------------------------------------------------------------------------------------ files


def _models(clients: Clients, settings: Settings) -> Judgement:
    try:
        asked = models.asked(settings.model_uri, settings.model_sha256)
    except download.ModelError as error:
        return Judgement(str(error), State.ERROR, f"Correct {download.MODEL.uri} and {download.MODEL.sha256}.")
    if not asked:
        return _none_named(download.MODEL)
    found = [_file(clients, download.MODEL, each.uri) for each in asked]
    return next((judgement for judgement in found if judgement.state is State.ERROR), Judgement(", ".join(each.what for each in found)))


def _none_named(named: download.Named) -> Judgement:
    return Judgement(f"{named.uri} is empty", State.SKIPPED)


def _file(clients: Clients, named: download.Named, address: str) -> Judgement:
    if not address:
        return _none_named(named)
    scheme = urlsplit(address).scheme
    try:
        download.look(named, address, looking_into(clients.s3))
    except download.ModelError as error:
        return judge_file(named, scheme, error)
    return Judgement(f"{address} is readable")


def judge_file(named: download.Named, scheme: str, error: download.ModelError) -> Judgement:
    """What it means that a file cannot be read, by the kind of its address."""
    if isinstance(error, download.ModelMissingError):
        return Judgement(str(error), State.ERROR, f"Put the file there, or correct {named.uri}.")
    if scheme == "s3":
        let = "Let an administrator run: monai-aws bootstrap --model-bucket BUCKET/PREFIX (and --kms-key where it has one)"
        return Judgement(str(error), State.ERROR, f"{let}; check {named.uri}.")
    return Judgement(str(error), State.ERROR, f"Check {named.uri}, and this machine's way there (proxy, name resolution).")


# ------------------------------------------------------------------------------------------------------------------ base image


@dataclass(frozen=True)
class Reference:
    """An image's address in parts. ``version``: a tag, or a digest (``sha256:…``)."""

    host: str
    name: str
    version: str

    @classmethod
    def of(cls, address: str) -> Reference:
        """As docker reads it: a first part with a dot or a port is a host; without one it is Docker Hub's."""
        rest, _, digest = address.partition("@")
        first, _, others = rest.partition("/")
        host, name = (first, others) if others and re.search(r"[.:]", first) else ("", rest)
        name, _, tag = name.partition(":")
        if not host:
            host, name = DOCKER_HUB, name if "/" in name else f"library/{name}"
        return cls("registry-1.docker.io" if host == "docker.io" else host, name, digest or tag or "latest")


@dataclass(frozen=True)
class Reply:
    """A registry's answer. ``headers`` by names in small letters."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Ask = Callable[[str, str, Mapping[str, str]], Reply]
"""``ask(method, url, headers)``. Raises OSError where nobody answers."""


def _base_image(clients: Clients, address: str) -> Judgement:
    wanted = Reference.of(address)
    own = urlsplit(clients.ecr.get_authorization_token()["authorizationData"][0].get("proxyEndpoint", "")).netloc
    if wanted.host == own:
        return _in_own_registry(clients, wanted, address)
    if ".dkr.ecr." in wanted.host:
        return Judgement(f"{address} lies in another registry of ECR; whether the build machine may read it is not known", State.SKIPPED)
    try:
        return judge_manifest(address, manifest_status(wanted, ask_registry))
    except OSError as error:
        return Judgement(
            f"{wanted.host} gave no answer ({type(error).__name__}); the build machine asks it by itself",
            State.WARNING,
            f"Check that machines of the build's subnets reach {wanted.host}, or copy the image into ECR and set MONAI_AWS_BASE_IMAGE.",
        )


def _in_own_registry(clients: Clients, wanted: Reference, address: str) -> Judgement:
    which = {"imageDigest" if wanted.version.startswith("sha256:") else "imageTag": wanted.version}
    try:
        clients.ecr.describe_images(repositoryName=wanted.name, imageIds=[which])  # type: ignore[list-item]
    except ClientError as error:
        if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
            raise PreflightError(f"{address} is not in this account's ECR ({code_of(error)})", f"Push it there. {BASE}") from error
        raise
    return Judgement(f"{address} is in this account's ECR")


def manifest_status(wanted: Reference, ask: Ask) -> int:
    """HTTP's status for the manifest, asked as anybody may: with the token that the registry hands out to all, where it wants one."""
    url, headers = f"https://{wanted.host}/v2/{wanted.name}/manifests/{wanted.version}", {"Accept": MANIFESTS}
    first = ask("HEAD", url, headers)
    scheme, _, rest = first.headers.get("www-authenticate", "").partition(" ")
    if first.status != 401 or scheme.lower() != "bearer":
        return first.status
    asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = asked.pop("realm", "")
    if not realm.startswith("https://"):
        return first.status
    given = ask("GET", f"{realm}?{urlencode({'scope': f'repository:{wanted.name}:pull', **asked})}", {})
    if given.status != 200:
        return given.status
    found = json.loads(given.body)
    return ask("HEAD", url, {**headers, "Authorization": f"Bearer {found.get('token') or found.get('access_token')}"}).status


def judge_manifest(address: str, status: int) -> Judgement:
    """What a registry's status says about an image that a build machine pulls without a login."""
    if status == 200:
        return Judgement(f"{address} is readable")
    if status == 429:
        return Judgement(
            f"{address}: the registry takes no more requests of this address for now (429)",
            State.WARNING,
            "Ask again later. Builds meet the same limit: copy the image into ECR and set MONAI_AWS_BASE_IMAGE to it.",
        )
    if status in (401, 403):
        return Judgement(f"{address}: the registry wants a login ({status}), which build machines do not have", State.ERROR, BASE)
    if status == 404:
        return Judgement(f"{address}: the registry does not know it (404)", State.ERROR, BASE)
    return Judgement(f"{address}: the registry answered {status}", State.WARNING, f"Ask again later. {BASE}")


def ask_registry(method: str, url: str, headers: Mapping[str, str]) -> Reply:
    """One request; every status is an answer."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310 - https, see manifest_status
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        return Reply(error.code, {name.lower(): value for name, value in error.headers.items()})
