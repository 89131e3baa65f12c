"""Who may import whom, where things lie, and what they may be called.

The rules are read off the syntax trees: nothing is imported, so an import inside a
function counts as much as one at the top of a file.
"""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "visor_jax"

VISIBLE_TOP_LEVEL = {
    *("visor_jax", "configs", "launch", "tests"),
    *("setup.py", "README.md", "LICENSE"),
}
VAGUE_NAMES = {
    *("utils", "util", "common", "helpers", "helper", "misc", "core", "base"),
    *("types", "tools", "shared", "lib"),
}

ENTRY_POINTS = (
    *("train", "evaluate", "generate", "answer", "convert", "verify", "sweep"),
    *("convert_data", "view_data"),
    *("step_time", "engine_time", "loader_time", "show"),
    *("settings", "tasks", "answer_flags", "process_flags"),
)
LAYER_0 = ("axes", "layer_plan", "budget", "batch", "runtime")
LAYERS_0_TO_4 = (
    *LAYER_0,
    *("ops", "data", "sharding", "flops", "models"),
    *("token_reduction", "policy", "checkpoints"),
)
_METHODS = (
    *("models.streams", "models.config", "models.token_reducer", "ops"),
    *LAYER_0,
)
_STUDIES = (
    *("inference", "policy", "token_reduction", "data", "flops", "models"),
    *LAYER_0,
)
# What each package or top-level module may import besides itself, by prefix. Entry
# points are not listed: they may import anything but each other.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "axes": (),
    "layer_plan": (),
    "budget": ("layer_plan",),
    "batch": (),
    # Processes, signals, progress, caches: nothing of what this project is about.
    "runtime": (),
    "command_line": ("runtime",),
    "ops": ("axes",),
    "data": ("batch", "runtime"),
    "sharding": ("axes", "runtime"),
    "flops": ("layer_plan", "budget", "models.config", "models.variants"),
    # Formulas, like those of FLOPs, beside the shapes of the step that they describe.
    "plan": (*LAYERS_0_TO_4, "training"),
    "models": ("ops", "axes", "layer_plan", "batch"),
    "token_reduction": _METHODS,
    # Features come from the decoder's prefix; scores run the network behind it at every
    # budget, for training and evaluation alike; a budget's cost is its FLOPs.
    "policy": (*_METHODS, "models.decoder", "models.vlm", "flops.account"),
    # Of imported networks: which parameters there are, and values for new ones.
    "checkpoints": (
        *("models.config", "models.parameters", "models.variants", "sharding"),
        # What lies beside the weights says how text and pictures are read.
        *("data.prompts", "data.images", "data.buckets"),
        *LAYER_0,
    ),
    "training": LAYERS_0_TO_4,
    "inference": LAYERS_0_TO_4,
    "evals": _STUDIES,
    "analysis": _STUDIES,
}
# Entry points share these; `tasks` are the parts of `train` that belong to one task,
# `answer_flags` what answering commands ask.
SHARED_BY_ENTRY_POINTS = (
    *("settings", "command_line", "tasks"),
    *("answer_flags", "process_flags"),
)


