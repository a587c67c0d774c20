"""The application's source: which version it is, and a clean copy of it, from a git address or a folder.

Addresses and refs come from settings; git itself, its login and its errors are in ``git.py``. The packaged
folder is the one that holds ``app.yaml``:
``app_source`` (joined with ``app_dir`` where the source is larger than the application).

A folder inside a git work tree has the commit that last touched it. When it holds changes, or is in no repository, its version is the first
40 digits of its content hash and ``dirty`` is set.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from monai_aws_pipeline.maps import git
from monai_aws_pipeline.maps.git import NoApplicationError, RefMissingError, SourceError, SourceMissingError, SourceRefusedError
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import PROJECT_ROOT

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_SCP_LIKE: Final = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9.-]+:(?!//)(?!\\)[^\s]+")
_REF: Final = re.compile(r"(?!-)[\w./@^~{}-]{1,200}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_NOT_SOURCE: Final = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store", ".env"}
)


@dataclass(frozen=True)
class Source:
    """A clean copy of an application.

    ``commit``: 40 hex digits, a git commit or, when ``dirty``, the start of the content hash. ``content_hash``: SHA-256 over the files.
    """

    path: Path
    commit: str
    dirty: bool
    content_hash: str

    @property
    def observed(self) -> Observed:
        """Its version."""
        return Observed(self.commit, self.dirty)


@dataclass(frozen=True)
class Observed:
    """The version of a source: 40 hex digits of a git commit or, when ``dirty``, of the content of a folder that is none."""

    version: str
    dirty: bool

    def __str__(self) -> str:
        short = self.version[:7]
        return f"content {short} (no commit: outside git, or with changes that are not committed)" if self.dirty else f"commit {short}"


def observe(app_source: str, ref: str, login: git.Login | None = None) -> str:
    """``look`` for whoever wants the digits alone."""
    return look(app_source, ref, login).version


def look(app_source: str, ref: str, login: git.Login | None = None) -> Observed:
    """The current version of a source, without copying it.

    For a folder and the ref ``HEAD`` that is the working folder as it is; any other ref, and any address, is read from git. ``login`` is
    for a private repository.
    Raises SourceError of the kind that fits.
    """
    _check_ref(ref)
    if _is_address(app_source):
        return Observed(_resolve_remote(app_source, ref, login), dirty=False)
    folder = _local_folder(app_source)
    repository = _repository_of(folder)
    if ref != "HEAD":
        if repository is None:
            raise RefMissingError(f"{app_source} is not in a git repository, so it has no ref {ref!r}; set MONAI_AWS_APP_REF=HEAD")
        return Observed(_commit_of(repository, folder, ref), dirty=False)
    return Observed(*_version_of_folder(folder, repository))


def folder_of(app_source: str, ref: str, app_dir: str) -> Path | None:
    """The application's folder where it can be read as it is, without a copy; None where git holds it. Raises SourceError."""
    return None if ref != "HEAD" or _is_address(app_source) else _local_folder(app_source) / _inside(app_dir)


def checkout(
    app_source: str, ref: str, app_dir: str, target: Path, login: git.Login | None = None, *, needs_app_yaml: bool = True
) -> Source:
    """Copy the application into ``target``, which must not exist or be empty, and return it.

    Files keep their executable bit and nothing else; a version control folder, caches and ``.env`` are left out. Raises SourceError; with
    ``needs_app_yaml`` off, a folder that holds no ``app.yaml`` anywhere is returned as it is.
    """
    _check_ref(ref)
    inside = _inside(app_dir)
    if target.exists() and any(target.iterdir()):
        raise SourceError(f"{target} is not empty")
    if _is_address(app_source):
        commit, dirty = _checkout_remote(app_source, ref, inside, target, login), False
    else:
        folder = _local_folder(app_source)
        repository = _repository_of(folder)
        if ref != "HEAD":
            if repository is None:
                raise RefMissingError(f"{app_source} is not in a git repository, so it has no ref {ref!r}; set MONAI_AWS_APP_REF=HEAD")
            commit, dirty = _commit_of(repository, folder, ref), False
            _export(repository, _in_repository(repository, folder / inside), commit, target)
        else:
            commit, dirty = _version_of_folder(folder, repository)
            chosen = folder / inside
            if not chosen.is_dir():
                raise NoApplicationError(f"{app_source} has no folder {app_dir!r}; set MONAI_AWS_APP_DIR to the one with app.yaml")
            _copy_files(chosen, _relative_files(chosen, repository), target)
    if not (target / "app.yaml").is_file():
        found = sorted(str(path.parent.relative_to(target)) for path in target.rglob("app.yaml"))[:5]
        hint = f"; app.yaml lies in: {', '.join(found)} (set MONAI_AWS_APP_DIR)" if found else ""
        if found or needs_app_yaml:
            raise NoApplicationError(f"the application folder holds no app.yaml{hint}")
    return Source(target, commit, dirty, content_hash(target))


