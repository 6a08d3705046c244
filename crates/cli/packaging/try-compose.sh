#!/usr/bin/env bash
# What compose.yaml starts, as processes: the same commands, variables, certificates and key, names
# of services resolved to this machine by a pinned port. Asks one question.
#
#     crates/cli/packaging/try-compose.sh MARILL PARTITION
set -euo pipefail
marill=$(realpath "$1")
partition=$(realpath "$2")
here=$(realpath "$(dirname "$0")")
scratch=$(mktemp -d)
processes=()
finish() {
    kill "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

cp "$here/compose-secrets.sh" "$scratch"
(cd "$scratch" && ./compose-secrets.sh >/dev/null 2>&1)
secrets=$scratch/secrets

# Variables of a service of compose.yaml, with paths and names of this machine. The names `dealer`
# and `server` need an entry each in /etc/hosts, as the gateway's container gets them.
variables() {
    python3 - "$here/compose.yaml" "$1" "$secrets" <<'PYTHON'
import re, sys
text, service, secrets = open(sys.argv[1]).read(), sys.argv[2], sys.argv[3]
block = re.search(rf"^  {service}:\n((?:    .*\n|\n)+)", text, re.M).group(1)
for name, value in re.findall(r'^      (MARILL_\w+): "?([^"\n]*)"?$', block, re.M):
    value = value.replace("/run/secrets", secrets)
    if name.endswith("_HOST"):
        value = "127.0.0.1"
    print(f"{name}={value}")
PYTHON
}

start() {
    local service=$1
    shift
    : >"$scratch/$service.log"
    env -i HOME="$scratch/$service" PATH=/usr/bin:/bin MARILL_STATE="$scratch/$service/state" \
        MARILL_CACHE="$scratch/$service/cache" MARILL_VAULT="$scratch/$service/vault" \
        $(variables "$service") "$marill" "$@" 2>"$scratch/$service.log" &
    processes+=($!)
    # Containers that come too early are started again; processes are not.
    for _ in $(seq 300); do
        grep -q "listening on" "$scratch/$service.log" && return
        sleep 0.2
    done
    tail -n 5 "$scratch/$service.log" >&2
    exit 1
}

for name in dealer server; do
    getent hosts $name >/dev/null || {
        echo "the name \`$name\` must be 127.0.0.1 in /etc/hosts" >&2
        exit 1
    }
done
mkdir -p "$scratch/dealer/state/dealer" "$scratch/server" "$scratch/gateway"
cp "$secrets/server.key" "$scratch/dealer/state/dealer/server.key"
start dealer dealer
start server serve "$partition"
start gateway gateway
curl -sf http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
    -d '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}' || {
    tail -n 5 "$scratch"/*.log >&2
    exit 1
}
echo
