"""What `visor_jax.baselines` compares: reads and checks what its flags name."""

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.restore import read_metadata
from visor_jax.data.pages.pool.handwriting import split_id
from visor_jax.evals.baselines import report as reports
from visor_jax.evals.baselines.conditions import (
    DENSE,
    UNIVERSAL,
    Asked,
    comparison,
)
from visor_jax.evals.baselines.measure import Subject
from visor_jax.evals.baselines.trained_networks import TrainedNetwork
from visor_jax.evals.checkpoints import (
    AskedBudgets,
    EvaluatedCheckpoint,
    check_description,
    check_replicates,
    read_checkpoint,
)
from visor_jax.evals.pages.benchmark import (
    PROMPT_LENGTHS,
    PageBenchmark,
    check_reads_pages,
)
from visor_jax.models.config import VLMConfig
from visor_jax.runtime import output_place
from visor_jax.token_reduction.registry import REDUCERS, name_of
from visor_jax.token_reduction.trained import own_reducer

PAGES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for, as the flags of the same names say it."""

    dense: Sequence[str]
    out: str
    universal: Sequence[str] = ()
    policy: Sequence[str] = ()
    trained: Sequence[str] = ()
    pages: int = PAGES
    split: str = "test"
    methods: Sequence[str] | None = None
    shares: Sequence[str] = ("1/2", "1/4", "1/8", "1/16")
    budgets: str | None = None
    reference: str | None = None
    combine: Sequence[str] = ("visionzip", "vispruner")
    retime: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Everything that is read before any network runs."""

    study: reports.Study
    reference: tuple[Budget, ...]
    policies: list[EvaluatedCheckpoint]