def content_hash(folder: Path) -> str:
    """SHA-256 in hex over the relative names, executable bits and bytes of the files of a folder."""
    return _hash_files(folder, sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()))


# --------------------------------------------------------------------------------------------------------------------- folders


def _local_folder(app_source: str) -> Path:
    folder = Path(app_source).expanduser()
    folder = (folder if folder.is_absolute() else PROJECT_ROOT / folder).resolve()
    if not folder.is_dir():
        raise SourceMissingError(
            f"there is no folder {app_source}; MONAI_AWS_APP_SOURCE is a git address, or a path (a relative one from the project's folder)"
        )
    return folder


def _repository_of(folder: Path) -> Path | None:
    """Root of the git work tree a folder lies in; None when it is in none, or git is not installed."""
    if not shutil.which("git"):
        return None
    done = git.run(["-C", str(folder), "rev-parse", "--show-toplevel"], trusted=_ours(folder))
    if done.returncode == 0 and done.stdout.strip():
        return Path(done.stdout.strip())
    if "dubious ownership" in done.stderr:
        raise SourceRefusedError(
            f"{folder} belongs to another user, and git does not read such a repository. If you trust it: "
            f"git config --global --add safe.directory {folder}"
        )
    return None


def _ours(folder: Path) -> bool:
    """Whether a folder is part of this project, whose code is running already: a different owner is no further risk then."""
    return folder == PROJECT_ROOT or PROJECT_ROOT in folder.parents


def _version_of_folder(folder: Path, repository: Path | None) -> tuple[str, bool]:
    if repository is not None:
        status = git.text(["-C", str(folder), "status", "--porcelain", "--untracked-files=all", "--", "."], trusted=_ours(folder))
        log = git.run(["-C", str(folder), "log", "-1", "--format=%H", "HEAD", "--", "."], trusted=_ours(folder))
        commit = log.stdout.strip()
        if not status.strip() and log.returncode == 0 and _COMMIT.fullmatch(commit):
            return commit, False
    return _hash_files(folder, _relative_files(folder, repository))[:40], True


def _relative_files(folder: Path, repository: Path | None) -> list[Path]:
    """The files that are source: what git tracks or would, or everything but caches where there is no git."""
    if repository is not None:
        command = ["-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."]
        names: Iterable[Path] = (Path(name) for name in git.text(command, trusted=_ours(folder)).split("\0") if name)
    else:
        names = (path.relative_to(folder) for path in folder.rglob("*"))
    wanted = {name for name in names if not _NOT_SOURCE & set(name.parts)}
    return sorted(name for name in wanted if (folder / name).is_file() or (folder / name).is_symlink())


def _copy_files(folder: Path, names: Iterable[Path], target: Path) -> None:
    for name in names:
        source = folder / name
        if source.is_symlink() and not source.resolve().is_relative_to(folder.resolve()):
            raise SourceRefusedError(f"{name} is a link out of the application folder; put the file itself there")
        if not source.is_file():
            raise SourceRefusedError(f"{name} is a link to nothing")
        if source.stat().st_size > MAX_FILE_BYTES:
            raise SourceRefusedError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB; a model belongs to MONAI_AWS_MODEL_URI")
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _hash_files(folder: Path, names: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name.as_posix()}\0{int(os.access(path, os.X_OK))}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


# ------------------------------------------------------------------------------------------------------------------------- git


def _is_address(app_source: str) -> bool:
    """Whether a source is a git address. Raises SourceRefusedError for one that is not allowed."""
    if app_source.startswith("-") or any(ord(letter) < 32 for letter in app_source):
        raise SourceRefusedError("MONAI_AWS_APP_SOURCE is neither a path nor a git address")
    if "::" in app_source.partition("/")[0]:
        raise SourceRefusedError("git helpers such as 'ext::' run commands and are refused; use https:, ssh:, git: or file:")
    scheme, found, rest = app_source.partition("://")
    if found:
        if scheme not in git.ALLOWED.split(":"):
            raise SourceRefusedError(f"'{scheme}:' is not allowed for MONAI_AWS_APP_SOURCE; use https:, ssh:, git: or file:")
        user = rest.partition("/")[0].rpartition("@")[0]
        if ":" in user or (user and scheme == "https"):
            raise SourceRefusedError(
                "MONAI_AWS_APP_SOURCE holds credentials, which would end in logs; remove them and put them into Secrets Manager "
                f"({git.SETTING})"
            )
        return True
    if Path(app_source).expanduser().exists() or (PROJECT_ROOT / app_source).exists():
        return False
    return bool(_SCP_LIKE.fullmatch(app_source))


