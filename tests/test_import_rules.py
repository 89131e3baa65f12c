"""Who may import whom, where things lie, and what they may be called.

The rules are read off the syntax trees: nothing is imported, so an import inside a
function counts as much as one at the top of a file. Every rule is also given a planted
offence, which it must find.
"""

import ast
import functools
import subprocess
from collections.abc import Iterable, Iterator, Mapping
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
    *("types", "tools", "shared", "lib", "stuff"),
}

# Units whose modules people start; so is every `__main__`. They may import anything
# below them, but no other command.
COMMANDS = (
    "train",
    "evaluate",
    "compare",
    "analyse",
    "generate",
    "answer",
    "sweep",
    "cascade",
    "looks",
    "baselines",
    "serve",
    # Which commands there are.
    "__main__",
)
COMMAND_FOLDERS = ("convert", "timing", "show")

LAYER_0 = (
    "axes",
    "layer_plan",
    "budget_names",
    "budget_file",
    "budget",
    "look",
    "look_cascade",
    "batch",
    "runtime",
)
LAYERS_0_TO_4 = (
    *LAYER_0,
    *("ops", "data", "sharding", "flops", "models"),
    *("token_reduction", "policy", "checkpoints"),
)
_METHODS = (
    *("models.decoder", "models.vlm", "models.config", "ops", "flops.account"),
    # What merges before a projector with a convolution has it work twice.
    "flops.layer_costs",
    *LAYER_0,
)
_STUDIES = (
    *("inference", "policy", "token_reduction", "data", "flops", "models", "sharding"),
    *LAYER_0,
)
_BELOW_THE_TASKS = (
    *LAYERS_0_TO_4,
    *("training", "inference", "evals", "analysis", "plan"),
)
# What each unit may import besides itself, by prefix: from the bottom up.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "axes": (),
    "layer_plan": (),
    "budget_names": (),
    "budget_file": ("layer_plan",),
    "budget": ("layer_plan", "budget_names", "budget_file"),
    "look": ("layer_plan", "budget_names", "budget"),
    "look_cascade": ("look", "runtime"),
    "batch": (),
    # Processes, signals, progress, caches: nothing of what this project is about.
    "runtime": (),
    # The positions of a gate.
    "ops": ("axes", "layer_plan"),
    "data": ("batch", "look", "look_cascade", "runtime"),
    "sharding": ("axes", "runtime"),
    "flops": ("layer_plan", "budget", "look", "models.config", "models.variants"),
    "models": ("ops", "axes", "layer_plan", "batch"),
    # What they may read of an image before the decoder.
    "token_reduction": (*_METHODS, "models.vision.crop_features"),
    # Features come from the streams behind the trunk; scores run the network behind it
    # at every budget, for training and evaluation alike; a budget's cost is its FLOPs.
    # Programs run on the mesh of their parameters.
    "policy": (*_METHODS, "sharding"),
    # Of imported networks: which parameters there are, and values for new ones. What
    # lies beside the weights says how text and pictures are read. A policy is stored
    # beside its network, and read with it.
    "checkpoints": (
        "policy.network",
        *("models.adapters", "models.config", "models.parameters", "models.variants"),
        "sharding",
        *("data.prompts", "data.images", "data.buckets"),
        *LAYER_0,
    ),
    "training": LAYERS_0_TO_4,
    "inference": LAYERS_0_TO_4,
    "evals": _STUDIES,
    # Looks at the streams between layers, as the layers do, while a network answers the
    # questions of a benchmark; drawn as reports are.
    "analysis": (*_STUDIES, "ops", "evals"),
    # Formulas, like those of FLOPs, beside the shapes of what they describe.
    "plan": (*LAYERS_0_TO_4, "training", "inference"),
    "settings": _BELOW_THE_TASKS,
    "tasks": (*_BELOW_THE_TASKS, "settings"),
    "commands": _BELOW_THE_TASKS,
    # What a notebook's cells call.
    "notebook": _BELOW_THE_TASKS,
}
_BELOW_COMMANDS = tuple(MAY_IMPORT)

