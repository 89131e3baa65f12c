"""A tiny network in an engine, and the plain path that its answers are compared with.

Engines of the same config and end tokens share their compiled programs.
"""

import dataclasses

import jax
import numpy as np

from tests import tiny
from tests.inference import tiny_processor
from visor_jax.budget import BudgetSet
from visor_jax.data.prompts.sampling import GREEDY
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.generation.generate import generate
from visor_jax.inference.routing.choose_budgets import BudgetChoice
from visor_jax.inference.routing.router import HostRouter
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.vlm import VLM

# The SELF layer's image is read by the layer behind it.
CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    decoder=dataclasses.replace(tiny.DECODER, tie_embeddings=False),
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
)
MODEL = VLM(CONFIG)
# Enough noise for the network to say something else after every token.
PARAMS = tiny.perturbed(tiny.params_of(CONFIG), jax.random.key(7), 0.4)["params"]
BUDGETS = tuple(tiny.every_budget(CONFIG))
# A token that these prompts' answers do have here and there.
EOS = 24
PROCESSOR = tiny_processor.processor(CONFIG, eos_id=EOS)
# Small, so that slots are freed and filled again and the ring goes round.
ENGINE_CONFIG = EngineConfig(
    rows=2,
    pending=4,
    slots=3,
    requests_per_row=3,
    tokens_per_turn=2,
    new_tokens=5,
    images_at_once=2,
)
_COMPILED = {}


def choice(processor=PROCESSOR, params=PARAMS):
    """Returns what a loaded network without a policy chooses budgets by."""
    return BudgetChoice(
        model=MODEL,
        params=params,
        buckets=processor.buckets,
        budgets=BudgetSet(CONFIG.plan, BUDGETS),
        policy=None,
    )


def scripted(budgets=BUDGETS):
    """Returns the router that goes by the prompt's last token."""
    return HostRouter(
        budgets, lambda request: int(request.prompt.split()[-1]) % len(budgets)
    )


def engine(
    router,
    *,
    model=MODEL,
    processor=PROCESSOR,
    config=ENGINE_CONFIG,
    sampling=GREEDY,
    **options,
):
    made = Engine(
        model, PARAMS, processor, router, config=config, sampling=sampling, **options
    )
    keeps = options.get("images_kept", 1) > 0
    ends = processor.eos_ids, processor.pad_id
    # A router's part on the device is in the programs of the trunk.
    ruled = None if isinstance(router, HostRouter) else router
    scored = made.shapes.scored
    place, own = (model, config, ends, keeps, ruled, scored), made.programs.compiled
    known = _COMPILED.get((model, config, ends, True, None, False))
    if place not in _COMPILED and known is not None:
        # Nothing is kept of a budget before an answer starts.
        before = {"encode"} if ruled else {"encode", "prefill_trunk"}
        for key, program in list(known.items()):
            if key[0] in before:
                own.put(key, 0, lambda program=program: program)
    made.programs.compiled = _COMPILED.setdefault(place, own)
    return made


def alone(
    request,
    budget,
    *,
    model=MODEL,
    processor=PROCESSOR,
    count=5,
    sampling=GREEDY,
    key=None,
):
    """Returns the tokens of a request that is answered by itself."""
    sample = processor.sample(request, room=count)
    # The largest bucket for all: no more programs than budgets.
    batch = processor.buckets.batch([sample], processor.buckets.all[-1])
    tokens = generate(
        model,
        PARAMS,
        batch,
        budget,
        max_new_tokens=count,
        eos_id=processor.eos_ids,
        pad_id=0,
        sampling=sampling,
        key=key,
    )
    (tokens,) = cut_at_end(np.asarray(tokens), processor.eos_ids)
    return tuple(tokens)


def check(found, requests, router, **options):
    """Asserts that these are the requests' answers, in their order."""
    numbers = [answer.number for answer in found]
    assert numbers == sorted(numbers)
    for answer, request in zip(found, requests, strict=True):
        (index,) = router.choose(np.zeros((1, 0)), [request])
        assert answer.error is None
        assert answer.budget == router.budgets[index]
        assert answer.tokens == alone(request, answer.budget, **options)
        assert answer.text == " ".join(map(str, answer.tokens))


def forget_programs():
    """Lets go of the programs that engines share."""
    _COMPILED.clear()
