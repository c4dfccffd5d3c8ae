#!/usr/bin/env bash
# Starts several vLLM workers of one machine, around one sidecar or with one each.
#
#   start.sh shared|private MODEL [further arguments of `vllm serve`]
#
# Workers listen on ports BASE_PORT (8000), +1, …; their output goes to LOG_DIR (logs) /worker-<i>.log.
# WORKERS (4) says how many there are, TP (1) how many GPUs each has: worker i gets the GPUs from
# i * TP on. On a machine without GPUs set GPUS=0. Ctrl-C, or the end of one worker, ends all.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=${1:-}
model=${2:-}
case $mode in shared | private) ;; *) sed -n '2,8p' "${BASH_SOURCE[0]}" | cut -c3-; exit 2 ;; esac
[ -n "$model" ] || { echo "start.sh: which MODEL?" >&2; exit 2; }
shift 2

workers=${WORKERS:-4}
tp=${TP:-1}
base_port=${BASE_PORT:-8000}
logs=${LOG_DIR:-logs}
transfer='{"kv_connector":"FlexKVConnectorV1","kv_role":"kv_both"}'
mkdir -p "$logs"

pids=()
stop() {
    trap - EXIT INT TERM
    [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 130' INT TERM

for ((i = 0; i < workers; i++)); do
    environment=("WORKER=$i" "FLEXKV_CONFIG_PATH=${FLEXKV_CONFIG_PATH:-$here/$mode.yaml}")
    [ "$mode" = private ] || environment+=("FLEXKV_INSTANCE_ID=$i" "FLEXKV_INSTANCE_NUM=$workers")
    if [ "${GPUS:-1}" != 0 ]; then
        environment+=("CUDA_VISIBLE_DEVICES=$(seq -s, $((i * tp)) $((i * tp + tp - 1)))")
    fi
    env "${environment[@]}" vllm serve "$model" --port $((base_port + i)) \
        --tensor-parallel-size "$tp" --kv-transfer-config "$transfer" "$@" \
        >"$logs/worker-$i.log" 2>&1 &
    pids+=($!)
    echo "worker $i: port $((base_port + i)), pid $!, $logs/worker-$i.log"
done

wait -n || true
for ((i = 0; i < workers; i++)); do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    echo "start.sh: worker $i ended: ending all. The last lines of $logs/worker-$i.log:" >&2
    tail -n 15 "$logs/worker-$i.log" | sed 's/^/    /' >&2
    break
done
exit 1
