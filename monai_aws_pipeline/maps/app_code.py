"""An application's Python files, read and never run: what they import, call and name, each with its file and line.

Here belongs reading; what follows from it is said in ``imports``, ``code_traps`` and ``doctor``. Files that never go into the image (the
folder ``golden``) are not read. Everything is bounded, because the files come from somebody else's repository.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from monai_aws_pipeline.maps.golden import FOLDER as GOLDEN_FOLDER
from monai_aws_pipeline.maps.spec.study_contract import python_files

ENTRY_POINT: Final = "__main__.py"
_CATCH_IMPORTS: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_LOADERS: Final = frozenset({"importlib.import_module", "__import__", "runpy.run_module"})
_FILE_NAME: Final = re.compile(r"[\w./-]*?(\w[\w-]*\.py)")
"""A text that is nothing but the name of a Python file, as ``runpy.run_path`` and ``subprocess.run`` are given."""
_NAME_CHARACTERS: Final = 200
_TRIES: Final = "optional_import"
"""MONAI's own way to import what may be missing: ``optional_import("itk")``."""


@dataclass(frozen=True)
class Import:
    """One import statement. ``module``: absolute, as Python would look it up; ``names`` of ``from module import …``.

    ``optional``: the application does without, because it is tried or stands under a condition. ``impossible``: relative, in a file that
    is in no package when ``python3 FOLDER`` starts the application.
    """

    module: str
    names: tuple[str, ...]
    file: str
    line: int
    optional: bool = False
    impossible: bool = False


@dataclass(frozen=True)
class Unreadable:
    """A file that is no Python here. ``line`` is 0 where it is not known; ``certain``: it is none for the MAP's Python either."""

    file: str
    line: int
    why: str
    certain: bool


@dataclass(frozen=True)
class Call:
    """A call by its full name as far as imports tell it: ``PIL.Image.open``."""

    name: str
    file: str
    line: int
    node: ast.Call


@dataclass(frozen=True)
class AppCode:
    """What was read. ``files``: relative names of all Python files; ``modules``: names that they can be imported by from the folder.

    ``changes_path``: the code touches ``sys.path``, so that any folder may hold modules of its own.
    """

    folder: Path
    files: tuple[str, ...] = ()
    trees: Mapping[str, ast.Module] = field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = ()
    imports: tuple[Import, ...] = ()
    modules: frozenset[str] = frozenset()
    changes_path: bool = False

    @property
    def top_modules(self) -> frozenset[str]:
        """The first parts of its own modules' names."""
        return frozenset(name.partition(".")[0] for name in self.modules)

    def is_own(self, module: str) -> bool:
        """Whether a name starts with a module or package of the application's own."""
        return module.partition(".")[0] in self.top_modules

    def reachable(self) -> frozenset[str]:
        """Files that the entry point leads to by its imports or by naming them; all of them where there is no entry point."""
        if ENTRY_POINT not in self.files:
            return frozenset(self.files)
        by_file: dict[str, list[Import]] = {}
        for each in self.imports:
            by_file.setdefault(each.file, []).append(each)
        seen: set[str] = set()
        waiting = [ENTRY_POINT]
        while waiting:
            file = waiting.pop()
            if file in seen:
                continue
            seen.add(file)
            waiting += self._files_named_in(file)
            for each in by_file.get(file, ()):
                for name in (each.module, *(f"{each.module}.{part}" for part in each.names)):
                    waiting += self._files_of(name)
        return frozenset(seen)

    def _files_named_in(self, file: str) -> list[str]:
        tree = self.trees.get(file)
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)) if tree else ()
        names = {found[1] for text in texts if len(text) < _NAME_CHARACTERS and (found := _FILE_NAME.fullmatch(text))}
        return [each for each in self.files if each.rpartition("/")[2] in names]

    def _files_of(self, module: str) -> list[str]:
        """The files that importing a module of the application's own runs: each package on the way, and the module."""
        found = []
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            place = "/".join(parts[:count])
            found += [each for each in (f"{place}.py", f"{place}/__init__.py") if each in self.files]
            if self.changes_path:
                found += [file for file in self.files if file.endswith((f"/{place}.py", f"/{place}/__init__.py"))]
        return found

    def lacks(self, each: Import) -> tuple[str, ...]:
        """Names that an import takes from a module of the application's own which has none of them, as far as reading can tell."""
        place = each.module.replace(".", "/")
        file = next((file for file in (f"{place}/__init__.py", f"{place}.py") if file in self.trees), "")
        bound = None if self.changes_path or not file else _bound(self.trees[file])
        if bound is None:
            return ()
        return tuple(name for name in each.names if name != "*" and name not in bound and f"{each.module}.{name}" not in self.modules)

    def imports_of(self, *modules: str) -> list[Import]:
        """The statements that import one of these modules or something below it."""
        return [each for each in self.imports if _is_below(each, modules)]

    def calls(self) -> Iterator[Call]:
        """Every call whose name can be told."""
        for file, tree in self.trees.items():
            aliases = _aliases(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and (name := _dotted(node.func, aliases)):
                    yield Call(name, file, node.lineno, node)

    def names(self) -> Iterator[tuple[str, str, int]]:
        """Every name and attribute that the code uses or imports: (name, file, line)."""
        for file, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Name):
                    yield node.id, file, node.lineno
                elif isinstance(node, ast.Attribute):
                    yield node.attr, file, node.lineno
                elif isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        yield alias.name, file, node.lineno

    def texts(self) -> Iterator[tuple[str, str, int]]:
        """Every constant text: (text, file, line)."""
        for file, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value, file, node.lineno

    def first_use(self, name: str) -> tuple[str, int] | None:
        """File and line of the first use of a name."""
        return next(((file, line) for found, file, line in self.names() if found == name), None)