def prepare(options: Options) -> Prepared:
    """Returns the study, each checkpoint read once. Errors: `compare_baselines`."""
    paths = [*options.dense, *options.universal, *options.policy, *options.trained]
    asked = AskedBudgets(universal=options.budgets)
    _check(options, paths, asked)
    shares = [_share(text) for text in options.shares]
    read = {path: read_checkpoint(path, asked) for path in paths}
    check_replicates([each.replicate for each in read.values()])
    dense, universal, policies = (
        [read[path] for path in each]
        for each in (options.dense, options.universal, options.policy)
    )
    budgets = _budgets(universal, policies)
    reference = _reference(universal, budgets, options.reference)
    methods = REDUCERS if options.methods is None else options.methods
    wanted = Asked(
        methods=tuple(methods),
        shares=shares,
        budgets=budgets,
        reference=reference,
        combined=tuple(options.combine) if universal else (),
    )
    visor = universal[0].network.config if universal else None
    seeds = _by_label([read[path] for path in options.trained])
    trained = {
        TrainedNetwork(label, each[0].network.config, each[0].budgets.budgets): each
        for label, each in seeds.items()
    }
    found = comparison(
        *(dense[0].network.config, visor, wanted, PROMPT_LENGTHS),
        trained=[each for network in trained for each in network.conditions()],
    )
    subjects = {DENSE: _subjects(dense)}
    subjects |= {network.name: _subjects(each) for network, each in trained.items()}
    if universal:
        subjects[UNIVERSAL] = _subjects(universal)
    out = output_place.check_folder(options.out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    study = reports.Study(
        comparison=found,
        subjects=subjects,
        benchmark=PageBenchmark.make(options.pages, split=options.split),
        prompt=PROMPT_LENGTHS,
        out=Path(out),
        facts=[(each.replicate.shown_as, each.facts) for each in read.values()],
    )
    return Prepared(study=study, reference=reference, policies=policies)


def _check(options: Options, paths: Sequence[str], asked: AskedBudgets) -> None:
    """Raises ValueError for what cannot be compared; before anything is read."""
    split_id(options.split)
    if options.pages < 1:
        raise ValueError(f"--pages={options.pages} must be at least 1.")
    layout.check_local(options.out, "--out")
    repeated = sorted({path for path in paths if list(paths).count(path) > 1})
    if repeated:
        raise ValueError(f"Checkpoints {repeated} are given more than once.")
    counts = {
        flag: len(each)
        for flag in ("dense", "universal", "policy")
        if (each := getattr(options, flag))
    }
    said = ", ".join(f"--{flag} {count}" for flag, count in counts.items())
    if len(set(counts.values())) != 1:
        raise ValueError(f"Give as many seeds of all these networks ({said}).")
    trained: dict[str, int] = {}
    for path in options.trained:
        # Two recipes under one label are told by their recipes, when all are read.
        what = _check_trained(path, asked)
        trained[what] = trained.get(what, 0) + 1
        if trained[what] > len(options.dense):
            raise ValueError(
                f"--trained has {trained[what]} of {what}, more than there are seeds "
                f"of the others ({said})."
            )
    if options.policy and not options.universal:
        raise ValueError("--policy needs --universal: its network's budgets are rows.")
    for flag in ("dense", "universal", "policy"):
        for path in getattr(options, flag):
            _check_label(flag, path, asked)


def _check_label(flag: str, path: str, asked: AskedBudgets) -> None:
    metadata = read_metadata(path)
    config, _ = check_description(path, metadata, asked)
    kind = "policy" if metadata.get("policy") else metadata["label"]
    if kind != flag:
        raise ValueError(f"--{flag}={path} is a network of the label {kind!r}.")
    _check_pages(path, config, metadata)


def _check_trained(path: str, asked: AskedBudgets) -> str:
    """Returns the label of a network that was trained with a method, and that."""
    metadata = read_metadata(path)
    config, _ = check_description(path, metadata, asked)
    if config.trained_with is None:
        raise ValueError(
            f"--trained={path} was trained with all of its tokens: give it as --dense "
            "or --universal, or train one with a method (configs/token_reduction)."
        )
    _check_pages(path, config, metadata)
    return f"{metadata['label']} ({name_of(own_reducer(config))})"


def _check_pages(path: str, config: VLMConfig, metadata: Mapping[str, Any]) -> None:
    try:
        check_reads_pages(config, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _by_label(
    checkpoints: Sequence[EvaluatedCheckpoint],
) -> dict[str, list[EvaluatedCheckpoint]]:
    """Returns the networks of each label, a seed each, in the order of their seeds."""
    found: dict[str, list[EvaluatedCheckpoint]] = {}
    for each in sorted(checkpoints, key=lambda each: each.replicate.seed):
        found.setdefault(each.replicate.label, []).append(each)
    return found


def _share(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"--shares: {text!r} is no share such as 1/4.") from error


def _budgets(
    universal: Sequence[EvaluatedCheckpoint], policies: Sequence[EvaluatedCheckpoint]
) -> tuple[Budget, ...]:
    """Returns the budgets of VISOR's rows: those asked for, and the policies'."""
    found: dict[Budget, None] = {}
    for each in (*universal[:1], *policies):
        found.update(dict.fromkeys(each.budgets))
    return tuple(found)


def _reference(
    universal: Sequence[EvaluatedCheckpoint],
    budgets: Sequence[Budget],
    asked: str | None,
) -> tuple[Budget, ...]:
    """Returns the budgets that methods are set beside, all among VISOR's rows."""
    if not universal:
        if asked is not None:
            raise ValueError(f"--reference={asked} needs --universal.")
        return ()
    plan = universal[0].network.config.plan
    if asked is None:
        layers = plan.self_layers
        middle = layers[len(layers) // 2 : len(layers) // 2 + 1]
        wanted = (Budget(()), Budget(middle), Budget.all(plan))
        return tuple(b for b in dict.fromkeys(wanted) if b in budgets)
    found = BudgetSet.parse(asked, plan).budgets
    lacking = [budget.name for budget in found if budget not in budgets]
    if lacking:
        raise ValueError(
            f"--reference: {lacking} are not among VISOR's rows "
            f"({', '.join(b.name for b in budgets)}): add them to --budgets."
        )
    return found


def _subjects(checkpoints: Sequence[EvaluatedCheckpoint]) -> list[Subject]:
    return [
        Subject(network=each.network, seed=each.replicate.seed) for each in checkpoints
    ]
