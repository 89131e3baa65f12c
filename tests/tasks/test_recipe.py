"""What checkpoints of several seeds must have in common, in the words they have."""

from configs import universal
from visor_jax.settings.read import read_settings
from visor_jax.tasks.run import recipe

# As checkpoints say that were trained before images were looked at in part.
OF_DATA = {
    *("batch_size", "kind", "max_bad_records", "max_images", "max_length", "pack"),
    *("pages", "path", "processor", "supervision", "template", "text_lengths"),
    *("threads", "too_long", "workers"),
}
OF_PAGES = {"batch_size", "phases", "pool_size", "questions_per_page", "text_length"}


def test_when_a_convolution_begins_is_said_where_there_is_one():
    config = universal.get_config()
    assert recipe(read_settings(config))["optimizer"]["convolution_begins"] == 0.3
    config.model.projector_convolution = 0
    assert "convolution_begins" not in recipe(read_settings(config))["optimizer"]


def test_settings_that_came_later_are_said_where_they_are_used_alone():
    data = recipe(read_settings(universal.get_config()))["data"]
    assert data.keys() == OF_DATA
    assert data["pages"].keys() == OF_PAGES
    tiles = recipe(read_settings(universal.get_config("tiles")))["data"]
    assert tiles["pages"].keys() == OF_PAGES | {"kind", "any_crops", "crop_phases"}