def _modules(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def _name(path: Path) -> str:
    """Returns the module's name below visor_jax: "models.vlm", "" for the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path) -> Iterator[str]:
    """Yields every absolute name that the file imports, down to the imported object."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(path: Path) -> set[str]:
    """Returns the imported modules of this project, without the leading package."""
    modules = {_name(p) for p in _modules(PACKAGE)}
    found = set()
    for name in _imports(path):
        if not name.startswith("visor_jax."):
            continue
        name = name.removeprefix("visor_jax.")
        # `from visor_jax.a import b`: b is a module, or an object of module a.
        found.add(name if name in modules else name.rpartition(".")[0])
    return found - {""}


def _below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _third_party(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(path)}


def test_every_unit_has_a_place_in_the_table():
    units = {_name(p).partition(".")[0] for p in _modules(PACKAGE)} - {""}
    unknown = sorted(units - set(MAY_IMPORT) - set(ENTRY_POINTS))
    assert not unknown, f"{unknown}: add to the table, with the reason for it"


def test_imports_point_down_only():
    broken = []
    for path in _modules(PACKAGE):
        name = _name(path)
        unit = name.partition(".")[0]
        if unit == "":
            allowed: tuple[str, ...] = ("inference.loading.load",)
        elif unit in ENTRY_POINTS or name.endswith("__main__"):
            allowed = (*MAY_IMPORT, *SHARED_BY_ENTRY_POINTS)
        else:
            allowed = (unit, *MAY_IMPORT.get(unit, ()))
        wrong = sorted(i for i in _own_imports(path) if not _below(i, allowed))
        broken += [f"{name or '__init__'} must not import {i}" for i in wrong]
    assert not broken, "\n".join(broken)


def test_no_module_imports_itself_round_a_corner():
    graph = {_name(p): _own_imports(p) for p in _modules(PACKAGE)}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for imported in sorted(graph.get(module, ())):
            visit(imported, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_packages_form_no_cycle():
    graph: dict[str, set[str]] = {}
    for path in _modules(PACKAGE):
        unit = _name(path).partition(".")[0]
        targets = {i.partition(".")[0] for i in _own_imports(path)}
        graph.setdefault(unit, set()).update(targets - {unit})
    while True:
        leaves = {unit for unit, targets in graph.items() if not targets & set(graph)}
        if not leaves:
            break
        graph = {u: t for u, t in graph.items() if u not in leaves}
    assert not graph, f"cycle among {sorted(graph)}"


# Runs the reference beside the network here; that is what the command is for.
VERIFY = PACKAGE / "verify.py"


def test_torch_only_in_verify_and_the_parity_tests():
    users = [p for p in _modules(PACKAGE) if "torch" in _third_party(p) and p != VERIFY]
    users += [
        p
        for p in _modules(ROOT / "tests")
        if "torch" in _third_party(p) and p.parent != ROOT / "tests/parity"
    ]
    assert not users


def test_transformers_only_where_files_of_hugging_face_are_read():
    allowed = (PACKAGE / "data", PACKAGE / "checkpoints/hf", VERIFY)
    users = [p for p in _modules(PACKAGE) if "transformers" in _third_party(p)]
    assert not [p for p in users if not any(p.is_relative_to(a) for a in allowed)]


def test_config_dicts_stop_at_the_entry_points():
    allowed = {PACKAGE / f"{name}.py" for name in ENTRY_POINTS}
    allowed |= {p for p in _modules(PACKAGE) if p.name == "__main__.py"}
    users = {p for p in _modules(PACKAGE) if "ml_collections" in _third_party(p)}
    assert not users - allowed


def test_config_files_import_no_library():
    for path in _modules(ROOT / "configs"):
        wrong = _third_party(path) - {"ml_collections", "configs"}
        assert not wrong, f"{path.name} imports {sorted(wrong)}"


def test_conditionals_only_in_gating():
    wrong = []
    for path in _modules(PACKAGE):
        if path == PACKAGE / "ops/gating.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "cond":
                wrong.append(f"{_name(path)}:{node.lineno}")
        wrong += [_name(path) for i in _imports(path) if i.endswith("lax.cond")]
    assert not wrong


def test_package_files_are_empty():
    full = [
        p
        for p in _modules(PACKAGE)
        if p.name == "__init__.py" and p.parent != PACKAGE and p.read_text().strip()
    ]
    assert not full, "one import path per name: leave __init__.py empty"


def test_names_of_files_say_what_they_hold():
    parts = {
        (path, part)
        for path in _modules(PACKAGE)
        for part in path.relative_to(PACKAGE).with_suffix("").parts
    }
    assert not [str(p) for p, part in parts if part.strip("_") in VAGUE_NAMES]


def test_top_level_is_as_fixed():
    names = sorted(p.name for p in ROOT.iterdir() if not p.name.startswith("."))
    try:
        ignored = subprocess.run(
            ["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("git tells which files count")
    if ignored.returncode not in (0, 1):
        pytest.skip("not a git checkout")
    assert set(names) - set(ignored.stdout.split()) == VISIBLE_TOP_LEVEL