def read(folder: Path, python: str = "") -> AppCode:
    """Read the Python files of an application. ``python``: the MAP's own, such as ``3.12``; empty: this one's."""
    trees: dict[str, ast.Module] = {}
    unreadable: list[Unreadable] = []
    files = []
    for path in python_files(folder):
        name = path.relative_to(folder).as_posix()
        if name.startswith(f"{GOLDEN_FOLDER}/"):
            continue
        files.append(name)
        tree, wrong = _parse(path, name, python)
        if tree is not None:
            trees[name] = tree
        if wrong is not None:
            unreadable.append(wrong)
    found = [each for name, tree in trees.items() for each in _imports(tree, name)]
    modules = set(_modules(files, _binaries(folder)))
    changes_path = any(_touches_path(tree) for tree in trees.values())
    if changes_path:
        modules |= {part for name in modules for part in name.split(".")}
    return AppCode(folder, tuple(files), trees, tuple(unreadable), tuple(found), frozenset(modules), changes_path)


def _touches_path(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "path" and isinstance(node.value, ast.Name) and node.value.id == "sys"
        for node in ast.walk(tree)
    )


def _parse(path: Path, name: str, python: str) -> tuple[ast.Module | None, Unreadable | None]:
    here = sys.version_info[:2]
    wanted = _version(python) or here
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        # Newer syntax than this process's Python knows is not wrong by itself: the MAP's may be newer.
        line = error.lineno or 0 if isinstance(error, SyntaxError) else 0
        return None, Unreadable(name, line, _why(error), certain=wanted <= here)
    except (RecursionError, MemoryError) as error:
        return None, Unreadable(name, 0, type(error).__name__, certain=False)
    if wanted < here:
        try:
            ast.parse(content, feature_version=wanted)
        except SyntaxError as error:
            return tree, Unreadable(name, error.lineno or 0, _why(error), certain=True)
    return tree, None


def _why(error: Exception) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return "".join(char for char in said if char.isprintable())[:120] or "not Python"


def _version(python: str) -> tuple[int, int] | None:
    major, dot, minor = python.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def _binaries(folder: Path) -> Iterator[str]:
    """Compiled modules, by the name that they are imported by."""
    for path in sorted(folder.rglob("*.so"))[:100]:
        yield (path.relative_to(folder).parent / path.name.partition(".")[0]).as_posix()


def _modules(files: Iterable[str], binaries: Iterable[str]) -> Iterator[str]:
    for name in [*(file.removesuffix(".py") for file in files), *binaries]:
        parts = [part for part in name.split("/") if part != "__init__"]
        for count in range(1, len(parts) + 1):
            yield ".".join(parts[:count])


