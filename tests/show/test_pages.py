import pytest
from PIL import Image

from tests import own_flags
from visor_jax.show import pages


@pytest.mark.parametrize("out", ["/dev/null", "sheet.txt", "sheet"])
def test_what_is_no_picture_is_refused_before_drawing(out, monkeypatch, capsys):
    monkeypatch.setattr(pages, "make_pool", None)
    with pytest.raises(SystemExit) as end:
        own_flags.call(pages, f"--out={out}")
    assert end.value.code == 2
    assert f"--out={out}" in capsys.readouterr().err


def test_tiled_pages_stand_beside_their_base_views(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    own_flags.call(pages, f"--out={out}", "--kind=tiles", "--count=1")
    with Image.open(out) as sheet:
        assert sheet.width > 2 * 3 * 144
        assert sheet.height > 3 * (96 + 144)
    printed = capsys.readouterr().out
    assert "2 pages" in printed
    assert "positions 192" in printed


def test_viewer_writes_a_sheet_and_prints_a_row(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    own_flags.call(pages, f"--out={out}", "--seed=1", "--count=2", "--split=test")
    with Image.open(out) as sheet:
        assert sheet.width > 2 * 3 * 96
    printed = capsys.readouterr().out
    assert "[<eos>]" in printed
    assert "trained targets" in printed
