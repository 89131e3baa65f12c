"""A tiny network behind a real server, in a thread of the test's process."""

import base64
import contextlib
import dataclasses
import functools
import io
import socket
import threading
import time

import jax
import numpy as np
import uvicorn
from PIL import Image

from tests import tiny
from tests.data import tiny_llava
from tests.parity.test_llava_onevision import our_config
from visor_jax.budget import BudgetSet
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.processor import Processor
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.loading.network import Network
from visor_jax.inference.server.run_server import server_of
from visor_jax.inference.server.server_settings import ServerSettings
from visor_jax.inference.server.service import make_service
from visor_jax.inference.visor_model import VisorModel
from visor_jax.layer_plan import LayerPlan

TILE = 56
CONFIG = our_config(tied=True, side=TILE).replace(
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,))
)
BUDGETS = ("sa0", "sa1:1")
NEW_TOKENS = 12
# One shape for all prompts: few programs.
BUCKET = Bucket(crops=5, image_tokens=128, text_tokens=160)
ENGINE = EngineConfig(
    rows=1,
    pending=4,
    slots=4,
    requests_per_row=1,
    tokens_per_turn=2,
    new_tokens=NEW_TOKENS,
    images_at_once=1,
)
SETTINGS = ServerSettings(name="tiny", budget=BUDGETS[1])
# Servers of one engine config share their compiled programs.
_COMPILED = {}


@functools.cache
def model() -> VisorModel:
    """Returns the network: a byte is a token, and every answer is another."""
    images = tiny_llava.image_settings(TILE, side=2)
    prompts = ChatProcessor(
        tokenizer=tiny_llava.tokenizer(), images=images, max_length=1024
    )
    processor = Processor(
        prompts=prompts,
        buckets=Buckets([BUCKET], images, pad_id=tiny_llava.PAD),
        eos_ids=(tiny_llava.END,),
        pad_id=tiny_llava.PAD,
        new_tokens=NEW_TOKENS,
    )
    params = tiny.perturbed(tiny.params_of(CONFIG), jax.random.key(7), 0.4)["params"]
    return VisorModel(
        Network(
            config=CONFIG,
            params=params,
            budgets=BudgetSet.parse(BUDGETS, CONFIG.plan),
            processor=processor,
            metadata={},
        )
    )


class Served:
    """A server that answers; url: of its interface."""

    def __init__(self, service, server: uvicorn.Server, port: int) -> None:
        self.service, self.server = service, server
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"


@contextlib.contextmanager
def serving(
    *, config=ENGINE, fetch=None, wait=True, more_routes=(), looks=(), **settings
):
    """Yields a server of the tiny network, which is stopped afterwards.

    wait: until it is ready.
    """
    service = make_service(
        model(),
        dataclasses.replace(SETTINGS, **settings),
        config=config,
        buckets=[],
        looks=looks,
        key=3,
        fetch=fetch,
        more_routes=more_routes,
    )
    own = service.thread.engine.programs
    own.compiled = _COMPILED.setdefault((config, tuple(looks)), own.compiled)
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(service, grace_seconds=30)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        thread_of = service.thread
        while wait and not thread_of.is_ready and thread_of.failure is None:
            time.sleep(0.01)
        yield Served(service, server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def picture(height=40, width=50, seed=0):
    """Returns pixels."""
    return tiny_llava.random_image(height, width, seed)


def data_uri(pixels: np.ndarray) -> str:
    """Returns pixels as the data URI of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def messages(text, *pictures, detail=None):
    """Returns a question as OpenAI's interface has it."""
    more = {} if detail is None else {"detail": detail}
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(each), **more}}
        for each in pictures
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
