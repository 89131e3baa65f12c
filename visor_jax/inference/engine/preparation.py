"""From a request to its sample, with what it asks of its answer, checked."""

import dataclasses
from collections.abc import Mapping

from visor_jax.budget import Budget
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.engine.packed_prompts import PreparedRequest
from visor_jax.inference.engine.program_shapes import ALSO_USED, ProgramShapes
from visor_jax.inference.routing.cascade import CASCADE, Cascade, is_cascade
from visor_jax.inference.routing.choose_budgets import AUTO
from visor_jax.look import Crops, crops_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """What the answers of an engine's requests have in common.

    sampling: of requests that say nothing of it. has_key: whether the engine has a key
    for random draws. chooses: whether its router chooses budgets ("auto"). cascades:
    that requests may ask for, by what they call them. cascade: of all that name no
    budget; None if they have another router. looks: at some crops, that requests may
    ask for, by the name of as many crops of which nobody has chosen any.
    """

    processor: Processor
    shapes: ProgramShapes
    sampling: Sampling
    has_key: bool
    chooses: bool
    cascades: Mapping[str, Cascade] = dataclasses.field(default_factory=dict)
    cascade: Cascade | None = None
    looks: Mapping[str, Looking] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_sampling(self.sampling, has_key=self.has_key)

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
        processor = self._shown(options.crops)
        sample = processor.sample(request, room=limit)
        prepared = PreparedRequest.of(number, request, sample, limit)
        for budget in budgets:
            self.shapes.check(self.processor.buckets.choose(sample), budget)
        return dataclasses.replace(
            prepared,
            sampling=sampling,
            budget=budgets[0],
            cascade=cascade,
            looked_at=processor.looking and processor.looking.report(sample),
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

    def _shown(self, name: str | None) -> Processor:
        """Returns the processor that shows these crops, those of all for None."""
        if name is None:
            return self.processor
        asked, found = crops_of(name), None
        if not asked.is_all:
            found = self.looks.get(Crops(asked.count).name)
            if found is None:
                known = ", ".join(["all", *self.looks])
                raise ValueError(
                    f"crops={name!r} are none of the engine's looks: {known}. Make it "
                    "with looks=[...] for those that requests ask for."
                )
            found = dataclasses.replace(found, crops=asked)
        return dataclasses.replace(self.processor, looking=found)

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
