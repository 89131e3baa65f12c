"""What is compared: every method at several numbers of tokens, and VISOR's budgets.

A condition is a network, a budget of it, and what drops image tokens. Methods stand on
the dense network, at shares of the image's tokens:

    before the decoder       keep=1/4: every layer sees a quarter of them
    between its layers       average=1/4 of them, in the mean over layers

and at the most tokens whose LLM FLOPs are not above those of some of VISOR's budgets.
Layers are the authors', scaled to the depth; where so few tokens cannot be reached
with them, the first layers there are; where not even so, the condition is refused.
Networks that were trained with a method stand as they were trained.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from visor_jax.budget import Budget
from visor_jax.evals.baselines.family import Family, ImpossibleError, llm_flops
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.models.config import VLMConfig
from visor_jax.token_reduction.registry import BEFORE, NONE, REDUCERS

DENSE, UNIVERSAL = "dense", "universal"
# Of conditions, in the order in which they are measured and shown.
VISOR, AUTO, TRAINED, INSIDE, EARLY, CONTROL, COMBINED = (
    "visor",
    "auto",
    "trained",
    "inside",
    "before",
    "control",
    "combined",
)
SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16)
# Of the sheet that shows which tokens stay.
SHOWN_SHARE = 1 / 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One row of the comparison.

    network: "dense", "universal" or the name of a `TrainedNetwork`. kind: one of those
    above, or "dense". reduce: text of the registry, "none" for every token. share: of
    the tokens that it was made for. matched: the budget of VISOR whose LLM FLOPs it was
    made for. shown: whether the sheet shows it. label: of a network that was trained
    with the method, None for others.
    """

    network: str
    kind: str
    budget: Budget
    reduce: str = NONE
    share: float | None = None
    matched: str | None = None
    shown: bool = False
    label: str | None = None

    @property
    def method(self) -> str:
        """The method's name without its settings."""
        return self.reduce.partition(":")[0]

    @property
    def name(self) -> str:
        """Names the row: no other has it."""
        parts = [f"VISOR {self.budget.name}"] if self.kind in (VISOR, COMBINED) else []
        parts += [] if self.reduce == NONE else [self.reduce]
        text = " + ".join(parts) or DENSE
        if self.label is None:
            return text
        # The label is said where it says more than the method.
        usual = self.label == f"stage:{self.method}"
        return f"{text}, trained" + ("" if usual else f" as {self.label}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be compared.

    methods: names of the registry. shares: of the image's tokens. budgets: of the
    universal network. reference: those of them at whose LLM FLOPs methods are tried,
    and with which they are combined. combined: methods that are, at combined_shares.
    """

    methods: Sequence[str]
    shares: Sequence[float] = SHARES
    budgets: Sequence[Budget] = ()
    reference: Sequence[Budget] = ()
    combined: Sequence[str] = ()
    combined_shares: Sequence[float] = (1 / 2, 1 / 4)

    def __post_init__(self) -> None:
        """Raises ValueError for methods that nobody knows, or shares that are none."""
        unknown = sorted({*self.methods, *self.combined} - set(REDUCERS))
        if unknown:
            raise ValueError(
                f"Unknown token reduction {unknown}: there are {', '.join(REDUCERS)} "
                "(`python -m visor_jax.show.reducers`)."
            )
        wrong = [x for x in (*self.shares, *self.combined_shares) if not 0 < x <= 1]
        if wrong:
            raise ValueError(f"Shares of the tokens {wrong} must be above 0, up to 1.")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All conditions, and why others are not among them: {what: why}."""

    conditions: tuple[Condition, ...]
    refused: dict[str, str]


def comparison(
    dense: VLMConfig,
    universal: VLMConfig | None,
    asked: Asked,
    prompt: PromptLengths,
    trained: Iterable[Condition] = (),
) -> Comparison:
    """Returns what is compared, the dense network first.

    Args:
      universal: None for no VISOR. prompt: the lengths that FLOPs are counted for.
      trained: of networks that were trained with a method (`trained_networks`).

    Raises:
      ValueError: if two networks would be one row.
    """
    whole = Budget.all(dense.plan)
    found = [Condition(network=DENSE, kind=DENSE, budget=whole, shown=True)]
    found += [
        Condition(network=UNIVERSAL, kind=VISOR, budget=b, shown=b in asked.reference)
        for b in asked.budgets
    ]
    found += trained
    there, refused = {each.method for each in found}, {}
    for name in asked.methods:
        if REDUCERS[name].is_trained and name in there:
            continue
        why = _why_not(name, prompt)
        if why is None:
            family = Family(name, dense, prompt)
            found += _of_shares(family, whole, asked.shares, refused)
            found += _of_references(family, whole, universal, asked, refused)
        else:
            refused[name] = why
    for name in asked.combined if universal is not None else ():
        family = Family(name, universal, prompt)
        found += _combinations(family, asked, refused)
    return Comparison(tuple(_without_twins(found)), refused)


def _why_not(name: str, prompt: PromptLengths) -> str | None:
    if REDUCERS[name].is_trained:
        return "it is trained: it needs a network of its own (--trained)"
    if name == "base_view" and prompt.crops == 1:
        return "the images are one crop each: there are no tiles to leave off"
    return None


def _kind(name: str) -> str:
    entry = REDUCERS[name]
    if entry.source == "a control":
        return CONTROL
    return EARLY if entry.where == BEFORE else INSIDE


def _of_shares(
    family: Family,
    budget: Budget,
    shares: Sequence[float],
    refused: dict[str, str],
) -> Iterator[Condition]:
    made: dict[float, str] = {}
    for share in shares:
        try:
            made[share] = family.at(round(share * family.prompt.image_tokens))
        except ValueError as error:
            refused[f"{family.name} at {share:g} of the tokens"] = str(error)
    shown = min((s for s in made if s >= SHOWN_SHARE), default=None)
    for share, spec in made.items():
        yield Condition(
            network=DENSE,
            kind=_kind(family.name),
            budget=budget,
            reduce=spec,
            share=share,
            shown=share == shown,
        )


def _of_references(
    family: Family,
    budget: Budget,
    universal: VLMConfig | None,
    asked: Asked,
    refused: dict[str, str],
) -> Iterator[Condition]:
    """Yields the method at the LLM FLOPs of each reference but the largest."""
    largest = max(asked.reference, key=lambda each: each.size, default=None)
    for reference in asked.reference if universal is not None else ():
        if reference == largest and len(asked.reference) > 1:
            continue
        most = llm_flops(universal, reference, NONE, family.prompt)

        def fits(spec: str, most: int = most) -> bool:
            return llm_flops(family.config, budget, spec, family.prompt) <= most

        try:
            spec = family.most_that(fits)
            why = "even with the fewest tokens it takes more"
        except ImpossibleError as error:
            spec, why = None, str(error)
        if spec is None:
            refused[f"{family.name} at the LLM FLOPs of {reference.name}"] = why
            continue
        yield Condition(
            network=DENSE,
            kind=_kind(family.name),
            budget=budget,
            reduce=spec,
            matched=reference.name,
        )


def _combinations(
    family: Family, asked: Asked, refused: dict[str, str]
) -> Iterator[Condition]:
    for budget in asked.reference:
        for share in asked.combined_shares:
            try:
                spec = family.at(round(share * family.prompt.image_tokens))
            except ValueError as error:
                refused[f"VISOR + {family.name} at {share:g}"] = str(error)
                continue
            yield Condition(
                network=UNIVERSAL,
                kind=COMBINED,
                budget=budget,
                reduce=spec,
                share=share,
                shown=share == max(asked.combined_shares),
            )


def _without_twins(found: Sequence[Condition]) -> Iterator[Condition]:
    """Yields the conditions; the same again adds what it was made for to the first."""
    by_name: dict[str, Condition] = {}
    for each in found:
        first = by_name.get(each.name)
        if first is not None and first.network != each.network:
            raise ValueError(f"Two networks would be one row: {each.name!r}.")
        if first is None:
            by_name[each.name] = each
        elif first.matched is None:
            by_name[each.name] = dataclasses.replace(first, matched=each.matched)
    return iter(by_name.values())
