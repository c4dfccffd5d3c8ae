#!/usr/bin/env bash
# Starts NVIDIA Dynamo's frontend, FlexKV's sidecars and `dynamo.vllm` workers, waits until they serve, ends all of it.
#
#   start.sh one|private|shared|round-robin MODEL [further arguments of `python -m dynamo.vllm`]
#
#   one          one worker with a sidecar          shared       WORKERS workers around one sidecar, KV router
#   private      WORKERS workers, a sidecar each    round-robin  the same, requests in turn
#
# In the environment, with what counts otherwise:
#   WORKERS=4  TP=1            workers, and GPUs of each: worker i gets the GPUs from i * TP on (GPUS=0: no GPUs),
#                              of those in CUDA_VISIBLE_DEVICES where that is set
#   HTTP_PORT=8000             where the frontend serves, on HTTP_HOST=127.0.0.1
#   ROUTER_ARGS=               further arguments of the frontend, e.g. --router-host-cache-hit-weight 1
#   EVENT_PORT=20080           KV events of worker i go out on EVENT_PORT + i
#   RUN_DIR=/tmp  LOG_DIR=logs  SSD_DIR=./flexkv_ssd
#   DYN_DISCOVERY_BACKEND=file DYN_FILE_KV=… DYN_EVENT_PLANE=zmq: no etcd, no NATS. Set them (and ETCD_ENDPOINTS,
#                              NATS_SERVER) to use those.
#   START_TIMEOUT_S=600  STOP_TIMEOUT_S=30  PYTHON=python3  FLEXKV_CONFIG_PATH=<here>/<mode>.yaml
# Ctrl-C, or the end of any of them, ends all.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fail() { echo "start.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^# Ctrl-C/p' "${BASH_SOURCE[0]}" | cut -c3-; exit 2; }

mode=${1:-}
workers=${WORKERS:-4} router=kv config=$mode
case $mode in
    one) workers=1 ;;
    private | shared) ;;
    round-robin) router=round-robin config=shared ;;
    *) usage ;;
esac
model=${2:-}
[ -n "$model" ] || { echo "start.sh: which MODEL?" >&2; exit 2; }
shift 2

python=${PYTHON:-python3} tp=${TP:-1}
host=${HTTP_HOST:-127.0.0.1} port=${HTTP_PORT:-8000} event_port=${EVENT_PORT:-20080}
run=${RUN_DIR:-/tmp} logs=${LOG_DIR:-logs}
start_timeout=${START_TIMEOUT_S:-600} stop_timeout=${STOP_TIMEOUT_S:-30}
transfer='{"kv_connector":"FlexKVConnectorV1","kv_role":"kv_both"}'
export SSD_DIR=${SSD_DIR:-./flexkv_ssd}
export FLEXKV_CONFIG_PATH=${FLEXKV_CONFIG_PATH:-$here/$config.yaml}
export DYN_DISCOVERY_BACKEND=${DYN_DISCOVERY_BACKEND:-file} DYN_EVENT_PLANE=${DYN_EVENT_PLANE:-zmq}
export PYTHONHASHSEED=${PYTHONHASHSEED:-0}    # the same on every worker, or no worker's blocks mean another's
mkdir -p "$logs" "$SSD_DIR"

# ---- what would go wrong is said before anything is started

missing() { ! "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))" 2>/dev/null; }
missing dynamo.frontend && fail "no NVIDIA Dynamo in $python: pip install 'ai-dynamo[vllm]', or name a Python that has it in PYTHON"
missing dynamo.vllm && fail "no dynamo.vllm in $python: pip install 'ai-dynamo[vllm]'"
missing flexkv && fail "no FlexKV in $python: pip install flexkv"

case " $* " in *" --kv-events-config"*)
    fail "--kv-events-config is start.sh's: each worker needs an event port of its own (EVENT_PORT, now $event_port)" ;;
esac
taken() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }
taken "$port" "$host" && fail "port $port of $host is taken: set HTTP_PORT to a free one"
for ((i = 0; i < workers; i++)); do
    if taken $((event_port + i)); then
        fail "port $((event_port + i)), for the KV events of worker $i, is taken: set EVENT_PORT to the first of $workers free ones"
    fi
