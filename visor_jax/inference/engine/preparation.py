"""From a request to its sample, with what it asks of its answer, checked."""

import dataclasses
from collections.abc import Mapping

from visor_jax.budget import Budget
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.engine.packed_prompts import PreparedRequest
from visor_jax.inference.engine.program_shapes import ALSO_USED, ProgramShapes
from visor_jax.inference.engine.shown_crops import ShownCrops
from visor_jax.inference.routing.cascade import CASCADE, Cascade, is_cascade
from visor_jax.inference.routing.choose_budgets import AUTO

_TWO_CASCADES = (
    "Crops that look twice ('auto@...') do so in one budget: name it, and leave "
    "cascades of budgets out; or name the crops."
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """What the answers of an engine's requests have in common.

    sampling: of requests that say nothing of it. has_key: whether the engine has a key
    for random draws. chooses: whether its router chooses budgets ("auto"). cascades:
    that requests may ask for, by what they call them. cascade: of all that name no
    budget; None if they have another router. crops: what they are shown of an image.
    """

    crops: ShownCrops
    shapes: ProgramShapes
    sampling: Sampling
    has_key: bool
    chooses: bool
    cascades: Mapping[str, Cascade] = dataclasses.field(default_factory=dict)
    cascade: Cascade | None = None

    def __post_init__(self) -> None:
        self._check_sampling(self.sampling, has_key=self.has_key)
        if self.cascade is not None and self.crops.cascade is not None:
            raise ValueError(_TWO_CASCADES)

    @property
    def processor(self) -> Processor:
        return self.crops.processor

    def prepare(self, number: int, request: Request, limit: int) -> PreparedRequest:
        """Returns the request, read and tokenised.

        Args:
          limit: most tokens of its answer, if it says no other number.

        Raises:
          ValueError: for what cannot be read, is too long, or cannot be answered as it
            asks.
          OSError: for images that cannot be read.
        """
        options = request.options
        if options.max_new_tokens is not None:
            limit = self._checked_limit(options.max_new_tokens)
        sampling = self.sampling if options.sampling is None else options.sampling
        has_key = self.has_key or options.seed is not None
        self._check_sampling(sampling, has_key=has_key)
        cascade = self._cascade(options.budget)
        if options.cost and not (self.chooses and options.budget in (None, AUTO)):
            raise ValueError(
                f"cost={options.cost} is for budget={AUTO!r}: leave it out."
            )
        if cascade is None:
            budgets = (self._budget(options.budget),)
        else:
            budgets = cascade.budgets
        if cascade is not None and self.crops.cascade_of(options.crops) is not None:
            raise ValueError(_TWO_CASCADES)
        shown = self.crops.of(request, room=limit)
        for sample in filter(None, (shown.sample, shown.whole)):
            for budget in budgets:
                self.shapes.check(self.processor.buckets.choose(sample), budget)
        return dataclasses.replace(
            PreparedRequest.of(number, request, shown.sample, limit),
            sampling=sampling,
            budget=budgets[0],
            cascade=cascade,
            looked_at=shown.looked_at,
            look_cascade=shown.cascade,
            whole=shown.whole,
        )

    def look_again(self, before: PreparedRequest, budget: Budget) -> PreparedRequest:
        """Returns a request whose look at the base view was unsure, with all crops.

        budget: of the first look, and so of this one.
        """
        assert before.whole is not None
        assert before.look_cascade is not None
        made = before.number, before.request, before.whole, before.limit
        return dataclasses.replace(
            PreparedRequest.of(*made),
            sampling=before.sampling,
            budget=budget,
            looked_at=self.crops.report_of_all(before.whole, before.look_cascade),
        )

    def _checked_limit(self, count: int) -> int:
        most = self.shapes.engine_config.new_tokens
        if count > most:
            raise ValueError(
                f"max_new_tokens={count} are more than the {most} that this engine has "
                "room for: ask for fewer, or give it "
                f"EngineConfig(new_tokens={count})."
            )
        return count

    def _check_sampling(self, sampling: Sampling, *, has_key: bool) -> None:
        if not sampling.is_greedy and not has_key:
            raise ValueError(
                f"{sampling} draws at random: give it a key, or the request a seed."
            )
        vocabulary = self.shapes.model.config.decoder.vocab_size
        also = sampling.also_used
        if len(also) > ALSO_USED or not all(token < vocabulary for token in also):
            raise ValueError(
                f"also_used={also} must be at most {ALSO_USED} tokens of the "
                f"vocabulary of {vocabulary}."
            )

    def _cascade(self, name: str | None) -> Cascade | None:
        """Returns the cascade of that name, that of the engine for None, if any."""
        if name is None:
            return self.cascade
        if not is_cascade(name):
            return None
        if name in self.cascades:
            return self.cascades[name]
        known = dict.fromkeys(self.cascades.values())
        if name != CASCADE:
            found = Cascade.of_name(name, self.shapes.model.config.plan)
            if found in known:
                return found
        raise ValueError(
            f"budget {name!r} is none of the engine's cascades: "
            f"{', '.join(map(str, known)) or 'it has none'}. Make it with "
            "budgets=[...] for those that requests ask for."
        )

    def _budget(self, name: str | None) -> Budget | None:
        """Returns the budget of that name, None for the router's choice."""
        if name is None or (name == AUTO and self.chooses):
            return None
        known = ", ".join(budget.name for budget in self.shapes.budgets)
        if name == AUTO:
            raise ValueError(
                f"budget={AUTO!r} needs a network with a policy and an engine that "
                f"asks it (budget={AUTO!r}): this one answers in {known}."
            )
        budget = Budget.parse(name, self.shapes.model.config.plan)
        if budget not in self.shapes.budgets:
            raise ValueError(
                f"budget {budget.name!r} is none of the engine's: {known}. Make it "
                "with budgets=[...] for those that requests ask for."
            )
        return budget
