"""What policy training minimises.

The policy's logits give a choice, a vector of weights over the budgets, and

    loss = task loss of the choice + cost_weight * its relative LLM FLOPs
           - entropy_weight * entropy of the logits

Objectives ("straight_through" and "pseudo_labels" are the method's):

    straight_through
        One budget is sampled (Gumbel-softmax, Jang et al. 2017), hard forward, soft
        backward (Bengio et al. 2013). The network is frozen, so the loss of a choice is
        read from a table of every budget's loss on the sample.
    straight_through_blended
        The same sample, but its gates blend the two branches of every SELF layer and
        the gradient runs through the network, which computes both. The loss is the same
        number. The gradient is not: for the weight of budget k the table has the loss
        of k itself, blending what the slope at the sampled gates predicts for it,
            L(sampled) + dL/dgates . (gates of k - sampled gates),
        both up to a constant that the softmax cancels. The table is exact where
        blending extrapolates over a whole layer, and it need not run the network again.
    expected_loss
        The table weighted by the probabilities: no sample, no temperature; the mean of
        what is above in the limit of temperature 0.
    pseudo_labels
        Cross-entropy to the cheapest adequate budget (policy.labels).

With the entropy term the best logits are -(loss + cost_weight * cost) / entropy_weight,
so that a cost preference at inference acts as a change of cost_weight by
preference * entropy_weight.
"""

import dataclasses

from visor_jax.policy.adequacy import Adequacy, Uncalibrated
from visor_jax.policy.labels import REFERENCES, SHARE

TABLE, BLENDED = "straight_through", "straight_through_blended"
EXPECTED, LABELS = "expected_loss", "pseudo_labels"
OBJECTIVES = (TABLE, BLENDED, EXPECTED, LABELS)
SCORES = ("correct", "likelihood", "log_likelihood")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    """What policy training minimises.

    kind: one of `OBJECTIVES`.
    score: what the task loss is made of: "correct" (1 if the answer is wrong, else 0;
      not for blending), "likelihood" (1 - its probability) or "log_likelihood".
    cost_weight: of the relative LLM FLOPs. entropy_weight: see the module.
    temperature: of the Gumbel-softmax at the first and at the last step, geometric
      between them.
    share, reference: of pseudo-labels, see `policy.labels`.
    """

    kind: str = TABLE
    score: str = "likelihood"
    cost_weight: float = 0.05
    entropy_weight: float = 0.02
    temperature: tuple[float, float] = (1.0, 0.2)
    share: float = SHARE
    reference: str = "full"

    @property
    def adequacy(self) -> Adequacy | Uncalibrated:
        """How the logits that this trains tell the chance that a budget is enough."""
        if self.kind == LABELS:
            return Adequacy()
        if not self.entropy_weight:
            return Uncalibrated(
                "without an entropy term (objective.entropy_weight=0) the best logits "
                "of losses are infinite"
            )
        if self.score == "log_likelihood":
            return Uncalibrated(
                "objective.score='log_likelihood' is a loss in nats, and differences "
                "of it are no probabilities"
            )
        if self.kind == BLENDED:
            return Uncalibrated(
                "blended gates give the slope at the sampled gates, not the losses of "
                "the other budgets"
            )
        return Adequacy(
            cost_weight=self.cost_weight, entropy_weight=self.entropy_weight
        )

    def __post_init__(self) -> None:
        for name, known in (("kind", OBJECTIVES), ("score", SCORES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is not one of {known}."
                )
        if self.kind == BLENDED and self.score == "correct":
            raise ValueError(
                f"objective.kind={BLENDED!r} needs a loss with a gradient: take score "
                f"'likelihood' or 'log_likelihood', or kind {TABLE!r}."
            )
        if self.cost_weight < 0 or self.entropy_weight < 0:
            raise ValueError(
                f"cost_weight={self.cost_weight} and entropy_weight="
                f"{self.entropy_weight} must not be negative."
            )
        if len(self.temperature) != 2 or min(self.temperature) <= 0:
            raise ValueError(f"temperature={self.temperature} must be two numbers > 0.")
        if self.reference not in REFERENCES or not 0 < self.share <= 1:
            raise ValueError(
                f"reference={self.reference!r} must be in {REFERENCES} and "
                f"share={self.share} in 0..1."
            )