Graph = Mapping[str, Iterable[str]]


def _modules(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def _name(path: Path) -> str:
    """Returns the module's name below visor_jax: "models.vlm", "" for the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yields every absolute name that is imported, down to the imported object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import, line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def _graph() -> dict[str, set[str]]:
    """Returns {module: modules of this project that it imports}, by short names."""
    paths = {_name(p): p for p in _modules(PACKAGE)}
    return {name: _own_imports(_tree(p), paths) for name, p in paths.items()}


def _own_imports(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    found = set()
    for name in _imports(tree):
        if not name.startswith("visor_jax."):
            continue
        name = name.removeprefix("visor_jax.")
        # `from visor_jax.a import b`: b is a module, or an object of module a.
        found.add(name if name in modules else name.rpartition(".")[0])
    return found - {""}


def _below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _is_command(name: str, tree_of: Mapping[str, ast.Module]) -> bool:
    """Whether people start this module: its unit's, and one that runs when started."""
    unit, _, rest = name.partition(".")
    if rest.endswith("__main__") or name in COMMANDS:
        return True
    return unit in COMMAND_FOLDERS and name in tree_of and _runs(tree_of[name])


def _runs(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for node in tree.body
    )


def _allowed(name: str, command: bool) -> tuple[str, ...]:
    unit = name.partition(".")[0]
    if unit == "":
        return ("inference.loading.load",)
    if command or unit in COMMAND_FOLDERS:
        return (*_BELOW_COMMANDS, unit) if unit in COMMAND_FOLDERS else _BELOW_COMMANDS
    return (unit, *MAY_IMPORT.get(unit, ()))


def wrong_arrows(graph: Graph) -> list[str]:
    """Returns the imports that do not point down."""
    trees = {_name(p): _tree(p) for p in _modules(PACKAGE)}
    commands = {name for name in graph if _is_command(name, trees)}
    broken = []
    for name, imported in graph.items():
        allowed = _allowed(name, name in commands)
        # A command is nobody's library.
        wrong = {i for i in imported if not _below(i, allowed) or i in commands}
        broken += [f"{name or '__init__'} must not import {i}" for i in sorted(wrong)]
    return broken


def module_cycle(graph: Graph) -> str | None:
    """Returns a cycle of modules, None if there is none."""
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> str | None:
        if module in trail:
            return " -> ".join((*trail, module))
        if module in done:
            return None
        for imported in sorted(graph.get(module, ())):
            if found := visit(imported, (*trail, module)):
                return found
        done.add(module)
        return None

    return next((found for m in graph if (found := visit(m, ()))), None)


def unit_cycle(graph: Graph) -> list[str]:
    """Returns the units that import one another in a circle; `__main__` files are not
    of their folder here, since nobody imports them."""
    units: dict[str, set[str]] = {}
    for name, imported in graph.items():
        unit = name if name.endswith("__main__") else name.partition(".")[0]
        targets = {i.partition(".")[0] for i in imported}
        units.setdefault(unit, set()).update(targets - {unit})
    while leaves := {u for u, targets in units.items() if not targets & set(units)}:
        units = {u: t for u, t in units.items() if u not in leaves}
    return sorted(units)


def conditionals(tree: ast.AST) -> list[int]:
    """Returns the lines that use `lax.cond` or `lax.switch`, however imported."""
    names = ("cond", "switch")
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in names
    ]
    wanted = tuple(f"lax.{name}" for name in names)
    return lines + [0 for name in _imports(tree) if name.endswith(wanted)]


def exits(tree: ast.AST) -> list[int]:
    """Returns the lines that end the process, or say that it is to end."""
    calls = ("sys.exit", "os._exit", "exit", "quit")
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in calls)
        or (isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node))
    ] + [0 for name in _imports(tree) if name in ("sys.exit", "os._exit")]


