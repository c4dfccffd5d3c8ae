#!/usr/bin/env bash
# The trace through real engines: aiperf replays the slice against the workers of conf/dynamo, once for each way of routing.
#
#   engines.sh MODEL [further arguments of `python -m dynamo.vllm`]
#
# round-robin; kv-gpu (the router counts nothing below the GPU); kv-all (it counts every tier alike). Each arm starts frontend,
# sidecars and workers anew (conf/dynamo/start.sh private: its variables count here too, e.g. WORKERS, TP, SSD_DIR) and ends
# them. Prompts are aiperf's: the same id of the trace is the same 512 tokens, so prefixes are really shared.
#   AIPERF=aiperf           the command (pip install aiperf==0.13.0, in an environment of its own)
#   OUT=build/bench/engines what aiperf exports and all logs, an arm a folder   REQUESTS=2000   TOKENIZER=MODEL
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { echo "engines.sh: $*" >&2; exit 1; }
model=${1:-}
[ -n "$model" ] || { echo "engines.sh: which MODEL?" >&2; exit 2; }
shift
aiperf=${AIPERF:-aiperf} out=${OUT:-build/bench/engines} requests=${REQUESTS:-2000}
command -v "$aiperf" >/dev/null || fail "no $aiperf: pip install aiperf==0.13.0, or name it in AIPERF"

declare -A router=(
    [round-robin]="--router-mode round-robin"
    [kv-gpu]="--router-host-cache-hit-weight 0 --router-disk-cache-hit-weight 0"
    [kv-all]="--router-host-cache-hit-weight 1 --router-disk-cache-hit-weight 1"
)
mkdir -p "$out"
# Without `pipefail` here: head ends before gzip does.
(set +o pipefail; gzip -dc "$here/data/conversation-2000.jsonl.gz" | head -n "$requests") >"$out/trace.jsonl"

deployment= replay= interrupted=
# start.sh and aiperf have children and a process group each, though only once setsid has run; until then they are signalled alone.
child() { [[ $'\n'$(jobs -rp)$'\n' == *$'\n'"$1"$'\n'* ]]; }
signal() { kill "-$2" -- "-$1" 2>/dev/null || { child "$1" && kill "-$2" "$1" 2>/dev/null; } || true; }
wait_ended() { while child "$1"; do wait "$1" || true; done; }
stop() {
    local code=$? pid
    trap - EXIT
    trap '' INT TERM
    [ -z "$interrupted" ] || code=130
    for pid in $(jobs -rp); do signal "$pid" TERM; done
    [ -z "$deployment" ] || wait_ended "$deployment"
    [ -z "$replay" ] || signal "$replay" KILL
    wait
    exit "$code"
}
trap stop EXIT
# Only noted here: where the signal comes while bash starts a pipeline, a trap that exits is cut short and would leave children
# behind. And nothing that takes long runs in the foreground: bash would note the signal only after it.
trap 'interrupted=1' INT TERM

# Fails where the deployment has ended, and ends where a signal asked for it.
check() {
    [ -z "$interrupted" ] || exit 130
    child "$deployment" && return
    tail -n 20 "$out/$arm/start.log" >&2
    fail "$arm: nothing serves"
}
for arm in round-robin kv-gpu kv-all; do
    mkdir -p "$out/$arm"
    : >"$out/$arm/start.log"
    ROUTER_ARGS=${router[$arm]} LOG_DIR=$out/$arm SSD_DIR=${SSD_DIR:-./flexkv_ssd}/$arm \
        setsid "$here/../../conf/dynamo/start.sh" private "$model" "$@" >"$out/$arm/start.log" 2>&1 &
    deployment=$!
    until grep -q '^serving at' "$out/$arm/start.log"; do
        check
        sleep 0.5 || true
    done
    check
    echo "$arm: replaying $requests requests"
    setsid "$aiperf" profile --model "$model" --tokenizer "${TOKENIZER:-$model}" --endpoint-type chat --streaming \
        --url "http://127.0.0.1:${HTTP_PORT:-8000}" --input-file "$out/trace.jsonl" \
        --custom-dataset-type mooncake_trace --fixed-schedule --ui none --artifact-dir "$out/$arm/aiperf" \
        >"$out/$arm/aiperf.log" 2>&1 &
    replay=$!
    while child "$replay"; do
        check
        sleep 0.1 || true
    done
    [ -z "$interrupted" ] || exit 130
    wait "$replay" || { tail -n 20 "$out/$arm/aiperf.log" >&2; fail "$arm: aiperf failed"; }
    replay=
    cat "$out/$arm/aiperf.log"
    signal "$deployment" TERM
    wait_ended "$deployment"
    deployment=
    [ -z "$interrupted" ] || exit 130
done
echo "raw files: $out"
