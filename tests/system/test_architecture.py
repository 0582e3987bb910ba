"""The structure of the source: packages import in one direction, modules without cycles, and functions are short."""

import ast
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers import ROOT

STAIRCASE = (  # a package imports from itself and from earlier steps
    ("core",),
    ("data", "models"),
    ("stats",),
    ("tasks",),
    ("analysis",),
    ("figures",),
    ("training",),
    ("report",),
    ("runs",),
    ("evaluation",),
    ("export",),
    ("serve",),
    ("sweep",),
    ("commands",),
)
STEPS = {package: step for step, packages in enumerate(STAIRCASE) for package in packages}
MAX_LINES = 60  # of a function

MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted((ROOT / "src" / "patchwork").rglob("*.py"))
}


def imported_modules(tree: ast.Module) -> set[str]:
    """Return the modules of this package that a module imports anywhere, also within functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule in MODULES else str(node.module))
    return {name for name in names if name.split(".")[0] == "patchwork"}


def package(module: str) -> str:
    """Return the package of a module, such as `data`; empty for the modules of `patchwork` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in STEPS else ""


def is_allowed(importer: str, imported: str) -> bool:
    """Return whether a module may import another one: of its own package, or of an earlier step."""
    source, target = package(importer), package(imported)
    if not source or imported == "patchwork":  # the top, which starts the commands, and its version
        return True
    return source == target or (target != "" and STEPS[target] < STEPS[source])


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function; a constructor's list of arguments does not count."""
    start = function.body[0].lineno if function.name == "__init__" else function.lineno
    return function.end_lineno - start + 1


def test_every_package_is_a_step() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "patchwork").glob("*/__init__.py")}
    assert packages == set(STEPS)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_earlier_packages_only(module: str) -> None:
    assert [name for name in sorted(imported_modules(MODULES[module])) if not is_allowed(module, name)] == []


def test_modules_import_without_cycles() -> None:
    graph = {module: imported_modules(tree) - {module, "patchwork"} for module, tree in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises a CycleError that lists the modules of a cycle


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module: str) -> None:
    assert {f.name: num_lines(f) for f in functions(MODULES[module]) if num_lines(f) > MAX_LINES} == {}


@pytest.mark.parametrize("name", ["core", "data", "models", "tasks", "figures", "training", "runs", "evaluation"])
def test_an_import_from_a_later_package_is_found(name: str) -> None:
    source = "def function():\n    from patchwork.commands import app\n"
    (imported,) = imported_modules(ast.parse(source))
    assert imported == "patchwork.commands.app"
    assert not is_allowed(f"patchwork.{name}.module", imported)


def test_data_and_models_do_not_import_each_other() -> None:
    assert not is_allowed("patchwork.data.images", "patchwork.models.vit")
    assert not is_allowed("patchwork.models.vit", "patchwork.data.images")


def test_a_cycle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_the_command_line_is_not_imported_by_packages() -> None:
    assert is_allowed("patchwork.runs.manifest", "patchwork")
    assert not is_allowed("patchwork.core.job", "patchwork.__main__")


def test_a_long_function_is_found_and_the_arguments_of_a_constructor_are_not_counted() -> None:
    def lengths(source: str) -> list[int]:
        return [num_lines(function) for function in functions(ast.parse(textwrap.dedent(source)))]

    statements = "    x = 1\n" * 61
    assert lengths(f"def f():\n{statements}") == [62]
    assert lengths(f"def __init__(\n    self,\n    a,\n):\n{statements}") == [61]
