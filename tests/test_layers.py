"""The layers of docs/architecture.md hold: imports point downwards, and starting is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "dacapo"
LAYERS = [
    ["errors", "geometry"],
    ["config", "options", "arrays", "ops"],
    ["blockwise", "compute_context", "tmp"],
    ["experiments"],
    ["store", "network", "snapshots"],
    ["train", "validate", "predict", "segment", "apply", "upstream_calls", "predict_local"],
    [
        "cli",
        "demo",
        "import_upstream",
        "summary",
        "report",
        "synthetic",
        "testing",
        "plot",
        "upstream_functions",
        "upstream_paths",
        "__init__",
        "__main__",
    ],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# The synthetic volume and the report are leaves that anybody above the kernels may call.
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """First names below `dacapo` of all imports of a file that run, inside functions too."""
    tree = ast.parse(path.read_text())
    found = set()
    skipped = {n for node in ast.walk(tree) if _is_type_checking(node) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        found |= {(n + ".__init__").split(".")[1] for n in names if n == "dacapo" or n.startswith("dacapo.")}
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    """No room imports from one above it."""
    level = LEVEL[room(path)]
    above = {name for name in imported(path) if LEVEL[name] > level}
    assert not above, f"{path.relative_to(SOURCE)} imports {above} from above"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_executes_what_a_file_says(path: Path) -> None:
    """No eval, no pickle, no unsafe YAML; torch.load with weights_only; files short enough to read."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {
                "eval",
                "exec",
                "pickle.load",
                "pickle.loads",
                "yaml.load",
                "yaml.full_load",
                "os.system",
            }
            assert name != "torch.load" or any(k.arg == "weights_only" for k in node.keywords)
    assert len(path.read_text().splitlines()) <= 600


def test_starting_loads_nothing_heavy() -> None:
    """`import dacapo` and `dacapo --help` load no torch, tensorstore, scipy, numba or matplotlib."""
    for code in ("import dacapo", "from dacapo.cli import cli; cli.main(['--help'], standalone_mode=False)"):
        check = f"{code}\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith("[]"), done.stdout


HEAVY = ("torch", "tensorstore", "scipy", "numba", "matplotlib", "xarray", "pydantic", "h5py", "zarr", "daisy")
