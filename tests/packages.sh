#!/bin/sh
# sh tests/packages.sh   what pip cannot bring for the tests: GoogleTest, and an emulator of older processors
#
# Root on a Debian gets what is missing; everybody else is told its name. Without the emulator its test is skipped.
set -eu

missing=""
echo '#include <gtest/gtest.h>' | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1 || missing="$missing libgtest-dev"
command -v qemu-x86_64 >/dev/null || command -v qemu-x86_64-static >/dev/null || missing="$missing qemu-user"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q || true
    # shellcheck disable=SC2086  # one word a package
    apt-get install -y -q $missing && exit 0
fi
echo "error: the tests lack$missing" >&2
echo "hint: install them first, on Debian or Ubuntu: sudo apt-get install$missing" >&2
case "$missing" in *libgtest-dev*) exit 1 ;; esac
