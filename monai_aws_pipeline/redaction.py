"""Taking secrets out of text that other programs print, before anyone keeps it: those we know, and everything that looks like one.

``Redactor`` cleans one line, ``Redactor.stream()`` the lines of one stream in order, which also catches what goes over several lines
(private keys, wrapped base64, a known secret that was broken in two). Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit, urlunsplit

REDACTED = "[redacted]"

_START = r"(?<![A-Za-z0-9])"
_KEY = (
    r"(?:secret|password|passwd|passphrase|token|signature|api[_-]?key|access[_-]?key|private[_-]?key|(?<![A-Za-z])auth)"
    r"(?:[_-]?(?:access[_-]?)?(?:key|value|data))?s?"
)
# What stands before the secret is kept (group "kept"), so that a reader sees what was taken out.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        # PEM on one line, and base64 of PEM
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)",
        rf"{_START}LS0tLS1CRUdJTi[A-Za-z0-9+/=_-]*",
        # an Authorization header: one word after its scheme, or the whole line where the scheme has several parts
        r"""(?i)(?P<kept>authorization["']?\s*[=:]\s*["']?)(?:(?:bearer|basic|token)\s+[^\s"',;]+|[^"'\r\n]+)""",
        r"(?i)(?P<kept>\bbearer\s+)[A-Za-z0-9+/_.=~-]{12,}",
        # user information of an address; git@ alone is no secret
        r"""(?P<kept>://)(?!git@)[^/\s"'<>]+(?=@)""",
        # JSON Web Tokens, and base64 of JSON: registry tokens, docker's configuration
        rf"{_START}eyJ[A-Za-z0-9_-]{{6,}}\.[A-Za-z0-9_.-]{{6,}}",
        rf"{_START}eyJ[A-Za-z0-9+/_-]{{24,}}=*",
        rf"{_START}ew[0o]g[A-Za-z0-9+/_-]{{24,}}=*",  # the same, when the JSON is indented
        rf"{_START}QVdTOm[A-Za-z0-9+/_-]{{8,}}=*",  # AWS:… as docker keeps it
        # AWS
        rf"{_START}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])",
        rf"{_START}(?:IQoJb3JpZ2lu|FwoGZXIvYXdz|FQoGZXIvYXdz)[A-Za-z0-9+/=_-]{{8,}}",
        r"""(?i)(?P<kept>x-amz-(?:signature|security-token|credential)=)[^&\s"']+""",
        # tokens with a name of their own: GitHub, GitLab, Hugging Face, npm, PyPI, Slack, Bitbucket, Google, NVIDIA
        rf"{_START}(?:gh[pousr]_[A-Za-z0-9]{{16,}}|github_pat_\w{{16,}}|gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt)-[\w.-]{{16,}})",
        rf"{_START}(?:hf_[A-Za-z0-9]{{20,}}|npm_[A-Za-z0-9]{{20,}}|pypi-[\w-]{{16,}}|xox[abprs]-[\w-]{{10,}}|ATBB\w{{20,}})",
        rf"{_START}(?:AIza[\w-]{{30,}}|nvapi-[\w-]{{20,}})",
        # name = value, and --name value
        rf"""(?i)(?P<kept>{_KEY}["']?\s*[=:]\s*)(?:"[^"]+"|'[^']+'|(?!\[redacted\])[^\s"',;&]{{4,}})""",
        r"""(?i)(?P<kept>(?<!\w)--?(?:password|passphrase|token|secret)\s+)(?!-)(?:"[^"]+"|'[^']+'|[^\s"',;]{4,})""",
    )
)
_ACCESS_KEY = re.compile(rf"{_START}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])")
_SECRET_KEY = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])")
"""AWS's secret access keys look like nothing in particular: they count as one in a line that holds an access key id."""

_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")
_PEM_LINE = re.compile(r"[A-Za-z0-9+/=\s]*|[A-Z][A-Za-z-]+: ?[\w,/+=. -]*")
_PEM_LINES = 200
_BUILD_STEP = re.compile(r"#\d+ (?:\d+\.\d+ )?")
"""docker build --progress plain puts step and seconds before each line."""
_WRAPPED_START = re.compile(r"(?:eyJ|ew[0o]g|QVdTOm|LS0tLS1CRUdJTi|IQoJb3JpZ2lu|FwoGZXIvYXdz|FQoGZXIvYXdz)[A-Za-z0-9+/_-]{30,}={0,2}")
_WIDEST_WRAP = 80  # base64 wraps at 64 or 76 characters; a longer line is one that nobody wrapped
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def without_login(address: str) -> str:
    """An address without user information, query and fragment, as it may be shown to anybody; what is no address stays as it is."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if parts.netloc else address


class Redactor:
    """``secrets``: values to take out wherever they stand; of those with several lines, each line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        self._secrets = sorted((line for line in lines if len(line) >= 6), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """One line without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        if _ACCESS_KEY.search(text):
            text = _SECRET_KEY.sub(REDACTED, text)
        for pattern in _PATTERNS:
            text = pattern.sub(_without, text)
        return text

    def stream(self) -> Callable[[str], str]:
        """A function for the lines of one stream, to be called with each in order."""
        return _Stream(self, self._secrets)


class _Stream:
    """One line after the other; remembers what the line before left open."""

    def __init__(self, redact: Redactor, secrets: list[str]) -> None:
        self._redact = redact
        self._secrets = secrets
        self._pem_lines = 0
        self._wrapped = 0  # length of the lines of a wrapped base64, 0 outside of one
        self._tail = ""

    def __call__(self, text: str) -> str:
        step = _BUILD_STEP.match(text)
        kept = step[0] if step else ""
        line = text[len(kept) :]
        return kept + (self._in_pem(line) or self._in_base64(line.strip()) or self._plain(line))

    def _in_pem(self, line: str) -> str:
        """The marker where the line belongs to a private key."""
        if self._pem_lines:
            self._pem_lines -= 1
            end = _PEM_END.search(line)
            if end:
                self._pem_lines = 0
                return REDACTED + self._redact(line[end.end() :])
            if _PEM_LINE.fullmatch(line.strip()):
                return REDACTED
            self._pem_lines = 0  # the key broke off
            return ""
        begin = _PEM_BEGIN.search(line)
        if begin and not _PEM_END.search(line, begin.end()):
            self._pem_lines = _PEM_LINES
            return self._redact(line[: begin.start()]) + REDACTED
        return ""

    def _in_base64(self, line: str) -> str:
        """The marker where the line is the start of a known kind of base64 or goes on with one of the same width."""
        if self._wrapped and _BASE64.fullmatch(line) and len(line) <= self._wrapped:
            if len(line) < self._wrapped or line.endswith("="):
                self._wrapped = 0
            return REDACTED
        start = _WRAPPED_START.fullmatch(line)
        self._wrapped = len(line) if start and not line.endswith("=") and len(line) <= _WIDEST_WRAP else 0
        return REDACTED if start else ""

    def _plain(self, line: str) -> str:
        """A line on its own, but for a known secret that began on the line before or ends on the next."""
        before, self._tail = self._tail, line
        for secret in self._secrets:
            for cut in range(1, len(secret)):
                if before.endswith(secret[:cut]) and line.startswith(secret[cut:]):
                    line = REDACTED + line[len(secret) - cut :]
                    break
        for secret in self._secrets:
            for cut in range(len(secret) - 1, 5, -1):
                if line.endswith(secret[:cut]):
                    return self._redact(line[:-cut]) + REDACTED
        return self._redact(line)


def _without(found: re.Match[str]) -> str:
    kept = found.groupdict().get("kept") or ""
    return f"{kept}{REDACTED}"
