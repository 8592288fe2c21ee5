#!/bin/sh
# sh install.sh FOLDER NAME   makes a virtual environment with what requirements/NAME.txt locks, and the project
#
# Run inside an image that is being built. With wheels in containers/wheelhouse (see wheelhouse.sh) no network is
# used; without, pip's index is, and a compiler from Debian's packages builds the project.
set -eu
folder=$1 name=$2
here=$(cd "$(dirname "$0")" && pwd)
[ -s /run/secrets/ca.pem ] && export PIP_CERT=/run/secrets/ca.pem
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

python3 -m venv /opt/build
python3 -m venv --without-pip "$folder"
install() {
    /opt/build/bin/pip --python "$folder/bin/python3" install --no-compile "$@"
}

if ls "$here"/wheelhouse/fedmed_edge-*.whl >/dev/null 2>&1; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$here/wheelhouse"
    wheel=$(ls "$here"/wheelhouse/fedmed_edge-*.whl)
else
    apt-get update -q
    apt-get install -y -q --no-install-recommends g++ make python3-dev
    /opt/build/bin/pip wheel --no-deps --wheel-dir /tmp/wheel --constraint "$here/../constraints.txt" \
        -C cmake.define.FEDMED_CUDA=OFF "$here/.."
    wheel=$(ls /tmp/wheel/fedmed_edge-*.whl)
    [ -z "${TORCH_INDEX:-}" ] || export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"
fi
install --require-hashes --requirement "$here/requirements/$name.txt"
install --no-deps "$wheel"
packages=$(echo "$folder"/lib/python3*/site-packages)
# What no program here loads is a fifth of the slim image: the packages' own tests, headers and libraries for
# compilers, tools for making models.
find "$packages" -type d -name tests -prune -exec rm -rf {} +
spare="torch/include torch/share torch/test torch/bin/test_* torch/bin/protoc* onnxruntime/capi/libonnxruntime.so.*"
[ "${name#infer}" = "$name" ] || spare="$spare onnxruntime/transformers onnxruntime/quantization onnxruntime/tools"
(cd "$packages" && rm -rf $spare)  # unquoted: several, some of them patterns
# Bytecode by hash, not by time, so that the same files come of every build and none is compiled again in a read-only
# container; not of what is rarely imported.
PYTHONHASHSEED=0 "$folder/bin/python3" -m compileall -q --invalidation-mode unchecked-hash \
    -x '/(pygments|nibabel|highdicom|sympy|networkx)/' "$packages" || echo "templates among the packages are no programs"
