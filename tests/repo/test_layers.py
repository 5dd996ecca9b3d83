"""The contracts under [tool.importlinter] hold, and core is light when it runs, too."""

import subprocess
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_see_every_module() -> None:
    # Below an __init__.py, folders without one would be left out, and nobody would hear of it.
    parts = ("core", "train", "serve", "eval")
    graph = grimp.build_graph(*(f"nigaoe.{part}" for part in parts), cache_dir=None)
    files = {path for part in parts for path in (ROOT / "packages" / part / "nigaoe").rglob("*.py")}
    named = {".".join(path.relative_to(ROOT / "packages").with_suffix("").parts[1:]) for path in files}
    assert {name.removesuffix(".__init__") for name in named} <= graph.modules
