#!/usr/bin/env bash
# Runs a training command on the GPUs of a Slurm cluster, one process for each GPU.
#
#   sbatch --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --time=24:00:00 \
#       launch/slurm_gpu.sh --config=configs/universal.py:llava_ov_0p5b \
#       --config.data.path=/shared/DATA --workdir=/shared/RUN
#
# Submit it from the repository's root. As many tasks as GPUs on every node; whatever
# else the cluster wants to know (account, partition, memory) goes to sbatch as well.
# Every argument after the script goes to `python -m visor_jax.train` as it is; data and
# workdir lie on a disk that all nodes share. Before: pip install -U "jax[cuda13]" and
# pip install -e . in the Python environment that is active when this is submitted.
#
# Two minutes before the time is up Slurm sends SIGTERM: the run saves and ends. The same
# call again goes on with it. Cut short by another's job, it is put back into the queue
# and goes on by itself.
#
#SBATCH --job-name=visor_jax
#SBATCH --output=visor_jax-%j.log
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ "$#" -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    sed -n '2,/^[^#]/{/^#/p}' "$0" >&2
    exit 2
fi
# One process that fails takes the others with it at once.
exec srun --kill-on-bad-exit=1 python -m visor_jax.train --distributed "$@"
