"""A configuration file finds its neighbours, and the process stays as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visor_jax.commands.sibling_imports import neighbours_of

ROOT = Path(__file__).parents[2]


def shown(folder, config, packages):
    """Returns what `show.config` prints when it is started in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "visor_jax.show.config", f"--config={config}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_configuration_is_read_from_any_folder(tmp_path):
    # As where the package is installed: the clone is on no path.
    site, other = tmp_path / "site", tmp_path / "other" / "configs"
    site.mkdir()
    (site / "visor_jax").symlink_to(ROOT / "visor_jax")
    other.mkdir(parents=True)
    (other / "common.py").write_text("raise ValueError('not this one')")
    found = shown(other.parent, f"{ROOT}/configs/universal.py:mini", site)
    assert found == shown(ROOT, "configs/universal.py", ROOT)


@pytest.fixture
def two_folders(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name / "settings"
        (folder / "deep").mkdir(parents=True)
        (folder / "shared.py").write_text(f"NAME = {name!r}")
        (folder / "deep" / "more.py").write_text("from settings import shared")
    return tmp_path / "a" / "settings" / "x.py", tmp_path / "b" / "settings" / "x.py"


def test_each_folder_has_its_own_neighbours_and_nothing_is_left(two_folders):
    path, modules, finders = list(sys.path), set(sys.modules), list(sys.meta_path)
    found = []
    for file in (*two_folders, two_folders[0]):
        with neighbours_of(file):
            from settings.deep import more

            found.append(more.shared.NAME)
    assert found == ["a", "b", "a"]
    assert (sys.path, sys.meta_path) == (path, finders)
    assert set(sys.modules) == modules
    with pytest.raises(ModuleNotFoundError):
        import settings  # noqa: F401


def test_what_was_imported_before_is_there_again(two_folders):
    import configs.common

    with pytest.raises(KeyError), neighbours_of(ROOT / "configs" / "dense.py"):
        sys.modules["configs.common"]  # So that it is found anew.
    assert sys.modules["configs.common"] is configs.common
