#!/usr/bin/env bash
# Runs the same training command as several processes on this machine: to try out what a
# pod does, or to use a machine's processors one process each.
#
#   launch/local.sh COUNT --config=configs/universal.py --workdir=RUN
#
# Every argument after COUNT goes to `python -m visor_jax.train` as it is. On a CPU every
# process has JAX_NUM_CPU_DEVICES devices (1 by default).
#
# Ctrl-C and SIGTERM go to one process, which tells the others: all save at the same step
# and end. If one fails, the others end with an error within a minute. The exit code is
# that of the first process that failed. The same call again goes on with the run.
set -euo pipefail

if [ "$#" -lt 2 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,/^[^#]/{/^#/p}' "$0" >&2
    exit 2
fi
count=$1
shift
python=${PYTHON:-python}
port=$("$python" -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])
')

processes=()
for ((index = 0; index < count; index++)); do
    "$python" -m visor_jax.train --coordinator="127.0.0.1:$port" \
        --num_processes="$count" --process_id="$index" "$@" &
    processes+=("$!")
done

trap 'kill -TERM "${processes[0]}" 2>/dev/null || true' INT TERM
code=0
for process in "${processes[@]}"; do
    # A signal to this script ends `wait` before the process has ended.
    while :; do
        status=0
        wait "$process" || status=$?
        kill -0 "$process" 2>/dev/null || break
    done
    [ "$code" -ne 0 ] || code=$status
done
exit "$code"