# ------------------------------------------------------------------------------------------------------------------------- imports


def _imports(tree: ast.Module, file: str) -> Iterator[Import]:
    package = file.split("/")[:-1]
    for node, optional in _statements(tree.body, optional=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), file, node.lineno, optional)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            if node.level > len(package):
                yield Import("." * node.level + (node.module or ""), names, file, node.lineno, optional, impossible=True)
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            yield Import(".".join([*base, *([node.module] if node.module else [])]), names, file, node.lineno, optional)
        elif isinstance(node, ast.Call):
            name, first = _dotted(node.func, {}), node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and all(map(str.isidentifier, first.value.split("."))):
                if name.rpartition(".")[2] == _TRIES:
                    yield Import(first.value, (), file, node.lineno, optional=True)
                elif name in _LOADERS:
                    yield Import(first.value, (), file, node.lineno, optional)


def _statements(body: Iterable[ast.stmt], *, optional: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements and calls, each with whether the application may do without it; what is for type checkers alone is left out."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, optional
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            negated = isinstance(node.test, ast.UnaryOp)
            yield from _statements(node.body if negated else node.orelse, optional=optional)
            continue
        conditional = isinstance(node, ast.Match) or (isinstance(node, ast.If) and not _is_main_guard(node.test))
        guarded = (isinstance(node, ast.Try | ast.TryStar) and _catches_imports(node)) or _suppresses(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                inner = optional or conditional or (guarded and not _is_final(node, child))
                yield from _statements([child], optional=inner)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from _statements(child.body, optional=True)
            else:
                yield from ((part, optional or conditional) for part in ast.walk(child) if isinstance(part, ast.Call))


def _is_main_guard(test: ast.expr) -> bool:
    return "__name__" in ast.unparse(test)


def _catches_imports(node: ast.Try | ast.TryStar) -> bool:
    return any(handler.type is None or _CATCH_IMPORTS & set(_names_in(handler.type)) for handler in node.handlers)


def _suppresses(node: ast.stmt) -> bool:
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call)
        and _dotted(item.context_expr.func, {}).rpartition(".")[2] == "suppress"
        and _CATCH_IMPORTS & {name for argument in item.context_expr.args for name in _names_in(argument)}
        for item in node.items
    )


def _is_final(node: ast.stmt, child: ast.stmt) -> bool:
    return isinstance(node, ast.Try | ast.TryStar) and child in node.finalbody


def _names_in(node: ast.expr) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr


def _is_below(each: Import, modules: Iterable[str]) -> bool:
    reached = [each.module, *(f"{each.module}.{name}" for name in each.names)]
    return any(name == module or name.startswith(f"{module}.") for name in reached for module in modules)


# --------------------------------------------------------------------------------------------------------------------------- names

_MAKES_NAMES: Final = frozenset({"globals", "vars", "locals", "exec", "setattr", "__getattr__", "*"})


def _bound(tree: ast.Module) -> frozenset[str] | None:
    """Every name that a module binds anywhere, in functions too; None where it makes names in ways that reading does not show."""
    found = {"__name__", "__file__", "__doc__", "__path__", "__package__", "__spec__", "__loader__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            found.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            found.add(node.rest or "")
        elif isinstance(node, ast.Global):
            found.update(node.names)
    return None if found & _MAKES_NAMES else frozenset(found)


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Names of a file and what its imports make of them: ``md`` → ``monai.deploy.core``, ``Image`` → ``PIL.Image``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """The full name of a function, empty where it is no plain name; a method of something unknown is ``.METHOD``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(aliases.get(node.id, node.id))
    elif parts:
        parts.append("")
    return ".".join(reversed(parts))


def decorators(code: AppCode) -> Iterator[tuple[str, str, int]]:
    """Full names of all decorators: (name, file, line)."""
    for file, tree in code.trees.items():
        aliases = _aliases(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for each in node.decorator_list:
                    target = each.func if isinstance(each, ast.Call) else each
                    if name := _dotted(target, aliases):
                        yield name, file, each.lineno
