#!/bin/sh
# sh containers/wheelhouse.sh [PYTHON]   fills containers/wheelhouse, from which images are built with no network
#
# For a hospital whose builders have none: run it on a machine that has, and take the checkout along with it.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
house=containers/wheelhouse
mkdir -p "$house"
rm -f "$house"/fedmed_edge-*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$house" \
    --constraint constraints.txt -C build-dir=build/wheelhouse -C cmake.define.FEDMED_CUDA=OFF .
# what a package that comes as source alone is built with
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --constraint constraints.txt \
    --dest "$house" setuptools wheel
# the locks agree, as all come from the same constraints
cat containers/requirements/*.txt | grep -v '^#' | sort -u >"$house/requirements.txt"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement "$house/requirements.txt" --dest "$house"
