# What packages.sh of the tests share: `lacks PACKAGE...` notes what is missing; `install WHO` gets it as root on a
# Debian, tells everybody else its name, and says by its end whether it is there.

missing=""
lacks() {
    missing="$missing $*"
}

install() {
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q || true
        # shellcheck disable=SC2086  # one word a package
        apt-get install -y -q --no-install-recommends $missing && return 0
    fi
    echo "error: $1 lack$missing" >&2
    echo "hint: install them first, on Debian or Ubuntu: sudo apt-get install$missing" >&2
    return 1
}
