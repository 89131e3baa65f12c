"""Prepares a notebook's runtime: what launch/colab.ipynb runs before anything else.

    %run launch/colab_setup.py

Installs this checkout with the extra for what the runtime has (TPU, GPU or CPU) unless
that is done, and restarts the kernel where an older jax is loaded already: then run the
cell again. Nothing but the standard library is at hand here.
"""

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGE = "visor_jax"


def extra(devices: Path = Path("/dev")) -> str:
    """Returns the extra of setup.py for this machine: "tpu", "cuda12", "cuda13", "".

    devices: the folder in which Linux lists them.
    """
    if (devices / "accel0").exists() or (devices / "vfio" / "0").exists():
        return "tpu"
    if shutil.which("nvidia-smi") is None:
        return ""
    said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        return ""
    return "cuda13" if "CUDA Version: 13" in said.stdout else "cuda12"


def install(checkout: Path) -> None:
    """Installs the checkout, editable, with all that the notebook shows.

    Raises:
      SystemExit: if pip fails; its own words stand above.
    """
    extras = ",".join(name for name in (extra(), "notebook") if name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--editable"]
    print(f"installing {_PACKAGE}[{extras}], some minutes")
    failed = subprocess.run([*command, f"{checkout}[{extras}]"], check=False).returncode
    if failed:
        raise SystemExit(
            "pip could not install the package, as it says above. Without network "
            "nothing can be installed; with an older Python than 3.11 this cannot run."
        )
    importlib.invalidate_caches()


def is_installed(checkout: Path) -> bool:
    """Returns whether this very checkout is what `import visor_jax` would find.

    What an installation by another Python left in the checkout itself does not count:
    there the package is found, and nothing that it needs.
    """
    places = [
        Path(found.locate_file("")).resolve()
        for found in importlib.metadata.distributions(name=_PACKAGE)
    ]
    if not any(place != checkout for place in places):
        return False
    spec = importlib.util.find_spec(_PACKAGE)
    return spec is not None and Path(spec.origin).is_relative_to(checkout)


def loaded_version_is_old() -> bool:
    """Returns whether the jax in this process is another than the one installed."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.__version__ != importlib.metadata.version("jax")


def main() -> None:
    """Installs what is missing and restarts the kernel if it has to be."""
    checkout = Path(__file__).resolve().parents[1]
    if is_installed(checkout):
        print(f"{_PACKAGE} is installed")
    else:
        install(checkout)
    if loaded_version_is_old():
        print("An older jax is loaded: the kernel restarts; run this cell again.")
        from IPython import get_ipython

        get_ipython().kernel.do_shutdown(restart=True)


if __name__ == "__main__":
    main()
