#!/usr/bin/env bash
# Runs a training command on TPU slices of a GKE cluster, with XPK (pip install xpk).
#
#   CLUSTER=my-cluster IMAGE=REGION-docker.pkg.dev/PROJECT/REPO/visor_jax \
#       launch/gke_xpk.sh NAME TPU_TYPE \
#       --config=configs/universal.py:llava_ov_0p5b \
#       --config.data.path=/mnt/BUCKET/DATA --workdir=gs://BUCKET/RUN
#
# NAME is the workload's, TPU_TYPE e.g. v5litepod-64. Every argument after the two goes
# to `python -m visor_jax.train` as it is. From the environment:
#   CLUSTER      a cluster that `xpk cluster create` made
#   IMAGE        a container image in which this repository lies in /visor_jax, installed
#                with its extras tpu and gcs
#   NUM_SLICES   slices of the type (1 by default)
# Data lie in a storage that all hosts see: `xpk storage attach` with --auto-mount=true
# mounts a bucket in every workload. The workdir may lie there too, or in a bucket itself
# (gs://), where the cluster's service account has the role Storage Object User.
#
# A workload that is preempted is started again up to MAX_RESTARTS times (20 by default)
# and goes on from its last checkpoint; so does the same call under another NAME.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,/^[^#]/{/^#/p}' "$0" >&2
    exit 2
fi
: "${CLUSTER:?set CLUSTER to the name of the cluster}"
: "${IMAGE:?set IMAGE to the container image}"
name=$1 type=$2
shift 2
arguments=$(printf ' %q' "$@")
exec xpk workload create --cluster="$CLUSTER" --workload="$name" \
    --tpu-type="$type" --num-slices="${NUM_SLICES:-1}" --docker-image="$IMAGE" \
    --max-restarts="${MAX_RESTARTS:-20}" \
    --command="cd /visor_jax && python -m visor_jax.train --distributed$arguments"
