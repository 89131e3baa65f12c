"""`python -m visor_jax.show.sample`: what it shows of a sample."""

import re

import numpy as np
import pytest

from tests.data.conversations import conversation_set
from visor_jax.show.sample import describe, picture


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    converted = conversation_set.draw(folder, 10, sizes=((20, 40),))
    return conversation_set.opened(converted, folder, steps=1)


def test_brackets_stand_around_what_is_trained(data):
    text, sample = describe(data, 3)
    found, row = data.samples.find(3)
    turns = found.conversation(row).turns
    answers = [text + "<|im_end|>" for role, text in turns if role == "assistant"]
    assert re.findall("⟦(.*?)⟧", text, re.S) == answers
    places = re.findall(r"<(\d+) image tokens>", text)
    assert sum(map(int, places)) == sample.num_image_tokens
    assert len(places) == 2
    whole = text.split("brackets:\n\n")[1]
    plain = re.sub(r"[⟦⟧]|<\d+ image tokens>", "", whole)
    tokenizer = data.processor.chat.tokenizer
    assert plain == tokenizer.decode(sample.layout.tokens.tolist())
    assert "bucket of 2 crops" in text


def test_the_picture_shows_the_crops(data):
    number = int(np.argmax(data.lengths.crops))
    _, sample = describe(data, number)
    sheet = np.asarray(picture(sample, data.processor.chat.images))
    tile = conversation_set.TILE
    assert sheet.shape == (tile, sample.num_crops * (tile + 4) - 4, 3)
    crops = (sample.crops[1] / 2 + 0.5) * 255
    np.testing.assert_allclose(sheet[:, tile + 4 : 2 * tile + 4], crops, atol=0.51)


def test_samples_that_are_not_there_or_not_used(data):
    with pytest.raises(ValueError, match=r"--sample=10 is not in 0\.\.9"):
        describe(data, 10)
    with pytest.raises(ValueError, match="has no picture"):
        picture(describe(data, 4)[1], data.processor.chat.images)
