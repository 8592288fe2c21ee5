#!/bin/sh
# sh tests/packages.sh   what pip cannot bring for the tests: GoogleTest, an emulator of older processors, and DICOM's
#                        own tools: a PACS (Orthanc), dcmtk, the validator dciodvfy, dcm2niix; and strace, PostgreSQL
#
# Root on a Debian gets what is missing; everybody else is told its name. All but GoogleTest can be missing: the tests
# that need it are skipped, and fail where CI is set.
set -eu

. "$(dirname "$0")/apt.sh"

# wants COMMAND PACKAGE...
wants() {
    command -v "$1" >/dev/null && return
    shift
    lacks "$@"
}

echo '#include <gtest/gtest.h>' | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1 || lacks libgtest-dev
command -v qemu-x86_64 >/dev/null || command -v qemu-x86_64-static >/dev/null || lacks qemu-user
wants readelf binutils
wants Orthanc orthanc
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || lacks orthanc-dicomweb
# by its place: an environment of Python brings programs of the same names
[ -x /usr/bin/storescu ] || lacks dcmtk
wants dciodvfy dicom3tools
wants dcm2niix dcm2niix
wants strace strace
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || lacks postgresql
install "the tests" || case "$missing" in *libgtest-dev*) exit 1 ;; esac
