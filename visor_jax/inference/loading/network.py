"""A network with what belongs to it: its numbers, not yet its answers."""

import functools
import hashlib
import json
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.prompts.processor import Reader
from visor_jax.data.prompts.request import Images, Prompt, Request, Videos
from visor_jax.flops.account import account
from visor_jax.flops.table import Row
from visor_jax.inference.generation import generate
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import Policy

Params = Any


class LoadedNetwork:
    """A network with its parameters, budgets and reader of text and pictures.

    config: its sizes and layer plan. budgets: what it was trained for, in class order.
    metadata: whatever else its run recorded (preset, seed, step, ...). policy: None if
    it has none.
    """

    def __init__(
        self,
        config: VLMConfig,
        params: Params,
        budgets: BudgetSet,
        reader: Reader,
        metadata: dict[str, Any],
        policy: Policy | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.budgets = budgets
        self.reader = reader
        self.metadata = metadata
        self.policy = policy
        self.network = VLM(config)

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self.reader.tokenizer

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of all sizes and numbers, the policy's too: 32 hexadecimal digits.

        Two networks of one fingerprint answer alike. Reads every parameter once, about
        a second for each GB.
        """
        found = hashlib.sha256(json.dumps(self.config.to_dict()).encode())
        parts = [self.params, () if self.policy is None else self.policy.params]
        for path, leaf in jax.tree.leaves_with_path(parts):
            values = np.ascontiguousarray(jax.device_get(leaf))
            what = f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}"
            found.update(what.encode())
            found.update(values.view(np.uint8).reshape(-1))
        return found.hexdigest()[:32]

    def logits(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
    ) -> Float[np.ndarray, "T W"]:
        """Returns float32 logits of what follows each of the prompt's T text tokens.

        Image tokens have none. Arguments and errors are those of `generate`.
        """
        batch = self.batch(images, prompt, videos=videos, max_new_tokens=0)
        return self.logits_of(batch, budget)[0][batch.text_mask[0]]

    def logits_of(
        self, batch: Batch, budget: str | Budget | None = None
    ) -> Float[np.ndarray, "B T W"]:
        """Returns the logits of a batch, those of padding among them."""
        gates = self.budget(budget).gates(self.config.plan)
        return np.asarray(_logits(self.params, batch, model=self.network, gates=gates))

    def batch(
        self,
        images: Images = None,
        prompt: Prompt = "",
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
    ) -> Batch:
        """Returns the one-row batch of a prompt. Raises ValueError as `generate`."""
        count = 0 if max_new_tokens == 0 else self._count(max_new_tokens)
        request = Request(prompt, images, videos)
        return self.reader.batch(self.reader.sample(request, room=count))

    def cost(
        self,
        budget: str | Budget | None = None,
        *,
        text_tokens: int = 8,
        image_tokens: int | None = None,
        crops: int = 1,
        logit_positions: int | None = 1,
    ) -> Row:
        """Returns the FLOPs of a budget and what it saves against the dense network.

        What is counted, and against what: `visor_jax.flops.table.HEADER`.

        Args:
          budget: any of the network's plan, also one it was not trained for.
          image_tokens: None for one crop's.
          logit_positions: 1, all that a generation needs; None for all text tokens.

        Raises:
          ValueError: for an unknown budget or an impossible length.
        """
        chosen = self.budgets.of_plan(budget)
        patches = self.config.vision.num_patches
        lengths = {
            "text_tokens": text_tokens,
            "image_tokens": patches if image_tokens is None else image_tokens,
            "crops": crops,
            "logit_positions": logit_positions,
        }
        return Row.of(chosen.name, account(self.config, chosen, **lengths))

    def budget(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name. See `BudgetSet.find`."""
        return self.budgets.find(budget)

    def latency(
        self,
        batch: Batch,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> generate.Latency:
        """Returns the measured milliseconds of prefill and of each further token."""
        return generate.measure_latency(
            self.network,
            self.params,
            batch,
            self.budget(budget),
            max_new_tokens=self._count(max_new_tokens),
        )

    def _count(self, max_new_tokens: int | None) -> int:
        count = self.reader.new_tokens if max_new_tokens is None else max_new_tokens
        if count < 1:
            raise ValueError(f"{max_new_tokens=} must be at least 1.")
        return count


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def _logits(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[bool, ...]
) -> Float[Array, "B T W"]:
    return model.apply({"params": params}, batch, gates).logits
