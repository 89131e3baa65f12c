"""Flags that several commands share: declared when a command asks for them."""

import json
import subprocess
import sys


def test_importing_commands_declares_none_of_them():
    code = (
        "import json; from absl import flags; before = set(flags.FLAGS);"
        "import visor_jax.train, visor_jax.generate, visor_jax.plan.__main__;"
        "added = set(flags.FLAGS) - before; print(json.dumps(sorted(added)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = {"config", "workdir", "checkpoint", "budget", "mesh", "coordinator"}
    assert not ours & set(json.loads(done.stdout))
