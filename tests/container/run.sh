#!/bin/bash
# bash tests/container/run.sh [PYTEST OPTIONS]   builds the images and tests them: what `make test-containers` runs
#
# With no engine of the machine's own: images are built by buildah and run by a Docker engine in namespaces of its
# own, which end with this script. Needs root and what packages.sh brings. KEEP=1 uses again what an earlier run built:
# base, wheels and images. No registry is asked: a Debian with Python, made here, stands in for the official base image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$PWD/build/container
python=$PWD/.venv/bin/python
began=$SECONDS
say() { echo "== $((SECONDS - began)) s: $*"; }
fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 1; }
kept() { [ "${KEEP:-}" = 1 ] && ls "$@" >/dev/null 2>&1; }

[ "$(id -u)" = 0 ] || fail "the container tests are run by $(id -un), expected root" "sudo make test-containers"
mkdir -p "$work"
export CONTAINERS_STORAGE_CONF=$work/storage.conf BASE=localhost/python:3.11-slim-bookworm
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$work/storage" "$work/run" \
    >"$CONTAINERS_STORAGE_CONF"

make_base() {
    rm -rf "$work/base.part" "$work/base.tar"  # of an earlier run, which this one would be put into
    # the machine's own mirror; nothing of the machine stays in the image
    mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    SOURCE_DATE_EPOCH=1700000000 mmdebstrap --quiet --variant=minbase --mode=root --components=main \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include=usr-is-merged,ca-certificates,python3,python3-venv,python-is-python3 \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='cd "$1" && rm -rf etc/resolv.conf etc/hostname var/log/*.log var/log/apt/* \
            var/cache/ldconfig/aux-cache var/lib/dpkg/*-old && : > etc/machine-id' \
        bookworm "$work/base.part" "${mirror:-http://deb.debian.org/debian}" >"$work/base.log" 2>&1
    mv "$work/base.part" "$work/base.tar"
}

# One release of some targets, in a folder of their own.
release() {
    sh containers/release.sh "$work/release.key" "$@" >"$work/release.log" 2>&1 \
        || { cat "$work/release.log" >&2; fail "the images were not built" "see the lines above"; }
}

# Digests of infer's layers; its configuration holds a name that the engine made up.
layers() { tar -xOf "$work/$1/fedmed-infer.tar" manifest.json | sed 's/.*"Layers"//'; }

build_images() {
    say "base and wheels"
    kept "$work/base.tar" || make_base &
    kept containers/wheelhouse/fedmed_edge-*.whl \
        || sh containers/wheelhouse.sh "$python" >"$work/wheels.log" 2>&1 \
        || { cat "$work/wheels.log" >&2; fail "not all wheels are there" "see the lines above"; }
    wait $! || { cat "$work/base.log" >&2; fail "no base image was made" "see the lines above"; }
    printf 'a-secret-that-must-not-stay-%s\n' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >"$work/secret.pem"
    openssl genpkey -algorithm ed25519 -out "$work/release.key"
    openssl pkey -in "$work/release.key" -pubout -out "$work/release.pub"

    say "images"
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/base.tar" / >/dev/null
    buildah config --cmd python3 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit -q --rm --timestamp 1700000000 "$container" "$BASE" >/dev/null
    export BUILD_OPTIONS="--network=none --isolation=oci --runtime /usr/sbin/runc --ulimit nofile=4096:4096 \
        --ulimit nproc=4096:4096 --secret id=ca,src=$work/secret.pem"
    release "$work/images"
    say "infer once more"
    release "$work/again" infer
    [ "$(layers again)" = "$(layers images)" ] \
        || fail "two builds of the same sources differ" "compare build/container/again with build/container/images"
}

export PATH=$PWD/.venv/bin:/usr/sbin:/usr/bin:$PATH
kept "$work/images/SHA256SUMS.sig" || build_images
cat "$work/images/images.txt"

say "tests"
export FEDMED_CONTAINER_WORK=$work
unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
    bash tests/container/inside.sh "$@"
say "done"
