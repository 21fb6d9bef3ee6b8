"""The house's imports go one way, and each heavy library has its one door."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "LTX_2_MLX"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

# Which rooms a room may import from, besides itself. Errors and sizes are open to all.
BASE = {"errors", "files", "shapes", "invocation", "_version"}
MATHEMATICS = {"ops", *BASE}
NETWORKS = {"models", "layers", *MATHEMATICS}
SERVICES = {"runtime", "media", "checkpoints", "diffusion"}
LIBRARY = {"planning", *SERVICES, *NETWORKS}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "_version": set(),
    "invocation": set(),
    "shapes": {"errors"},
    "ops": BASE,
    "layers": MATHEMATICS,
    "models": {"layers", *MATHEMATICS},
    "diffusion": MATHEMATICS,
    "runtime": MATHEMATICS,
    "media": {"runtime", *MATHEMATICS},
    "pages": BASE,
    "checkpoints": NETWORKS,
    "planning": {"ops", *SERVICES, *BASE},
    "pipelines": {"pages", *LIBRARY},
    "api": {"pipelines", *LIBRARY},
    "calls": {"api"},
    "__main__": {"cli"},
    "training": {"pipelines", *LIBRARY},
    "verify": {"pipelines", *LIBRARY},
    "development": {"pipelines", "verify", *LIBRARY},
    "bench": {"pipelines", *LIBRARY},
    "cli": {"bench", "pages", "pipelines", "verify", *LIBRARY},
    # The door: it loads BLAS first, and every public call when it is asked for.
    "": {"_version", "runtime"},
}
# Library -> the modules or folders that may import it.
DOORS = {
    "mlx_lm": ("checkpoints/gemma3.py", "checkpoints/gemma4.py", "checkpoints/chat.py", "checkpoints/chat_gemma4.py"),
    "torch": ("checkpoints/convert.py",),
    "typer": ("cli",),
}
# Not a network, but the protocol of all: open to rooms that know no network.
PROTOCOLS = "LTX_2_MLX.models.interfaces."
SILENT = ("ops", "layers", "models", "diffusion")
MACHINE_WORDS = re.compile(r"/work/|/root/|/home/\w|/Users/\w|\.\./shared|\bissue #?\d", re.IGNORECASE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module's full name, and whether the import stands inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: imports are written in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_imports_only_from_rooms_below_its_own(path):
    here = room(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "LTX_2_MLX" and len(parts) > 1 and not (here == "planning" and module.startswith(PROTOCOLS)):
            assert parts[1] == here or parts[1] in ALLOWED[here], f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name)
def test_heavy_library_has_one_door(path):
    for module, inside in imports(path):
        library = module.split(".")[0]
        if path in SCRIPTS and (library == "typer" or path.stem.startswith("bench")):
            # What measures us against torch needs torch.
            continue
        if library in DOORS:
            doors = [PACKAGE / door for door in DOORS[library]]
            assert path in doors or path.parent in doors, f"{name(path)} imports {module}"
        if library == "torch":
            assert inside, f"{name(path)} imports torch outside a function"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_package_never_imports_scripts_or_tests(path):
    assert not {module.split(".")[0] for module, _ in imports(path)} & {"scripts", "tests"}


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in SILENT], ids=name)
def test_mathematics_reads_and_prints_nothing(path):
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "open", "input"}
    libraries = {module.split(".")[0] for module, _ in imports(path)}
    assert not libraries & {"os", "subprocess", "pathlib", "rich", "av", "PIL", "typer", "logging"}


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) not in ("cli", "training")], ids=name)
def test_library_prints_nothing_by_itself(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name(path)}, line {node.lineno}"


TEXTS = [
    path
    for folder in ("LTX_2_MLX", "scripts", "tests", "docs", "weights")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".ipynb") and path != Path(__file__).resolve()
]


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_text_speaks_of_no_machine_of_ours(path):
    found = MACHINE_WORDS.search(path.read_text())
    assert found is None, f"{name(path)} says {found.group()!r}"


def test_importing_the_package_loads_no_heavy_module():
    import subprocess
    import sys

    code = "import sys, LTX_2_MLX; print(*({'av', 'mlx.core', 'torch', 'mlx_lm', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_can_be_imported():
    import LTX_2_MLX

    for public in LTX_2_MLX.__all__:
        assert getattr(LTX_2_MLX, public) is not None
    assert set(LTX_2_MLX.__all__) <= set(dir(LTX_2_MLX))
    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = LTX_2_MLX.nothing_like_that


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_operations_know_the_forms_of_the_cpu(path):
    if path.is_relative_to(PACKAGE / "ops"):
        return
    assert not [module for module, _ in imports(path) if module.startswith("LTX_2_MLX.ops.cpu")]


def test_one_module_asks_for_the_device():
    users = [name(path) for path in MODULES if "mx.default_device(" in path.read_text(encoding="utf-8")]
    assert users == ["LTX_2_MLX/ops/device.py"]
