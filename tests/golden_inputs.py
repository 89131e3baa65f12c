"""What golden figures are made of: a tiny LLaVA-OneVision, a data set, pictures.

Nothing of `visor_jax` and no other test is imported, so that the inputs stay the same
while all of that moves. PyTorch is not needed.
"""

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SIDE, PATCH = 28, 14
# As --cross_layers and --self_layers take them.
CROSS, SELF = "0,2", "1,3"
BUDGETS = ("sa0", "sa1:1", "sa1:3", "sa2:1,3")

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
# A character each, so that a text tells its tokens: line break, then printable ASCII.
_CHARACTERS = ("Ċ", "Ġ", *map(chr, range(33, 127)))
_PAD, _, _END, _IMAGE, _VIDEO = range(len(_CHARACTERS), len(_CHARACTERS) + 5)
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,
}
_TEXT = {
    "model_type": "qwen2",
    # Three more than the tokenizer knows, as published checkpoints have.
    "vocab_size": len(_CHARACTERS) + 8,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "eos_token_id": _END,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
_COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def write_network(folder: Path) -> Path:
    """Returns the folder: weights, configuration, tokenizer and image processor."""
    folder.mkdir(parents=True)
    tensors = {name: _tensor(name, shape) for name, shape in _shapes().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sides = [SIDE * count for count in (1, 2, 3)]
    pinpoints = [[height, width] for height in sides for width in sides]
    config = {
        "model_type": "llava_onevision",
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "vision_config": _VISION,
        "text_config": _TEXT,
        "image_token_index": _IMAGE,
        "video_token_index": _VIDEO,
        "image_grid_pinpoints": pinpoints,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": False,
    }
    processor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": SIDE, "width": SIDE},
        "image_grid_pinpoints": pinpoints,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    _tokenizer().save_pretrained(folder)
    return folder


def fill_adapters(folder: Path) -> Path:
    """Returns an exported folder whose adapters now say something, at every budget.

    New ones have a zero output: a mistake in them would not be seen.
    """
    file = folder / "visor.safetensors"
    shapes = {name: tensor.shape for name, tensor in load_file(file).items()}
    filled = {name: _tensor(name, shape) for name, shape in shapes.items()}
    save_file(filled, file, metadata={"format": "pt"})
    described = folder / "visor_config.json"
    fields = json.loads(described.read_text())
    described.write_text(json.dumps({**fields, "budgets": list(BUDGETS)}))
    return folder


def write_conversations(folder: Path, count: int = 24) -> Path:
    """Returns the list of a LLaVA-style data set about coloured pictures beside it."""
    folder.mkdir(parents=True)
    entries = []
    for number in range(count):
        # One picture becomes a crop and two tiles, three become a crop each: batches of
        # one shape, and one program.
        sizes = [[(24, 50)], [(50, 24)], [(20, 24), (30, 20), (9, 28)]][number % 3]
        names = [list(_COLOURS)[(number + i) % 3] for i in range(len(sizes))]
        question = "<image>\n" * len(sizes) + "What colour is it?"
        turns = [("human", question), ("gpt", " and ".join(names))]
        if number % 4 == 0:
            turns += [("human", "Sure?"), ("gpt", "Yes.")]
        files = [f"{number}_{i}.png" for i in range(len(sizes))]
        for name, file, size in zip(names, files, sizes, strict=True):
            pixels = picture(*size, seed=number) // 4 + np.array(_COLOURS[name]) // 2
            Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
        said = [{"from": role, "value": text} for role, text in turns]
        entry = {"id": f"sample-{number}", "image": files, "conversations": said}
        entries.append(entry)
    (folder / "train.json").write_text(json.dumps(entries))
    return folder / "train.json"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns random blocks, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {character: i for i, character in enumerate(_CHARACTERS)}
    each = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    each.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    each.decoder = decoders.ByteLevel()
    each.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=each, eos_token=_SPECIAL[2], pad_token=_SPECIAL[0]
    )


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns noise that depends on the name, in a size that lets layers speak up."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        # Scales of norms stand around one, biases around zero.
        is_scale = "norm" in name and name.endswith("weight")
        return np.float32(0.3) * noise + np.float32(is_scale)
    if "embed" in name and len(shape) == 2:
        return noise
    return np.float32(2) * noise / np.sqrt(np.prod(shape[1:])).astype(np.float32)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Returns {published key: shape}; a layer of the tower, then one of the decoder."""
    tower, text = _VISION["hidden_size"], _TEXT["hidden_size"]
    vision, decoder = "vision_tower.vision_model.", "language_model.model."
    shapes = {
        vision + "embeddings.patch_embedding.weight": (tower, 3, PATCH, PATCH),
        vision + "embeddings.patch_embedding.bias": (tower,),
        vision + "embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, tower),
        **_norm(vision + "post_layernorm", tower),
        **_linear("multi_modal_projector.linear_1", text, tower),
        **_linear("multi_modal_projector.linear_2", text, text),
        "image_newline": (text,),
        decoder + "embed_tokens.weight": (_TEXT["vocab_size"], text),
        decoder + "norm.weight": (text,),
        "language_model.lm_head.weight": (_TEXT["vocab_size"], text),
    }
    for i in range(_VISION["num_hidden_layers"]):
        shapes |= _tower_layer(f"{vision}encoder.layers.{i}.")
    for i in range(_TEXT["num_hidden_layers"]):
        shapes |= _decoder_layer(f"{decoder}layers.{i}.")
    return shapes


def _tower_layer(layer: str) -> dict[str, tuple[int, ...]]:
    width, inner = _VISION["hidden_size"], _VISION["intermediate_size"]
    shapes = {
        **_norm(layer + "layer_norm1", width),
        **_norm(layer + "layer_norm2", width),
        **_linear(layer + "mlp.fc1", inner, width),
        **_linear(layer + "mlp.fc2", width, inner),
    }
    for name in ("q", "k", "v", "out"):
        shapes |= _linear(f"{layer}self_attn.{name}_proj", width, width)
    return shapes


def _decoder_layer(layer: str) -> dict[str, tuple[int, ...]]:
    width, inner = _TEXT["hidden_size"], _TEXT["intermediate_size"]
    head = width // _TEXT["num_attention_heads"]
    keys = head * _TEXT["num_key_value_heads"]
    return {
        layer + "input_layernorm.weight": (width,),
        layer + "post_attention_layernorm.weight": (width,),
        **_linear(layer + "self_attn.q_proj", width, width),
        **_linear(layer + "self_attn.k_proj", keys, width),
        **_linear(layer + "self_attn.v_proj", keys, width),
        layer + "self_attn.o_proj.weight": (width, width),
        layer + "mlp.gate_proj.weight": (inner, width),
        layer + "mlp.up_proj.weight": (inner, width),
        layer + "mlp.down_proj.weight": (width, inner),
    }


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
