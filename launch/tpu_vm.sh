#!/usr/bin/env bash
# Runs the same training command on every worker of a TPU VM (single slice).
#
#   launch/tpu_vm.sh NAME ZONE --config=configs/universal.py:llava_ov_0p5b \
#       --config.data.path=/mnt/BUCKET/DATA --workdir=gs://BUCKET/RUN
#
# Data lie in a folder that all workers share: a bucket that each has mounted (gcsfuse),
# or a network drive. The workdir may be such a folder, or in a bucket itself; the VM's
# service account needs the role Storage Object User there.
#
# Every argument after NAME and ZONE goes to `python -m visor_jax.train` as it is. The
# repository must lie in ~/visor_jax on all workers, installed for TPUs and gs://:
#
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command \
#       'cd visor_jax && pip install -e ".[tpu,gcs]"'
#
# All workers must run the command (--worker=all): with fewer the others wait for them.
# The same call again goes on with a run that was stopped.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,/^[^#]/{/^#/p}' "$0" >&2
    exit 2
fi
name=$1 zone=$2
shift 2
arguments=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd visor_jax && python -m visor_jax.train --distributed$arguments"