def lacks_of_a_command(tree: ast.Module) -> list[str]:
    """Returns what every command has, from its docstring to its start, and this not."""
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    started = [ast.unparse(n) for n in tree.body if _runs(ast.Module([n], []))]
    wanted = {
        "a docstring with its usage": "python -m visor_jax."
        in (ast.get_docstring(tree) or ""),
        "define_flags()": "define_flags" in functions
        and not functions["define_flags"].args.args,
        "main(arguments)": "main" in functions
        and [a.arg for a in functions["main"].args.args] == ["arguments"],
        "its start": started
        == [
            f"if __name__ == '__main__':\n    command_line.{call}"
            for call in ("begin(define_flags)", "run(main)")
        ],
    }
    return [name for name, there in wanted.items() if not there]


def _third_party(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(_tree(path))}


def _users(package: str) -> set[Path]:
    return {p for p in _modules(PACKAGE) if package in _third_party(p)}


def test_every_unit_has_a_place_in_the_table():
    units = {_name(p).partition(".")[0] for p in _modules(PACKAGE)} - {""}
    unknown = sorted(units - set(MAY_IMPORT) - {*COMMANDS, *COMMAND_FOLDERS})
    assert not unknown, f"{unknown}: add to the table, with the reason for it"


def test_imports_point_down_only():
    broken = wrong_arrows(_graph())
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("axes", "batch"),
        ("runtime.progress", "batch"),
        ("ops.masks", "models.config"),
        ("data.buckets", "inference.answers"),
        ("models.vlm", "budget"),
        ("models.decoder.decoder", "token_reduction.pruning"),
        ("policy.choose", "training.loop"),
        ("checkpoints.manager", "training.state"),
        ("training.loop", "inference.answers"),
        ("inference.answers", "training.state"),
        ("evals.harness", "training.state"),
        ("settings.read", "tasks.run"),
        ("tasks.run", "train"),
        ("tasks.policy", "commands.command_line"),
        ("settings.read", "commands.command_line"),
        ("train", "evaluate"),
        ("timing.engine", "flops.__main__"),
        ("convert.data", "convert.verify"),
        ("plan.__main__", "generate"),
        ("flops.table", "flops.__main__"),
    ],
)
def test_a_planted_arrow_that_points_up_is_found(module, imported):
    graph = _graph()
    # Not there, or not a fault: the case tests nothing.
    assert module in graph
    assert imported not in graph[module]
    planted = graph | {module: {*graph[module], imported}}
    if imported not in planted:
        planted[imported] = set()
    found = set(wrong_arrows(planted)) - set(wrong_arrows(graph))
    assert found == {f"{module} must not import {imported}"}


def pages_in_reports(graph: Graph) -> list[str]:
    """Returns where evaluation knows of pages: any benchmark is as good.

    Apart from `evals.pages`, which is that benchmark and what is told of it alone.
    """
    return [
        f"{name} must not import {i}"
        for name, imported in graph.items()
        if _below(name, ("evals",)) and not _below(name, ("evals.pages",))
        for i in sorted(imported)
        if "pages" in i.split(".")
    ]


def test_only_the_pages_benchmark_knows_of_pages():
    assert not pages_in_reports(_graph())


@pytest.mark.parametrize(
    "module", ["evals.harness", "evals.networks", "evals.timing", "evals.report.rows"]
)
@pytest.mark.parametrize(
    "imported", ["evals.pages.benchmark", "data.pages.questions", "data.pages"]
)
def test_pages_planted_elsewhere_are_found(module, imported):
    graph = _graph()
    assert module in graph
    planted = graph | {module: {*graph[module], imported}}
    assert pages_in_reports(planted) == [f"{module} must not import {imported}"]


