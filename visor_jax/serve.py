"""`python -m visor_jax.serve`: answers over HTTP, as OpenAI's chat interface does.

    pip install -e '.[serve]'
    python -m visor_jax.serve --checkpoint=runs/universal --port=8000

    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' -d '{
        "model": "universal", "budget": "sa1:3", "stream": true,
        "messages": [{"role": "user", "content": "Why?"}]}'

Images come as data URIs; several budgets are answered side by side. /health says 200
once all programs are compiled, /metrics is for Prometheus, .docs/serving.md says the
rest. Where $VISOR_API_KEY is set, requests must carry it. SIGTERM and Ctrl-C end it
when the requests that it has are answered.
"""

from absl import flags

from visor_jax.commands import answer_flags, command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    answer_flags.define_network_flags()
    answer_flags.define_answer_flags()
    answer_flags.define_look_flag()
    answer_flags.define_engine_flags()
    flags.DEFINE_string("host", "127.0.0.1", "To listen at; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 8000, "To listen at.", 0, 65535)
    flags.DEFINE_string("name", None, "Of the model; default: the checkpoint's last.")
    flags.DEFINE_list("budgets", [], "That requests may ask for; default: all.")
    flags.DEFINE_list(
        "looks",
        [],
        "Crops that requests may ask for beside all and those of --look: 'base', "
        "'base+2', 'best+2', 'auto@1' (for any threshold), ...; default: none.",
    )
    flags.DEFINE_integer("tokens_per_turn", 4, "Sent at once, of each answer.", 1)
    flags.DEFINE_bool("warm_up", True, "Compile all programs before requests.")
    flags.DEFINE_integer("most_requests", 64, "Waiting and answered at once.", 1)
    flags.DEFINE_float("seconds", 300.0, "For an answer.")
    flags.DEFINE_float("upload_seconds", 60.0, "For a request's body.")
    flags.DEFINE_float("write_seconds", 60.0, "For a client to read what it is sent.")
    flags.DEFINE_float("body_mb", 32.0, "Of a request's body, at most.")
    flags.DEFINE_integer("max_images", 8, "Of a request.", 1)
    flags.DEFINE_float("megapixels", 33.0, "Of an image, at most.")
    flags.DEFINE_integer("grace_seconds", 300, "To end requests when it is stopped.", 0)


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import functools
import gc
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visor_jax.budget_names import split_names
from visor_jax.look import split_looks
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.user_error import UserError

if TYPE_CHECKING:
    from visor_jax.inference.server.service import Service

API_KEY = "VISOR_API_KEY"
# Of an answer whose time is compared with the dense network's.
_TIMED_TOKENS = 8
# Connections that wait to be taken.
_BACKLOG = 512


def main(arguments: list[str]) -> None:
    """Serves what the flags name, until it is told to stop."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        run_server = _imported()
        listening = _bound(options.host, options.port)
        service = _service(options)
    # Who comes before the server does waits.
    listening.listen(_BACKLOG)
    host, port = listening.getsockname()[:2]
    place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _say(f"{service.settings.name} at {place}; ready when {place}/health says so")
    keep_from_collector()
    with Interruption() as stop:
        run_server(service, listening, grace_seconds=options.grace_seconds)
    if not service.thread.stop():
        # A program that is being compiled cannot be interrupted.
        _say("stopped while it was compiling")
        os._exit(0)
    if service.thread.failure is not None:
        command_line.fail(service.thread.failure, command_line.FAILED)
    _say(f"stopped by {stop.signal_name or 'itself'}")


def keep_from_collector() -> None:
    """Has all objects that are there now kept, as long as the process is.

    To look through the modules and the network for garbage takes a sixth of a second,
    in which nobody is answered, and finds nothing.
    """
    gc.collect()
    gc.freeze()


def _imported() -> Any:
    """Returns what runs a server. Raises UserError where its packages are missing."""
    try:
        from visor_jax.inference.server.run_server import run_server
    except ImportError as error:
        raise UserError(
            f"The server needs packages that are not installed ({error}): "
            "pip install -e '.[serve]'."
        ) from error
    return run_server


def _bound(host: str, port: int) -> socket.socket:
    """Returns the socket to listen at: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        remedy = "choose another --port or --host"
        raise UserError(f"--host={host} --port={port}: {error}; {remedy}.") from error
    return listening


def _service(options: Any) -> "Service":
    from visor_jax.inference.server.server_settings import ServerSettings
    from visor_jax.inference.server.service import make_service

    sampling = answer_flags.sampling_of(options)
    model = answer_flags.load_network(options)
    count = options.max_new_tokens or model.processor.new_tokens
    config = answer_flags.engine_config(options, count)
    settings = ServerSettings(
        name=options.name or Path(options.checkpoint).resolve().name,
        budget=options.budget or model.budgets.largest.name,
        look=options.look,
        sampling=sampling,
        stop=tuple(options.stop),
        most_requests=options.most_requests,
        seconds=options.seconds,
        upload_seconds=options.upload_seconds,
        write_seconds=options.write_seconds,
        max_body_bytes=int(1e6 * options.body_mb),
        max_images=options.max_images,
        max_pixels=int(1e6 * options.megapixels),
        api_key=os.environ.get(API_KEY),
    )
    return make_service(
        model,
        settings,
        budgets=names_of_list(options.budgets),
        looks=looks_of_list(options.looks),
        cost=options.cost,
        config=dataclasses.replace(config, tokens_per_turn=options.tokens_per_turn),
        buckets=_buckets(options, model),
        key=options.seed if flags.FLAGS["seed"].present else None,
        fetch=_fetch(options, settings.max_body_bytes),
        more_routes=[_looks(model)],
    )


def looks_of_list(said: Sequence[str]) -> list[str]:
    """Returns the crops that --looks names; commas of a name stay with it."""
    return split_looks(",".join(said)) if said else []


def names_of_list(said: Sequence[str]) -> list[str]:
    """Returns the budgets that --budgets names; commas of a name stay with it."""
    names: list[str] = []
    for name in split_names(",".join(said)):
        # Its two budgets, and the threshold behind the second.
        if names and names[-1].startswith("cascade:") and "@" not in names[-1]:
            names[-1] += f",{name}"
        else:
            names.append(name)
    return [name for name in names if name]


def _fetch(options: Any, max_bytes: int) -> Any:
    """Returns what fetches images of http(s) addresses; None for no hosts."""
    from visor_jax.data.images.url_fetching import UrlFetcher
    from visor_jax.inference.server.url_images import fetching

    if not options.allow_hosts:
        return None
    return fetching(UrlFetcher(hosts=tuple(options.allow_hosts), max_bytes=max_bytes))


def _looks(model: Any) -> Any:
    """Returns the routes for what the page shows beside an answer."""
    from visor_jax.analysis.answer_looks import answer_looks, answer_times
    from visor_jax.inference.server.looks_route import looks_routes

    return looks_routes(
        functools.partial(answer_looks, model),
        functools.partial(answer_times, model, new_tokens=_TIMED_TOKENS),
    )


def _buckets(options: Any, model: Any) -> Any:
    from visor_jax.inference.loading.engine_looks import engine_looks

    shown = engine_looks(model.network, options.look, looks_of_list(options.looks))
    buckets = answer_flags.warmed_buckets(options, shown.processor.buckets)
    return buckets if options.warm_up else []


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
