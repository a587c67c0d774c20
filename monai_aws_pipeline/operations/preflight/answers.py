"""What a question of the preflight is and what may be answered: states, judgements, and how AWS's refusals become them.

Here belong the words that every question shares. What is asked, and what an answer means, is in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from monai_aws_pipeline.cloud.errors import DENIED, CloudError, code_of, unanswered
from monai_aws_pipeline.errors import NamedError

BOOTSTRAP = "Let an administrator run: monai-aws bootstrap --bucket NAME"
OPERATOR = "Act as the operator role of infra/bootstrap.yaml; if you do, let the administrator update that stack (monai-aws bootstrap)."


class State(StrEnum):
    """How a question was answered. Only an error keeps a deployment from working; what is skipped was not asked, and why is said."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


class PreflightError(NamedError):
    """One question got the wrong answer. ``remedy`` says what to do."""


@dataclass(frozen=True)
class Judgement:
    """What was answered, in the user's words, and what it means. ``remedy`` is empty where there is nothing to do."""

    what: str
    state: State = State.OK
    remedy: str = ""


@dataclass(frozen=True)
class Answer:
    """One check of the report; the fields are those of ``doctor --json``."""

    check: str
    state: State
    what: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The form of the JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """A question. ``asks``: whom and what, for whoever waits. ``ask``: the judgement, a text where all is well, or raises.

    ``remedy`` is for what AWS itself refuses; ``silence`` is what it means when nobody answers.
    """

    check: str
    asks: str
    ask: Callable[[], Judgement | str]
    remedy: str = OPERATOR
    silence: State = State.WARNING


def answer(probe: Probe) -> Answer:
    """Ask one question. What AWS refuses or does not know becomes an error with a remedy."""
    judgement = _judged(probe)
    return Answer(probe.check, judgement.state, judgement.what, judgement.remedy)


def _judged(probe: Probe) -> Judgement:
    try:
        found = probe.ask()
    except (PreflightError, CloudError) as error:
        return Judgement(error.cause, State.ERROR, error.remedy)
    except ClientError as error:
        code = code_of(error)
        return Judgement(f"AWS answered {code} to {probe.asks}", State.ERROR, OPERATOR if code in DENIED else probe.remedy)
    except BotoCoreError as error:
        silent = unanswered(error, probe.asks)
        return Judgement(silent.cause, probe.silence, silent.remedy) if silent else Judgement(str(error), State.ERROR, probe.remedy)
    except ResponseParserError:
        proxy = "Look at HTTPS_PROXY and AWS_ENDPOINT_URL: a proxy or a login page answers in AWS's place."
        return Judgement(f"what answered {probe.asks} is not AWS", State.ERROR, proxy)
    return found if isinstance(found, Judgement) else Judgement(found)


def in_order(answers: Sequence[Answer]) -> bool:
    """Whether nothing keeps a deployment from working."""
    return all(each.state is not State.ERROR for each in answers)
