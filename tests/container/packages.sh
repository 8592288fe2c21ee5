#!/bin/sh
# sh tests/container/packages.sh   what pip cannot bring for the tests of the images: buildah, Docker's engine, a maker
#                                  of base images, and what stands around them: dcmtk, a PACS, a wrong clock
#
# Root on a Debian gets what is missing; everybody else is told its name. Nothing of it can be missing.
set -eu

. "$(dirname "$0")/../apt.sh"

# wants FILE PACKAGE...   by its place: another program of the same name may come first in PATH
wants() {
    [ -e "$1" ] && return
    shift
    lacks "$@"
}

wants /usr/sbin/dockerd docker.io
wants /usr/bin/docker-compose docker-compose
wants /usr/bin/buildah buildah
wants /usr/sbin/runc runc
wants /usr/bin/mmdebstrap mmdebstrap
wants /usr/sbin/iptables iptables
wants /usr/sbin/ip iproute2
wants /usr/bin/nsenter util-linux
wants /usr/bin/openssl openssl
wants /usr/bin/systemd-analyze systemd
wants /usr/bin/storescu dcmtk
wants /usr/sbin/Orthanc orthanc
wants /usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 libfaketime
install "the tests of the images"