def _check_ref(ref: str) -> None:
    if not _REF.fullmatch(ref) or ".." in ref:
        raise SourceRefusedError("MONAI_AWS_APP_REF is not a git ref: a branch, a tag, a full commit, or HEAD")


def _inside(app_dir: str) -> PurePosixPath:
    path = PurePosixPath(app_dir)
    if path.is_absolute() or ".." in path.parts or "\0" in app_dir:
        raise SourceRefusedError("MONAI_AWS_APP_DIR must be a folder inside the source, without '..'")
    return path


def _in_repository(repository: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(folder.resolve().relative_to(repository.resolve()).as_posix())


def _commit_of(repository: Path, folder: Path, ref: str) -> str:
    """The commit that last touched a folder, seen from a ref."""
    trusted = _ours(folder)
    asked = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    found = git.run(["-C", str(repository), *asked], trusted=trusted)
    if found.returncode or not _COMMIT.fullmatch(found.stdout.strip()):
        raise RefMissingError(f"the repository has no commit {ref!r}; check MONAI_AWS_APP_REF")
    where = str(_in_repository(repository, folder))
    commit = git.text(["-C", str(repository), "log", "-1", "--format=%H", found.stdout.strip(), "--", where], trusted=trusted).strip()
    return commit if _COMMIT.fullmatch(commit) else found.stdout.strip()


def _resolve_remote(address: str, ref: str, login: git.Login | None) -> str:
    if _COMMIT.fullmatch(ref):
        return ref
    patterns = ["HEAD"] if ref == "HEAD" else [f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}", ref]
    lines = git.text(["ls-remote", "--", address, *patterns], address=address, login=login).splitlines()
    found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        if _COMMIT.fullmatch(found.get(name, "")):
            return found[name]
    raise RefMissingError(f"the repository has no branch or tag {ref!r}; check MONAI_AWS_APP_REF (a commit must be given in full)")


def _checkout_remote(address: str, ref: str, inside: PurePosixPath, target: Path, login: git.Login | None) -> str:
    commit = _resolve_remote(address, ref, login)
    with scratch("monai-aws-clone") as folder:
        clone = folder / "clone.git"
        git.text(["init", "--quiet", "--bare", str(clone)])
        one = git.run(["-C", str(clone), "fetch", "--quiet", "--depth=1", "--no-tags", "--", address, commit], address=address, login=login)
        if one.returncode:  # a server that does not hand out a commit by its name
            everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            git.text(
                ["-C", str(clone), "fetch", "--quiet", "--", address, *everything],
                address=address,
                login=login,
            )
            if git.run(["-C", str(clone), "cat-file", "-e", f"{commit}^{{commit}}"]).returncode:
                raise RefMissingError(f"the repository has no commit {commit}; check MONAI_AWS_APP_REF")
        _export(clone, inside, commit, target)
    return commit


def _export(repository: Path, inside: PurePosixPath, commit: str, target: Path) -> None:
    """Write the files of a folder at a commit. git makes the tar; links out of the folder and devices are refused when it is unpacked."""
    where = "" if str(inside) == "." else str(inside)
    trusted = _ours(repository)
    kind = git.run(["-C", str(repository), "cat-file", "-t", f"{commit}:{where}"], trusted=trusted)
    if kind.stdout.strip() != "tree":
        raise NoApplicationError(f"commit {commit[:12]} has no folder {where or '.'}; set MONAI_AWS_APP_DIR to the one with app.yaml")
    with scratch("monai-aws-export") as folder:
        git.text(["-C", str(repository), "archive", "--format=tar", f"--output={folder / 'app.tar'}", f"{commit}:{where}"], trusted=trusted)
        unpacked = folder / "app"
        unpacked.mkdir()
        try:
            with tarfile.open(folder / "app.tar") as archive:
                archive.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise SourceRefusedError(f"the application holds a file that is not allowed: {error}") from error
        _copy_files(unpacked, _relative_files(unpacked, None), target)
