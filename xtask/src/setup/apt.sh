# Installs the packages that are named by the arguments, removes none, and starts no service.
# Run by `cargo xtask setup` as `sh -c`: a shell keeps its traps when xtask itself is killed.
set -eu
policy=/usr/sbin/policy-rc.d
mark='# Written by cargo xtask setup: what it installs starts no services.'

# Ours may be left from a run that was killed; another's stays and is obeyed.
if [ ! -e "$policy" ] || grep -qF "$mark" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get --quiet --quiet --yes --no-install-recommends --no-remove \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    install "$@"
