"""A network with what belongs to it: data alone; `VisorModel` answers with it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.look_buckets import for_any_look
from visor_jax.data.prompts.processor import Processor
from visor_jax.flops.table import Row, prompt_cost
from visor_jax.inference.loading.crop_choice import rule_for
from visor_jax.inference.routing.cascade_file import CascadeFile
from visor_jax.inference.routing.scorer_file import ScorerFile
from visor_jax.inference.routing.tile_chooser import BestTiles, TileChooser
from visor_jax.look import crops_of
from visor_jax.look_cascade import is_look_cascade
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import (
    KEEP_ALL,
    TokenReducer,
    crop_flops,
    in_bucket,
    selection_flops,
)
from visor_jax.models.vision.crop_features import reads_of
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import Policy
from visor_jax.policy.tile_scorer import TrainedScorer
from visor_jax.runtime.arguments import shown
from visor_jax.token_reduction.registry import name_of

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network with its parameters, budgets and processor of text and pictures.

    config: its sizes and layer plan. budgets: what it was trained for, in class order.
    metadata: whatever else its run recorded (preset, seed, step, ...). policy: None if
    it has none. reducer: drops image tokens on their way through it; fitted to its
    sizes (`token_reduction.registry.fitted`). cascade_file, scorer_file: where a
    calibration of its cascade, and a scorer of tiles would lie; None for what is no
    run's. scorer: that lay there when it was opened, if one did.
    """

    config: VLMConfig
    params: Params
    budgets: BudgetSet
    processor: Processor
    metadata: dict[str, Any]
    policy: Policy | None = None
    reducer: TokenReducer = KEEP_ALL
    cascade_file: CascadeFile | None = None
    scorer_file: ScorerFile | None = None
    scorer: TrainedScorer | None = None

    @functools.cached_property
    def vlm(self) -> VLM:
        """The module that computes with `params`, reducer included."""
        return VLM(self.config, self.reducer)

    @property
    def reduce(self) -> str | None:
        """The reducer's name (`token_reduction.registry`), None if it keeps all."""
        return None if self.reducer == KEEP_ALL else name_of(self.reducer)

    def looking_at(self, crops: object, rule: str | None = None) -> "Network":
        """Returns the network that is shown some crops of every image, or all.

        Args:
          crops, rule: see `look.crops_of`, `crop_choice.rule_for`, also for errors.
        """
        if is_look_cascade(crops):
            raise ValueError(
                f"crops={shown(crops)} looks twice: say it to `generate`, `chat` or "
                "`generate_all` of a loaded model, for all prompts, or to an engine; "
                "or name the crops here."
            )
        wanted = crops_of(crops)
        if wanted.is_all:
            if self.processor.looking is None:
                return self
            whole = dataclasses.replace(self.processor, looking=None)
            return dataclasses.replace(self, processor=whole)
        found = rule_for(self.config, wanted, rule)
        processor = self.processor.looking_at(wanted, found)
        if wanted.best:
            processor = self._choosing_tiles(processor)
        return dataclasses.replace(self, processor=processor)

    def _choosing_tiles(self, processor: Processor) -> Processor:
        """Returns the processor that has this network say which tiles are the best."""
        chooser = TileChooser(
            model=self.vlm,
            params=self.params,
            budget=self.budgets.smallest,
            buckets=processor.buckets,
            scorer=self.scorer,
        )
        looking = BestTiles.of(processor.looking, chooser)
        return dataclasses.replace(processor, looking=looking)

    def showing(self, crops: object, asked: Iterable[str | None]) -> "Network":
        """Returns the network that is shown these crops, with buckets for all looks.

        Args:
          crops: None for those that it looks at. asked: by single requests.

        Raises:
          ValueError: as `looking_at`.
        """
        network = self if crops is None else self.looking_at(crops)
        if all(each is None for each in asked):
            return network
        buckets = for_any_look(network.processor.buckets)
        processor = dataclasses.replace(network.processor, buckets=buckets)
        return dataclasses.replace(network, processor=processor)

    def cost(
        self, budget: Budget, *, first_look: Budget | None = None, **lengths: int | None
    ) -> Row:
        """Returns the FLOPs of one prompt, those of the reducer's own work included.

        first_look, lengths: and errors, see `flops.table.prompt_cost`.
        """

        def selection(text_tokens: int, image_tokens: int) -> int:
            return selection_flops(
                reducer,
                self.config,
                text_tokens=text_tokens,
                image_tokens=image_tokens,
            )

        shown = lengths.get("image_tokens")
        reducer = in_bucket(
            self.reducer, self.config.vision.num_patches if shown is None else shown
        )
        return prompt_cost(
            self.config,
            budget,
            image_lengths=reducer.image_lengths,
            selection=selection,
            crop_selection=crop_flops(
                reducer, self.config, crops=lengths.get("crops", 1)
            ),
            tower_side=reads_of(reducer).side,
            first_look=first_look,
            **lengths,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of sizes, numbers, policy, scorer and reducer: 32 hexadecimal digits.

        Two networks of one fingerprint answer alike. Reads every parameter once, about
        a second for each GB.
        """
        found = hashlib.sha256(json.dumps(self.config.to_dict()).encode())
        if self.reducer != KEEP_ALL:
            found.update(name_of(self.reducer).encode())
        chosen = (each for each in (self.policy, self.scorer) if each is not None)
        parts = [self.params, *(each.params for each in chosen)]
        for path, leaf in jax.tree.leaves_with_path(parts):
            values = np.ascontiguousarray(jax.device_get(leaf))
            what = f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}"
            found.update(what.encode())
            found.update(values.view(np.uint8).reshape(-1))
        return found.hexdigest()[:32]
