"""The order of the rooms, and the house rules that reading the source can check."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import dovetail
from dovetail.errors import MissingPackageError
from dovetail.optional import lazy

SOURCE = Path(__file__).parents[1] / "src" / "dovetail"
ORDER = (
    "errors",
    "optional",
    "keys",
    "machine",
    "formats",
    "workload",
    "kernels",
    "networks",
    "data",
    "methods",
    "train",
    "recipe",
    "planning",
    "compression",
    "runtime",
    "hardware",
    "targets",
    "evaluation",
    "search",
    "report",
    "__init__",
    "arguments",
    "cli_chips",
    "cli_engine",
    "cli",
    "__main__",
)
FILES = sorted(SOURCE.rglob("*.py"))
TORCH_FREE = ("dovetail", "dovetail.errors", "dovetail.formats", "dovetail.runtime.session", "dovetail.cli")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the room of every import from dovetail; a name that is no room is imported from the root."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dovetail":
            names = [f"dovetail.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "dovetail":
                there = rest.partition(".")[0]
                yield node.lineno, there if there in (*ORDER, "_native") else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
class TestEveryFile:
    def test_imports_only_from_rooms_above_it(self, path: Path) -> None:
        here = room(path)
        assert here in ORDER, f"{here} is no room; the rooms are {', '.join(ORDER)}"
        for line, there in imported_rooms(ast.parse(path.read_text())):
            if there != "_native" and there != here:
                assert ORDER.index(there) < ORDER.index(here), f"{path}:{line}: {here} may not import {there}"

    def test_imports_nothing_relatively_and_nothing_inside_a_function(self, path: Path) -> None:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for inner in ast.walk(node):
                    assert not isinstance(inner, ast.Import | ast.ImportFrom), f"{path}:{inner.lineno}: move it up"

    def test_never_reads_a_file_that_can_run_code(self, path: Path) -> None:
        text = path.read_text()
        for word in ("pickle.load", "pickle.dump", "Unpickler(", "weights_only=False", "allow_pickle=True"):
            assert word not in text, f"{path}: {word}"

    def test_says_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_every_room_lists_its_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert any(isinstance(target, ast.Name) and target.id == "__all__" for target in assigned), f"{path}: no __all__"


def test_the_names_for_type_checkers_are_the_ones_imported_lazily() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    declared = {alias.name: (node.module or "") for node in imports for alias in node.names if node.col_offset}
    assert sorted(declared) == sorted(dovetail.__all__)
    for name, module in declared.items():
        assert getattr(dovetail, name) is getattr(importlib.import_module(module), name)


def test_no_public_name_is_that_of_a_room() -> None:
    """Importing the room would put its module in the place of the function."""
    assert not set(dovetail.__all__) & set(ORDER)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_no_public_name_is_a_file(path: Path) -> None:
    """`from dovetail.workload import sparsity` must give the function, not the file of that name."""
    package = importlib.import_module(".".join(("dovetail", *path.parent.relative_to(SOURCE).parts)))
    public = [name for name in getattr(package, "__all__", ()) if isinstance(getattr(package, name), ModuleType)]
    assert not public, f"{package.__name__} gives files for {public}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_is_imported_without_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0, f"{module} imports torch"


def test_a_missing_package_is_named_when_it_is_needed() -> None:
    absent = lazy("no_such_package.part")
    with pytest.raises(MissingPackageError, match="pip install no_such_package"):
        absent.anything  # noqa: B018


def test_a_lazy_module_is_the_module() -> None:
    assert lazy("pathlib").Path is Path
