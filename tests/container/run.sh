#!/bin/bash
# bash tests/container/run.sh [PYTEST OPTIONS]   builds the images and tests them: what `make test-containers` runs
#
# With no engine of the machine's own: images are built by buildah and run by a Docker engine in namespaces of its
# own, which end with this script. Needs root, and Debian's packages where they are missing. KEEP=1 uses again what an
# earlier run built. No registry is asked: a Debian with Python, made here, stands in for the official base image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$PWD/build/container
base=localhost/python:3.11-slim-bookworm
python=$PWD/.venv/bin/python
began=$SECONDS
say() { echo "== $((SECONDS - began)) s: $*"; }
fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "the container tests are run by $(id -un), expected root" "sudo make test-containers"
missing=()
for tool in /usr/sbin/dockerd:docker.io /usr/bin/buildah:buildah /usr/sbin/runc:runc /usr/bin/mmdebstrap:mmdebstrap \
    /usr/bin/storescu:dcmtk /usr/sbin/iptables:iptables /usr/sbin/ip:iproute2 /usr/bin/nsenter:util-linux; do
    [ -x "${tool%%:*}" ] || missing+=("${tool##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "packages ${missing[*]}"
    apt-get update -q >/dev/null || true
    apt-get install -y -q --no-install-recommends "${missing[@]}" >"/tmp/fedmed-container-packages.log" 2>&1 \
        || fail "this machine lacks ${missing[*]}" "sudo apt-get install ${missing[*]}"
fi

mkdir -p "$work"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay
buildah() { /usr/bin/buildah --root "$work/storage" --runroot "$work/run" "$@"; }

make_base() {
    [ -s "$work/base.tar" ] && [ "${KEEP:-}" = 1 ] && return
    # the machine's own mirror; nothing of the machine stays in the image
    mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    SOURCE_DATE_EPOCH=1700000000 mmdebstrap --quiet --variant=minbase --mode=root --components=main \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include=usr-is-merged,ca-certificates,python3,python3-venv,python-is-python3 \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='cd "$1" && rm -rf etc/resolv.conf etc/hostname var/log/*.log var/log/apt/* \
            var/cache/ldconfig/aux-cache var/lib/dpkg/*-old && : > etc/machine-id' \
        bookworm "$work/base.part" "$mirror" >"$work/base.log" 2>&1
    mv "$work/base.part" "$work/base.tar"
}

# One target of a Containerfile as an image, the same bytes on every build of the same sources.
build() {
    buildah bud --quiet --network=none --isolation=oci --runtime /usr/sbin/runc --ulimit nofile=4096:4096 \
        --ulimit nproc=4096:4096 --format docker --timestamp 1700000000 --identity-label=false \
        --secret id=ca,src="$work/secret.pem" --ignorefile .containerignore \
        --build-arg BASE="$base" --build-arg VERSION="$("$python" -c 'import fedmed_edge as f; print(f.__version__)')" \
        --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --file "containers/$1.Containerfile" --target "$2" --tag "localhost/fedmed-$2" "${@:3}" . >"$work/$2.log" 2>&1 \
        || { cat "$work/$2.log" >&2; fail "target $2 of containers/$1.Containerfile was not built" "see the lines above"; }
}

say "base and wheels"
make_base &
if [ "${KEEP:-}" != 1 ] || ! ls containers/wheelhouse/fedmed_edge-*.whl >/dev/null 2>&1; then
    sh containers/wheelhouse.sh "$python" 2>&1 | grep -v '^WARNING: Location' || true
fi
wait $! || { cat "$work/base.log" >&2; fail "no base image was made" "see the lines above"; }
printf 'a-secret-that-must-not-stay-%s\n' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >"$work/secret.pem"

say "images"
container=$(buildah from scratch)
buildah add -q "$container" "$work/base.tar" / >/dev/null
buildah config --cmd python3 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit -q --rm --timestamp 1700000000 "$container" "$base" >/dev/null
build client infer
first=$(buildah inspect --type image --format '{{.OCIv1.RootFS.DiffIDs}}' localhost/fedmed-infer)
build client infer --no-cache
second=$(buildah inspect --type image --format '{{.OCIv1.RootFS.DiffIDs}}' localhost/fedmed-infer)
[ "$first" = "$second" ] || fail "two builds of the same sources differ" "compare $first and $second"
say "images: two builds of infer have the same digests"
build client train
build server server
for image in infer train server; do
    rm -f "$work/$image.tar"
    buildah push -q "localhost/fedmed-$image" "docker-archive:$work/$image.tar:fedmed-$image:latest"
done

say "tests"
export FEDMED_CONTAINER_WORK=$work
unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
    bash tests/container/inside.sh "$@"
say "done"
