#!/bin/sh
# Installs the distribution packages that are missing: `packages.sh run` for running tcpmon, `packages.sh deb` for
# making its package, `packages.sh test` for its tests and benchmarks, `packages.sh bench` for the tools that it is
# measured beside, `packages.sh vm` for the tests on other kernels.
# Says what it installs; does nothing where all are there.
set -eu

run='python3 python3-venv python3-bpfcc python3-systemd libbpf1 procps'
deb='dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools lintian'
test='bpftool iproute2 nftables iptables procps util-linux passwd libcap2-bin curl openssl gcc libc6-dev clang-format
	shellcheck mandoc zsh bash-completion systemd systemd-journal-remote chromium chromium-driver redis-tools
	apache2-utils faketime'
# Of these the tests start their own, with configurations of their own: the system's must not run for that
services='prometheus nginx redis-server'
bench='bpfcc-tools libbpf-tools bpftrace'
vm='qemu-system-x86 mmdebstrap e2fsprogs busybox-static kmod'

case ${1:-run} in
run) wanted=$run ;;
deb) wanted=$deb ;;
test) wanted="$run $deb $test $services" ;;
bench) wanted="$run $test $bench" ;;
vm) wanted="$run $deb $vm" ;;
*)
	echo "usage: packages.sh [run|deb|test|bench|vm]" >&2
	exit 2
	;;
esac
# Ubuntu 22.04 has libbpf of the series 0, and bpftool in its kernel tools
# shellcheck source=/dev/null
. /etc/os-release
if [ "${VERSION_ID:-}" = 22.04 ]; then
	wanted=$(echo "$wanted" | sed 's/libbpf1/libbpf0/; s/bpftool/linux-tools-generic/')
fi
# Ubuntu has Chromium as a snap only: the tests that need it are skipped there
if [ "${ID:-}" = ubuntu ]; then
	wanted=$(echo "$wanted" | sed 's/chromium-driver//; s/chromium//')
fi

missing=
for package in $wanted; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

echo "installing:$missing"
if [ "$(id -u)" != 0 ]; then
	echo "packages.sh: must be root to install; run: sudo apt-get install$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q

# A service that comes with a package is neither started nor enabled; one that was there before stays as it was
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' INT TERM HUP
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold $missing
for service in $services; do
	case " $missing " in
	*" $service "*)
		systemctl disable --quiet "$service.service"
		[ ! -d /run/systemd/system ] || systemctl stop "$service.service"
		;;
	esac
done
