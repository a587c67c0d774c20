"""The UI of one deployment on the embedded AWS: the demo's, or one of your own beside it, with your own settings.

Here belong whose settings count, which is a pure function, and what keeps deployments apart: each has a folder of its own with its
DAGSTER_HOME (so that lineages do not mix) and its operator's profile, and takes bucket and repository from its own stack. What a person may
set are settings; the way into AWS is always that of the embedded one, whatever account the shell is logged in to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from botocore.exceptions import ConnectionError as UnreachableError
from pydantic_settings import DotEnvSettingsSource

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import stack_name, stack_outputs, stack_parameters
from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses
from monai_aws_pipeline.demo.steps import DEPLOYMENT, UI_PORT, DemoError, Workplace, operator_environment, read_variables
from monai_aws_pipeline.settings import PROJECT_ROOT, Settings, load_settings

PREFIX: Final = "MONAI_AWS_"
NAME: Final = f"{PREFIX}DEPLOYMENT"
BUCKET: Final = f"{PREFIX}BUCKET"
REPOSITORY: Final = f"{PREFIX}ECR_REPOSITORY"
_OF_ONE_DEPLOYMENT: Final = (NAME, f"{PREFIX}OWNER", BUCKET, REPOSITORY)
_OF_ONE_APPLICATION: Final = (f"{PREFIX}APP_", f"{PREFIX}MODEL_", f"{PREFIX}GOLDEN_")
_NOT_INHERITED: Final = (PREFIX, "AWS_", "DAGSTER_HOME")


def chosen_settings(
    exported: Mapping[str, str], env_file: Mapping[str, str], given: Mapping[str, str], sourced: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The settings of the UI: what was exported, then what ``.env`` says, then what embedded AWS and demo have written (``given``).

    What a shell has exported by reading one of our own files (``sourced``) is nobody's wish, but for the deployment's name. Of another
    deployment than the wanted one neither bucket nor repository is taken, and nothing of the example where an application is named.
    """
    read = sourced or {}
    said = {name: value for name, value in exported.items() if name.startswith(PREFIX) and (name == NAME or read.get(name) != value)}
    own = {name: value for name, value in env_file.items() if name.startswith(PREFIX)}
    deployment = said.get(NAME) or own.get(NAME) or given.get(NAME) or DEPLOYMENT
    if own.get(NAME, deployment) != deployment:
        own = _without(own, _OF_ONE_DEPLOYMENT)
    own |= said
    rest = {name: value for name, value in given.items() if name.startswith(PREFIX)}
    if rest.get(NAME) != deployment:
        rest = _without(rest, _OF_ONE_DEPLOYMENT)
    if read.get(NAME) == deployment:
        rest |= {name: value for name, value in read.items() if name.startswith(PREFIX)}
    if any(name.startswith(_OF_ONE_APPLICATION) for name in own):
        rest = _without(rest, _OF_ONE_APPLICATION)
    return {**rest, **own, NAME: deployment}


def _without(settings: Mapping[str, str], beginnings: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if not name.startswith(beginnings)}


def open_ui(place: Workplace, exported: Mapping[str, str], env_file: Path, port: int | None, report: Report, seconds: float = 120) -> str:
    """Start the UI of the deployment that the settings name; returns its address. Raises DemoError, SettingsError, DagsterProcessError.

    Changes this process's environment to the embedded AWS's, so that boto3 reads it.
    """
    embedded, demo = read_variables(place.state / "env"), place.environment()
    if not embedded and not demo:
        raise DemoError("There is no embedded AWS here yet.", "Run: make demo, or sudo -E monai-aws local up")
    files = [demo, *map(read_variables, place.env_files())]
    sourced = next((file for file in files if file and file.get("DAGSTER_HOME") == exported.get("DAGSTER_HOME")), {})
    chosen = chosen_settings(exported, read_dotenv(env_file), embedded | demo, embedded | sourced)
    load_settings(**{name.removeprefix(PREFIX).lower(): value for name, value in chosen.items()})
    inherited = {name: value for name, value in exported.items() if not name.startswith(_NOT_INHERITED)}
    if demo and demo.get(NAME) == chosen[NAME]:
        of_aws = {name: value for name, value in demo.items() if not name.startswith(PREFIX)}
        _refuse_another(chosen, demo[BUCKET], demo[REPOSITORY])
        home, environment = place.home, {**of_aws, **chosen}
    else:
        own = place.of(chosen[NAME])
        home, environment = own.home, _as_operator(own, embedded, chosen)
        report(f"Your shell as the operator of {chosen[NAME]}:  set -a; . {own.env_file}; set +a")
    report(f"deployment {chosen[NAME]}, bucket {environment[BUCKET]}, DAGSTER_HOME {home}")
    dagster = DagsterProcesses(home)
    address = dagster.start(environment, port or UI_PORT, report, seconds, inherited=inherited, exact=port is not None)
    if dagster.portal:
        report(f"the portal answers at {dagster.portal}/")
    return address


def read_dotenv(path: Path) -> dict[str, str]:
    """A person's ``.env``, read as the settings read it; names in capitals."""
    return {name.upper(): value for name, value in DotEnvSettingsSource(Settings, env_file=path).env_vars.items() if value is not None}


def _as_operator(own: Workplace, embedded: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The environment of the operator of a deployment beside the demo's; also written down for the user's shell."""
    deployment = chosen[NAME]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        os.environ.pop(name)  # of whatever account the shell is logged in to
    os.environ.update(embedded)
    try:
        administrator = Clients(embedded["AWS_DEFAULT_REGION"])
        outputs = stack_outputs(administrator.cloudformation, stack_name(deployment))
        parameters = stack_parameters(administrator.cloudformation, stack_name(deployment))
    except UnreachableError as error:
        raise DemoError("The embedded AWS does not answer.", "Run: make demo, or sudo -E monai-aws local up") from error
    if "OperatorRoleArn" not in outputs:
        raise DemoError(
            f"There is no deployment {deployment} on the embedded AWS.",
            f"Make it, in a shell of its administrator (set -a; . {own.state / 'env'}; set +a), with {NAME}={deployment}: "
            "monai-aws bootstrap --bucket NAME --allow-plain-http. "
            f"Or open the demo's UI: {NAME}={DEPLOYMENT} make ui",
        )
    _refuse_another(chosen, outputs["Bucket"], parameters["EcrRepository"])
    own.root.mkdir(parents=True, exist_ok=True)
    operator = operator_environment(
        embedded, deployment, outputs, parameters["EcrRepository"], parameters["Owner"], own.root / "aws-config"
    )
    environment = {**operator, **chosen, "DAGSTER_HOME": str(own.home)}
    own.write_environment(environment, f"To act as the operator of {deployment}")
    return environment


def _refuse_another(chosen: Mapping[str, str], bucket: str, repository: str) -> None:
    """Refuse settings that would lead a deployment to the bucket or the repository of another. Raises DemoError."""
    for name, right in ((BUCKET, bucket), (REPOSITORY, repository)):
        if chosen.get(name, right) != right:
            raise DemoError(
                f"{name} is {chosen[name]}, and deployment {chosen[NAME]} has {right} on the embedded AWS.",
                f"Leave {name} out of the shell and of .env: make ui takes it from the deployment's stack.",
            )


def dotenv_file() -> Path:
    """Where the processes of Dagster read ``.env``."""
    return PROJECT_ROOT / ".env"
