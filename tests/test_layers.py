"""The shape of the house: imports go downward, `--help` stays light, links lead somewhere."""

import ast
import importlib
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jrecon"

# Bottom to top. A module may import from its own part and from the parts on lower lines; parts on
# one line do not know each other.
LAYERS = (
    ("geometry", "interrupt"),
    ("images", "pictures"),
    ("model",),
    ("render", "metrics", "measure"),
    ("synth",),
    ("learn", "fit"),
    ("io",),
    ("programs",),
    ("reconstructor",),
    ("judge", "overlay"),
    ("candidates", "report"),
    ("video",),
    ("viewer",),
    ("cli",),
    ("__init__", "__main__"),
)
# Files and formats live at the outer edge: what is below it never reads or writes through `io`.
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: pathlib.Path) -> set[str]:
    """Every module that the file imports anywhere, also inside functions and TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the full module path"
            # `from jrecon import x` may name a module: count it as one.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    here = part_of(path)
    assert here in RANK, f"{here} has no layer yet: add it to LAYERS"
    for name in sorted(imported_modules(path)):
        top, _, rest = name.partition(".")
        assert top not in ("experiments", "tests"), f"{path.name} imports {name}"
        there = rest.split(".")[0]
        if top != "jrecon" or there in (here, "__version__"):
            continue
        assert there in RANK, f"{path.name} imports {name}: import from the module that defines it"
        assert RANK[there] < RANK[here], f"{here} may not import {there} ({path.name}: {name})"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.name)
def test_experiments_import_what_exists(path):
    """No test runs most of them, and the type checker is not asked about missing modules."""
    for name in sorted(imported_modules(path)):
        *above, last = name.split(".")
        if not above or above[0] not in ("jrecon", "experiments"):
            continue
        home = ROOT.joinpath(*above)
        if home.with_suffix(".py").is_file() or (home / last).is_dir():
            continue
        whole = home / "__init__.py"
        names = whole.read_text() if whole.is_file() else ""
        assert (home / f"{last}.py").is_file() or last in names, name


def test_layer_test_sees_violations(tmp_path):
    source = tmp_path / "bad.py"
    source.write_text("def f():\n    from jrecon.cli import main\n    import jrecon.io.export\n")
    assert imported_modules(source) == {"jrecon.cli.main", "jrecon.io.export"}


@pytest.mark.parametrize("arguments", (["--help"], ["export", "--help"]))
def test_help_does_not_import_jax(arguments):
    script = f"""
import json, sys
from jrecon.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
heavy = sorted(set(sys.modules) & {{"jax", "flax", "scipy", "trimesh", "optax"}})
sys.stderr.write(json.dumps(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stderr) == []
    assert "usage: jrecon" in done.stdout


def test_public_names_resolve_to_what_type_checkers_see():
    source = (PACKAGE / "__init__.py").read_text()
    seen = {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert seen, "no names under TYPE_CHECKING"
    package: Any = importlib.import_module("jrecon")
    assert seen == package._HOME
    assert set(seen) <= set(dir(package))
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_exist(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"
