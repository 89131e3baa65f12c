"""The ways in which a layer can run, by its kind, its gate and who reads the image."""

from collections.abc import Callable
from typing import Any, NamedTuple

from visor_jax.layer_plan import LayerKind
from visor_jax.models.decoder.decoder_layer import DecoderLayer, LayerResult

# One way of running a layer: (layer, text, image, past) to what its method returns.
Way = Callable[..., LayerResult]


class Ways(NamedTuple):
    """How a layer runs: while a later layer reads the image, else, with gate shut."""

    read: Way
    unread: Way
    shut: Way

    def choose(self, is_on: bool, image_is_read: bool) -> Way:
        if not is_on:
            return self.shut
        return self.read if image_is_read else self.unread


def _text_only(layer: DecoderLayer, *streams: Any) -> LayerResult:
    return layer.text_only(*streams)


def _cross(layer: DecoderLayer, *streams: Any) -> LayerResult:
    return layer.cross(*streams)


def _full(layer: DecoderLayer, *streams: Any) -> LayerResult:
    return layer.full(*streams)


def _full_for_text(layer: DecoderLayer, *streams: Any) -> LayerResult:
    return layer.full_for_text(*streams)


WAYS = {
    LayerKind.TEXT: Ways(_text_only, _text_only, _text_only),
    LayerKind.CROSS: Ways(_cross, _cross, _cross),
    LayerKind.SELF: Ways(_full, _full_for_text, _text_only),
}
