#!/usr/bin/env bash
# Starts several vLLM workers of one machine, around one sidecar or with one each.
#
#   start.sh shared|private MODEL [further arguments of `vllm serve`]
#
# Workers listen on ports BASE_PORT (8000), +1, …; their output goes to LOG_DIR (logs) /worker-<i>.log.
# WORKERS (4) says how many there are, TP (1) how many GPUs each has: worker i gets the GPUs from
# i * TP on. On a machine without GPUs set GPUS=0. STOP_TIMEOUT_S (30) is how long a worker may take
# to end. Ctrl-C, or the end of one worker, ends all.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=${1:-}
model=${2:-}
case $mode in shared | private) ;; *) sed -n '2,9p' "${BASH_SOURCE[0]}" | cut -c3-; exit 2 ;; esac
[ -n "$model" ] || { echo "start.sh: which MODEL?" >&2; exit 2; }
shift 2

workers=${WORKERS:-4}
tp=${TP:-1}
base_port=${BASE_PORT:-8000}
logs=${LOG_DIR:-logs}
transfer='{"kv_connector":"FlexKVConnectorV1","kv_role":"kv_both"}'
mkdir -p "$logs"

pids=() interrupted=
stop() {
    local code=$?
    [ "$BASHPID" = $$ ] || exit 130    # a worker that is not vLLM yet, and was signalled
    local until=$((SECONDS + ${STOP_TIMEOUT_S:-30}))
    trap - EXIT
    trap '' INT TERM
    [ -z "$interrupted" ] || code=130
    # By the shell's own list: a signal may have come before a worker's pid was noted.
    kill $(jobs -rp) 2>/dev/null || true
    while [ -n "$(jobs -rp)" ] && [ $SECONDS -lt $until ]; do sleep 0.1; done
    kill -KILL $(jobs -rp) 2>/dev/null || true
    wait
    exit "$code"
}
trap stop EXIT
# Only noted here: where the signal comes while bash starts a worker, a trap that exits is cut short and would leave that
# worker behind. (And no command substitutions below: bash may fail to parse one that a trap comes amid.)
trap 'interrupted=1' INT TERM

for ((i = 0; i < workers; i++)); do
    [ -z "$interrupted" ] || exit
    environment=("WORKER=$i" "FLEXKV_CONFIG_PATH=${FLEXKV_CONFIG_PATH:-$here/$mode.yaml}")
    [ "$mode" = private ] || environment+=("FLEXKV_INSTANCE_ID=$i" "FLEXKV_INSTANCE_NUM=$workers")
    if [ "${GPUS:-1}" != 0 ]; then
        gpus=$((i * tp))
        for ((gpu = i * tp + 1; gpu < (i + 1) * tp; gpu++)); do gpus+=,$gpu; done
        environment+=("CUDA_VISIBLE_DEVICES=$gpus")
    fi
    env "${environment[@]}" vllm serve "$model" --port $((base_port + i)) \
        --tensor-parallel-size "$tp" --kv-transfer-config "$transfer" "$@" \
        >"$logs/worker-$i.log" 2>&1 &
    pids+=($!)
    echo "worker $i: port $((base_port + i)), pid $!, $logs/worker-$i.log"
done

while [ -z "$interrupted" ]; do
    for ((i = 0; i < workers; i++)); do
        kill -0 "${pids[i]}" 2>/dev/null && continue
        echo "start.sh: worker $i ended: ending all. The last lines of $logs/worker-$i.log:" >&2
        tail -n 15 "$logs/worker-$i.log" | sed 's/^/    /' >&2
        exit 1
    done
    sleep 0.3 || true
done
