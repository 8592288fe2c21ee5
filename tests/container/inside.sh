#!/bin/bash
# The part of run.sh within its namespaces: an engine, the images, pytest.
set -euo pipefail
work=$FEDMED_CONTAINER_WORK
ip link set lo up
export DOCKER_HOST=unix://$work/docker.sock
rm -rf "$work/docker" "$work/exec" "$work/docker.pid"
mkdir -p "$work/docker" "$work/exec"
/usr/sbin/dockerd --data-root "$work/docker" --exec-root "$work/exec" --host "$DOCKER_HOST" --pidfile "$work/docker.pid" \
    --bip 10.232.0.1/24 --default-ulimit nofile=4096:4096 >"$work/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 120); do
    /usr/bin/docker info >/dev/null 2>&1 && break
    kill -0 $engine 2>/dev/null || break
    sleep 0.5
done
/usr/bin/docker info >/dev/null 2>&1 || { tail -20 "$work/dockerd.log" >&2; echo "error: no container engine came up" >&2; exit 1; }
for image in "$work"/images/fedmed-*.tar; do /usr/bin/docker load --quiet --input "$image"; done
code=0
"$PWD/.venv/bin/python" -m pytest --timeout 900 --basetemp "$work/tmp" tests/container "$@" || code=$?
kill $engine
wait $engine || true
exit $code
