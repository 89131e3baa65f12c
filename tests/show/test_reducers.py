"""`python -m visor_jax.show.reducers`: every method, with what its settings are."""

from tests import own_flags
from visor_jax.show import reducers
from visor_jax.token_reduction.registry import REDUCERS


def test_all_methods_are_listed_with_an_example(capsys):
    own_flags.call(reducers, "--image_tokens=576", "--layers=32")
    printed = capsys.readouterr().out
    for name, entry in REDUCERS.items():
        assert f"\n{name}\n" in printed
        assert entry.source in printed
        for setting in entry.settings:
            assert f"{setting.name}=" in printed
    assert "270 of 576 (576 in 0-7, 288 in 8-15, 144 in 16-23, 72 in 24-31)" in printed


def test_a_method_without_room_says_so():
    assert "drops tokens before layer 2" in reducers.table(9, 2)
