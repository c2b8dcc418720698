# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts: where the tree is, what to install, how to say so.

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages=(
  build-essential meson ninja-build pkg-config python3-minimal ccache mold
  libseccomp-dev liburing-dev libboost1.81-dev libboost-context1.81-dev libfmt-dev libcli11-dev
  nlohmann-json3-dev catch2
)

test_packages=(
  procps psmisc iproute2 jq strace attr acl file less bc time util-linux xz-utils gzip bzip2 tar perl python3 git
  make gcc g++ musl-tools busybox-static sqlite3 redis-server redis-tools nginx-light wrk
  postgresql postgresql-contrib libcap2-bin
)

# Installed only when no other version of the program is there already.
declare -A test_programs=(
  [node]=nodejs [javac]=default-jdk-headless [go]=golang-go [clang++-19]=clang-19 [runc]=runc [clang-rt-19]=libclang-rt-19-dev
)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null) == *'ok installed'* ]] || echo "$package"
  done
}

# Installs what is missing; daemons that the packages bring must not start by themselves.
apt_install() {
  local -a wanted
  mapfile -t wanted < <(missing_packages "$@")
  [ ${#wanted[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: ${wanted[*]}"
  say "installing: ${wanted[*]}"
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    made_policy=1
  fi
  local status=0
  apt_get_quiet install -y --no-install-recommends "${wanted[@]}" || {
    apt_get_quiet update && apt_get_quiet install -y --no-install-recommends "${wanted[@]}"
  } || status=$?
  [ -z "$made_policy" ] || rm -f $policy
  return $status
}

apt_get_quiet() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2
}

# clang 19 and the like live in backports or in other suites on some machines; one that
# apt does not know is left out, and the test that needs it says so.
known_to_apt() { apt-cache show "$1" >/dev/null 2>&1; }

now_ms() { date +%s%3N; }
