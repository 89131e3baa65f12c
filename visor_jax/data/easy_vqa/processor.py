"""Tokenizer and processor files of a small network that is trained on easy-VQA.

In the form of LLaVA-OneVision's. Any text can be written in the tokens: bytes, merged
to whole words of the questions, so that each of those is one token. What every prompt
says alike is a token a sentence: text that tells nothing is most of a prompt otherwise.

    what  is  the  blue  shape  ?  \n Answer the question using .. phrase.
    1     2   3    4     5      6  7
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from visor_jax.data.prompts.chat_template import END, START, SYSTEM_MESSAGE
from visor_jax.data.prompts.messages import IMAGE, VIDEO

PAD = "<|endoftext|>"
# Bytes, special tokens and room for merges; the words of the questions need fewer.
VOCABULARY = 512
# Of a colour of the training pictures, from 0 to 1: white all around the shape is about
# 0 for the network, which finds the shape by that.
_MEAN, _STD = 0.9, 0.19
# What stands around the words in a prompt.
_TEMPLATE = (f"system\n{SYSTEM_MESSAGE}", "user\n", "assistant\n")
# Words as GPT-2 parts them.
_WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def make_tokenizer(
    texts: Iterable[str], sentences: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Returns a tokenizer whose words are those of the texts; the same for the same.

    Args:
      sentences: a token each, beside those of the template.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    whole = [*_TEMPLATE, *sentences]
    parts = Regex("|".join([*map(re.escape, whole), _WORDS]))
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(parts, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END, IMAGE, VIDEO],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    pairs.train_from_iterator([*whole, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=pairs, eos_token=END, pad_token=PAD)


def write_processor(
    folder: Path, texts: Iterable[str], sentences: Sequence[str] = (), *, side: int
) -> None:
    """Writes tokenizer and image processor; side: of a picture, in pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(texts, sentences).save_pretrained(folder)
    # Grids of crops are the default: a square picture is read whole and as one tile.
    image_processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "image_mean": [_MEAN] * 3,
        "image_std": [_STD] * 3,
        "size": {"height": side, "width": side},
    }
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(image_processor, indent=2) + "\n")
