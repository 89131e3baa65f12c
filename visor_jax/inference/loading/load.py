"""The library's front door: a network and everything around it, from a path or an id.

model = visor_jax.load("runs/universal")
model.generate("page.png", "digit row 2 column 3", budget="sa1:3")

model = visor_jax.load("llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
model.generate(["a.jpg", "b.jpg"], "What changed?", max_new_tokens=64)
model.chat([{"role": "user", "content": [
    {"type": "image", "path": "a.jpg"}, {"type": "text", "text": "Why?"}]}])
for piece in model.stream("a.jpg", "Describe it."):
    print(piece, end="", flush=True)
model.engine("sa2:8,14").ask_many("a.jpg", ["Who?", "Where?"])

model = visor_jax.load("runs/policy")             # a network with a policy
model.generate("page.png", "ring", budget="auto")  # just enough vision
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from visor_jax.data.images.url_fetching import UrlFetcher
from visor_jax.inference.loading.open_network import open_network
from visor_jax.inference.visor_model import VisorModel
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.runtime.compile_cache import keep_programs, user_folder
from visor_jax.sharding.mesh import MeshSettings


def load(
    path_or_id: Any,
    *,
    dtype: str | None = None,
    chat_template: str | None = None,
    special_tokens: str = "plain",
    revision: str | None = None,
    mesh: MeshSettings | jax.sharding.Mesh | None = None,
    reduce: str | TokenReducer | None = None,
    compilation_cache: str | os.PathLike | bool = False,
    allow_hosts: Sequence[str] = (),
) -> VisorModel:
    """Returns the network of a checkpoint, ours or Hugging Face's.

    Args:
      path_or_id: a run's or an import's workdir (the newest readable checkpoint), its
        `checkpoints` directory or one step directory; or a LLaVA-OneVision in the form
        of Hugging Face: a folder, or an id on the Hub.
      dtype: "float32" or "bfloat16", of parameters and computation. None as stored;
        float16 becomes float32 on a CPU, bfloat16 elsewhere.
      chat_template: "hub" or "qwen_1_5"; None for the checkpoint's own.
      special_tokens: in the texts of messages. "plain": "<|im_end|>" and the like are
        words there, and nobody's text ends its turn; "allow": they are the tokens that
        they look like, as in transformers.
      revision: of a Hub id.
      mesh: over whose axes "fsdp" and "tensor" the parameters are split while they are
        read, for networks too large for one device; prompts and slots are split over
        "data" and "fsdp", keys and values over "tensor" by heads. Rows or key/value
        heads that do not divide are on every device. None for one device.
      reduce: a method that drops image tokens, by name and settings
        ("fastv:keep=0.25", `token_reduction.registry`) or as an object; every answer,
        cost and engine of the model is then that network's. None for the one that the
        network was trained with, if any; "none" for none.
      compilation_cache: folder that keeps compiled programs from one process to the
        next, True for the user's cache folder. False leaves jax's configuration, and
        JAX_COMPILATION_CACHE_DIR, as they are.
      allow_hosts: from which images and clips may be fetched by their http or https
        URLs ("img.example.org", "*.example.org"; limits: `data.images.url_fetching`);
        none unless told.

    Raises:
      ValueError: if there is no checkpoint, if it is damaged, half written or of
        another model than it says, if its tokenizer or processor is missing, if it
        does not split over the mesh, or for a reduction that there is not or that the
        network has no layers for; for what is no host.
    """
    fetch = UrlFetcher(hosts=tuple(allow_hosts)) if allow_hosts else None
    if compilation_cache is not False:
        is_named = compilation_cache is not True
        keep_programs(Path(compilation_cache) if is_named else user_folder())
    network = open_network(
        path_or_id,
        dtype=dtype,
        template=chat_template,
        special_tokens=special_tokens,
        revision=revision,
        mesh=mesh,
        reduce=reduce,
    )
    if fetch is not None:
        processor = network.processor.fetching(fetch)
        network = dataclasses.replace(network, processor=processor)
    return VisorModel(network)