def test_no_module_imports_itself_round_a_corner():
    graph = _graph()
    assert module_cycle(graph) is None
    planted = graph | {"ops.masks": {"ops.attention"}}
    assert module_cycle(planted) is not None


def test_packages_form_no_cycle():
    graph = _graph()
    assert not unit_cycle(graph)
    assert unit_cycle(graph | {"axes": {"ops.masks"}, "ops.masks": {"axes"}})


def test_torch_only_in_verify_and_the_parity_tests():
    # They run the reference beside the network: its answers, and its times on a card.
    reference = ("convert/verify.py", "timing/accelerator/torch_reference.py")
    assert _users("torch") <= {PACKAGE / each for each in reference}
    users = {p for p in _modules(ROOT / "tests") if "torch" in _third_party(p)}
    assert all(p.is_relative_to(ROOT / "tests/parity") for p in users)


def test_transformers_only_where_files_of_hugging_face_are_read():
    reference = ("convert/verify.py", "timing/accelerator/torch_reference.py")
    allowed = ("data", "checkpoints/hf", *reference)
    for path in _users("transformers"):
        assert any(path.is_relative_to(PACKAGE / each) for each in allowed), path


def test_config_dicts_stop_at_settings_and_commands():
    trees = {_name(p): _tree(p) for p in _modules(PACKAGE)}
    for path in _users("ml_collections"):
        name = _name(path)
        assert _below(name, ("settings", "commands")) or _is_command(name, trees), name


def test_flags_are_read_and_processes_ended_by_commands_alone():
    trees = {_name(p): _tree(p) for p in _modules(PACKAGE)}
    library = {
        name: tree
        for name, tree in trees.items()
        if not _below(name, ("commands",)) and not _is_command(name, trees)
    }
    assert len(library) > 100
    # A watchdog beside a native call that never returns: there is nobody to raise to.
    allowed = {"runtime.processes", "runtime.peers"}
    assert {name for name, tree in library.items() if exits(tree)} == allowed
    assert not [n for n, t in library.items() if "absl.flags" in set(_imports(t))]


@pytest.mark.parametrize(
    "source",
    [
        "sys.exit(2)",
        "def f():\n    raise SystemExit",
        "raise SystemExit(1)",
        "os._exit(0)",
        "from sys import exit as leave",
    ],
)
def test_a_planted_exit_is_found(source):
    assert exits(ast.parse(source))


def test_all_commands_are_built_alike():
    trees = {_name(p): _tree(p) for p in _modules(PACKAGE)}
    commands = {name: tree for name, tree in trees.items() if _is_command(name, trees)}
    assert len(commands) >= 16
    lacking = {name: lacks_of_a_command(tree) for name, tree in commands.items()}
    assert not {name: found for name, found in lacking.items() if found}


def test_a_command_that_is_built_otherwise_is_found():
    start = "if __name__ == '__main__':\n    main()"
    other = "def define_flags(parser): ...\ndef main(argv): ...\n"
    assert len(lacks_of_a_command(ast.parse(other + start))) == 4


def test_config_files_import_no_library():
    for path in _modules(ROOT / "configs"):
        wrong = _third_party(path) - {"ml_collections", "configs"}
        assert not wrong, f"{path.name} imports {sorted(wrong)}"


def test_conditionals_only_in_gating():
    # Which layers are on is never asked there, but whether any row draws its token.
    allowed = {PACKAGE / "ops/gating.py", PACKAGE / "inference/sampling.py"}
    for path in _modules(PACKAGE):
        if path not in allowed:
            assert not conditionals(_tree(path)), _name(path)


@pytest.mark.parametrize(
    "source",
    [
        "jax.lax.cond(p, f, g)",
        "lax.switch(i, fs)",
        "from jax.lax import switch",
        "nn.switch(i, fs, m)",
        "from jax.lax import cond as c",
    ],
)
def test_a_planted_conditional_is_found(source):
    assert conditionals(ast.parse(source))


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