done
gpus=()
if [ "${GPUS:-1}" != 0 ]; then
    needed=$((workers * tp))
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
        [ "${#gpus[@]}" -ge "$needed" ] ||
            fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has ${#gpus[@]} GPUs, $workers workers with TP=$tp need $needed:" \
                "lower WORKERS or TP, or set GPUS=0 for none"
    else
        read -ra gpus <<<"$(seq -s ' ' 0 $((needed - 1)))"
    fi
fi

# ---- starting and ending

names=() groups=()
# Everything runs in a process group of its own, which is ended as a whole: workers have children.
start() {
    local name=$1
    shift
    setsid "$@" >"$logs/$name.log" 2>&1 </dev/null &
    names+=("$name") groups+=($!)
    echo "$name: pid $!, $logs/$name.log"
}
# A child is in its own group only once setsid has run; until then it is signalled itself.
child() { [[ $'\n'$(jobs -rp)$'\n' == *$'\n'"$1"$'\n'* ]]; }
alive() { kill -0 -- "-$1" 2>/dev/null || child "$1"; }
signal() { kill "-$2" -- "-$1" 2>/dev/null || { child "$1" && kill "-$2" "$1" 2>/dev/null; } || true; }
some_alive() { for group in "${groups[@]}"; do if alive "$group"; then return 0; fi; done; return 1; }
# Newest first: workers leave before the frontend and their sidecar.
signal_all() { for ((g = ${#groups[@]} - 1; g >= 0; g--)); do signal "${groups[g]}" "$1"; done; }
discovery= interrupted=
stop() {
    local code=$? pid
    [ "$BASHPID" = $$ ] || exit 130    # a child that is not what it shall be yet, and was signalled
    trap - EXIT
    trap '' INT TERM
    [ -z "$interrupted" ] || code=130
    for pid in $(jobs -rp); do    # a signal may have come before start() noted its child
        case " ${groups[*]:-} " in *" $pid "*) ;; *) groups+=("$pid") ;; esac
    done
    [ "${#groups[@]}" -eq 0 ] || {
        signal_all TERM
        local until=$((SECONDS + stop_timeout))
        while some_alive && [ $SECONDS -lt $until ]; do sleep 0.1; done
        signal_all KILL
        wait
    }
    [ -z "$discovery" ] || rm -rf "$discovery"
    exit "$code"
}
trap stop EXIT
# Only noted here: where the signal comes while bash starts a pipeline, a trap that exits is cut short and would
# leave children behind, and `set -e` ends the script after one that does not.
trap 'interrupted=1' INT TERM

# Fails where one of them has ended, and ends where a signal asked for it.
check() {
    [ -z "$interrupted" ] || exit 130
    for ((g = 0; g < ${#groups[@]}; g++)); do
        kill -0 "${groups[g]}" 2>/dev/null && continue
        echo "start.sh: ${names[g]} ended: ending all. The last lines of $logs/${names[g]}.log:" >&2
        tail -n 15 "$logs/${names[g]}.log" | sed 's/^/    /' >&2
        exit 1
    done
}
# wait_for WHAT CONDITION…: until it holds, nobody has ended, and there is time.
began=$SECONDS
wait_for() {
    local what=$1
    shift
    until "$@"; do
        check
        [ $((SECONDS - began)) -lt "$start_timeout" ] || fail "$what: not within $start_timeout s (START_TIMEOUT_S); see $logs"
        sleep 0.3 || true
    done
}

address() { if [ "$config" = shared ]; then echo "$run/flexkv_dynamo"; else echo "$run/flexkv_dynamo_$1"; fi; }
# Whether the sidecar started last answers there, and not somebody who was there before.
listens() { "$python" -m flexkv.cli status 2>/dev/null | grep -q "\"pid\": ${groups[-1]},"; }
serve() { # serve NAME NUMBER: a sidecar; at an address that is taken it ends at once and says so
    local socket
    socket=$(address "$2")
    export FLEXKV_SERVER_RECV_PORT="ipc://$socket" WORKER=$2
    start "$1" "$python" -m flexkv.cli serve
    wait_for "$1 answers at $socket" listens
    check
}

if [ "$DYN_DISCOVERY_BACKEND" = file ] && [ -z "${DYN_FILE_KV:-}" ]; then
    discovery=$(mktemp -d)
    export DYN_FILE_KV=$discovery
fi
if [ "$config" = shared ]; then
    serve sidecar 0
else
    for ((i = 0; i < workers; i++)); do serve "sidecar-$i" "$i"; done
fi
# shellcheck disable=SC2086 (words are what is wanted)
start frontend "$python" -m dynamo.frontend --router-mode "$router" --http-host "$host" --http-port "$port" ${ROUTER_ARGS:-}
for ((i = 0; i < workers; i++)); do
    environment=("WORKER=$i" "FLEXKV_SERVER_RECV_PORT=ipc://$(address "$i")")
    [ "$config" != shared ] || environment+=("FLEXKV_INSTANCE_ID=$i" "FLEXKV_INSTANCE_NUM=$workers")
    [ "${GPUS:-1}" = 0 ] || environment+=("CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:i * tp:tp}")")
    events='{"enable_kv_cache_events":true,"publisher":"zmq","topic":"kv-events","endpoint":"tcp://*:'$((event_port + i))'"}'
    start "worker-$i" env "${environment[@]}" "$python" -m dynamo.vllm --model "$model" \
        --tensor-parallel-size "$tp" --kv-transfer-config "$transfer" --kv-events-config "$events" "$@"
done

# The frontend's health lists an instance of the endpoint `generate` for each worker that serves.
healthy() {
    "$python" - "http://$host:$port/health" "$workers" <<'PYTHON'
import json, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
        found = json.load(answer).get("instances", [])
except OSError:
    sys.exit(1)
serving = {row.get("instance_id") for row in found if row.get("endpoint") == "generate"}
sys.exit(len(serving) < int(sys.argv[2]))
PYTHON
}
wait_for "$workers workers serve" healthy
echo "serving at http://$host:$port ($workers workers, $mode)"
while check; do sleep 1 || true; done
