"""The FLOPs of one forward pass, and what a budget saves against the dense network.

`visor_jax.flops.layer_costs` says what is counted. A saving belongs to a budget and to
a scope, and both must be named with it:

    LLM         decoder layers and the logits of a prefill
    end to end  the LLM, and the vision tower and projector before it

Decoding is in neither: it is reported per token. The dense network is the same decoder
with every layer SELF and on. It too stops refining the image in its last layer, which
nobody reads, so it is 1/L cheaper than a network that computes that layer in full.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from visor_jax.budget import Budget
from visor_jax.flops import layer_costs
from visor_jax.flops.layer_costs import LayerCost, TowerCost
from visor_jax.models.config import DecoderConfig, VLMConfig
from visor_jax.models.variants import dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """FLOPs of a batch in one budget; build it with `account`.

    image_lengths: image tokens that each decoder layer sees; all of them, unless a
    token reducer drops some. tower, projector: all crops. layers: the decoder's
    layers in a prefill, first layer first. lm_head: the logits at `logit_positions`
    tokens of every sample. selection: a token reducer's own work, part of the prefill.
    crop_selection: the same before the decoder, end to end alone.
    """

    config: VLMConfig
    budget: Budget
    text_tokens: int
    image_tokens: int
    image_lengths: tuple[int, ...]
    crops: int
    logit_positions: int
    batch: int
    tower: TowerCost
    projector: int
    layers: tuple[LayerCost, ...]
    lm_head: int
    selection: int = 0
    crop_selection: int = 0

    @property
    def llm_prefill(self) -> int:
        """Returns the FLOPs of all decoder layers, the logits and the selection."""
        layers = sum(layer.total for layer in self.layers)
        return layers + self.lm_head + self.selection

    @property
    def behind_trunk(self) -> int:
        """Returns the FLOPs of the layers behind the trunk, and the logits.

        All that looking again costs before its first token: tower, projector and the
        layers that all budgets share have run for the first look. A token reducer's own
        work counts as if all of it were there.
        """
        behind = self.layers[self.config.plan.trunk_length :]
        return sum(layer.total for layer in behind) + self.lm_head + self.selection

    @property
    def end_to_end(self) -> int:
        """Returns the FLOPs of tower, choosing tokens, projector and LLM prefill."""
        before = self.tower.total + self.projector + self.crop_selection
        return before + self.llm_prefill

    def decode_layers(self, context: int) -> tuple[LayerCost, ...]:
        """Returns every layer's share of `decode_per_token`, logits excluded.

        Raises:
          ValueError: if the new token cannot even see itself (context below 1).
        """
        if context < 1:
            raise ValueError(f"{context=} must count the new token: at least 1.")
        decoder, costs = self.config.decoder, []
        seen = _image_seen(self.config, self.budget, self.image_lengths)
        for kind, image in zip(self.config.plan.kinds, seen, strict=True):
            own = 0 if kind.has_adapter else image
            cost = layer_costs.decode_layer(decoder, context=context, self_image=own)
            if kind.has_adapter:
                cost += layer_costs.decode_adapter(
                    decoder, self.config.adapter, image=image
                )
            costs.append(cost.times(self.batch))
        return tuple(costs)

    def decode_per_token(self, context: int) -> int:
        """Returns the FLOPs of decoding one token per sample with a KV cache.

        context: text keys attended, the new token's own included; for a cache of fixed
        capacity that is the capacity, since unused slots are masked, not skipped. Image
        keys come on top in the layers that hold them: CROSS, READ, and SELF if on or at
        READ.
        """
        logits = layer_costs.lm_head(self.config.decoder, positions=self.batch)
        return sum(layer.total for layer in self.decode_layers(context)) + logits

    def decode_tokens(self, steps: int) -> int:
        """Returns the FLOPs of so many tokens after the first; no unused slots."""
        begin = self.text_tokens + 1
        return sum(map(self.decode_per_token, range(begin, begin + steps)))

    def dense(self) -> "Account":
        """Returns the account of the dense network of this size on the same input."""
        network = dense(self.config)
        return account(
            network,
            Budget.all(network.plan),
            text_tokens=self.text_tokens,
            image_tokens=self.image_tokens,
            crops=self.crops,
            logit_positions=self.logit_positions,
            batch=self.batch,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Savings:
    """How many times cheaper than dense (1.0 = as dear), by scope; see the module."""

    llm_saving: float
    end_to_end_saving: float


def account(
    config: VLMConfig,
    budget: Budget,
    *,
    text_tokens: int,
    image_tokens: int,
    crops: int,
    logit_positions: int | None = None,
    batch: int = 1,
    image_lengths: Sequence[int] | None = None,
    selection: int = 0,
    crop_selection: int = 0,
    tower_side: int | None = None,
    at_hand: Collection[int] = (),
    new_image: int = 0,
) -> Account:
    """Returns the FLOPs of a forward pass with these lengths (padding included).

    logit_positions: text tokens whose logits are computed: None for all (training and
    evaluation), 1 for what a generation needs of its prefill. crops: 0 if the image
    features are at hand already. image_lengths: what a token reducer leaves for
    each decoder layer (`TokenReducer.image_lengths`), None for all. selection: FLOPs of
    its own work in one sample (`token_reducer.selection_flops`). crop_selection: of
    that before the decoder (`token_reducer.crop_flops`). tower_side: patches per side
    of a crop that is shrunk before the tower (`TowerReads.side`). at_hand: layers in
    which the image's keys and values are known, so that only text goes through them.
    new_image: tokens whose keys and values these layers make all the same
    (`flops.looks`).
    The reading loss and the policy are not part of it.

    Raises:
      ValueError: for an impossible length, or a budget that is not of this plan.
    """
    logits = text_tokens if logit_positions is None else logit_positions
    _check_lengths(text_tokens, image_tokens, crops, logits, batch)
    lengths = (image_tokens,) * config.plan.num_layers
    if image_lengths is not None:
        lengths = tuple(image_lengths)
    known = dict.fromkeys(at_hand, new_image)
    layers = _prefill_layers(config, budget, text_tokens, lengths, known)
    vision = config.vision
    if tower_side is not None:
        size = tower_side * vision.patch_size
        vision = dataclasses.replace(vision, image_size=size)
    return Account(
        config=config,
        budget=budget,
        text_tokens=text_tokens,
        image_tokens=image_tokens,
        image_lengths=lengths,
        crops=crops,
        logit_positions=logits,
        batch=batch,
        tower=layer_costs.vision_tower(vision, crops=batch * crops),
        projector=layer_costs.projector(
            vision,
            config.decoder,
            crops=batch * crops,
            convolution=config.projector_convolution,
        ),
        layers=tuple(layer.times(batch) for layer in layers),
        lm_head=layer_costs.lm_head(config.decoder, positions=batch * logits),
        selection=batch * selection,
        crop_selection=batch * crop_selection,
    )


def look_flops(
    decoder: DecoderConfig, *, rows: int, text_tokens: int, image_tokens: int
) -> int:
    """Returns the FLOPs of a reducer's look (`token_reducer.TextLook`) in one sample.

    The queries of so many text tokens, the keys of both streams, and the scores; the
    layer makes its keys again.
    """
    keys = text_tokens + image_tokens
    return (
        layer_costs.matmul(rows, decoder.width, decoder.heads_width)
        + layer_costs.matmul(
            keys, decoder.width, decoder.num_kv_heads * decoder.head_dim
        )
        + layer_costs.matmul(rows, decoder.heads_width, keys)
    )


def savings(measured: Account) -> Savings:
    """Returns what `measured` saves against the dense network on the same input."""
    reference = measured.dense()
    return Savings(
        llm_saving=reference.llm_prefill / measured.llm_prefill,
        end_to_end_saving=reference.end_to_end / measured.end_to_end,
    )


def _prefill_layers(
    config: VLMConfig,
    budget: Budget,
    text: int,
    lengths: Sequence[int],
    at_hand: Mapping[int, int],
) -> list[LayerCost]:
    """Returns every layer; at_hand: {layer whose image K/V are known: new ones}."""
    plan, decoder, gates = config.plan, config.decoder, budget.gates(config.plan)
    on, costs = plan.gate_of_layer(gates), []
    for layer, image in enumerate(_image_seen(config, budget, lengths)):
        kind = plan.kinds[layer]
        known = {"at_hand": layer in at_hand, "new_image": at_hand.get(layer, 0)}
        if kind.has_adapter:
            cost = layer_costs.cross_layer(
                decoder, config.adapter, text=text, image=image, **known
            )
        elif image:
            refined = kind.refines_image and on.get(layer, True) is True
            refined = refined and plan.image_is_read_after(layer, gates)
            cost = layer_costs.self_layer(
                decoder,
                text=text,
                image=image,
                image_is_read=refined,
                **known,
            )
        else:
            cost = layer_costs.text_layer(decoder, text=text)
        costs.append(cost)
    return costs


def _image_seen(config: VLMConfig, budget: Budget, lengths: Sequence[int]) -> list[int]:
    """Returns how many image tokens text sees in each layer: 0 where it sees none."""
    on = config.plan.gate_of_layer(budget.gates(config.plan))
    return [
        length if kind.sees_image and on.get(layer, True) else 0
        for layer, (kind, length) in enumerate(
            zip(config.plan.kinds, lengths, strict=True)
        )
    ]


def _check_lengths(text: int, image: int, crops: int, logits: int, batch: int) -> None:
    problems = []
    for name, value, least in (
        ("text_tokens", text, 1),
        ("image_tokens", image, 0),
        ("crops", crops, 0),
        ("logit_positions", logits, 0),
        ("batch", batch, 1),
    ):
        if value < least:
            problems.append(f"{name}={value} is below {least}")
    if logits > text:
        problems.append(f"logit_positions={logits} exceeds text_tokens={text}")
    if problems:
        raise ValueError("Impossible lengths: " + "; ".join(problems) + ".")
