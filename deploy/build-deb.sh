#!/bin/sh
# Builds dist/tcpmon_VERSION_all.deb of this tree as it is. Needs what `deploy/packages.sh deb` installs.
set -eu
cd "$(dirname "$0")/.."

# The distribution's python and tools, whatever else is installed
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
if ! command -v dpkg-buildpackage >/dev/null || ! command -v dh_python3 >/dev/null; then
	echo "build-deb.sh: the tools that build packages are missing; run: deploy/packages.sh deb" >&2
	exit 1
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
# The same tree gives the same package
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

tree=build/deb/tcpmon-$version
log=build/deb/build.log
rm -rf build/deb
mkdir -p "$tree" dist
tar -c --exclude=__pycache__ CHANGELOG.md LICENSE README.md config deploy docs grafana pyproject.toml tcpmon | tar -x -C "$tree"
cp -r deploy/debian "$tree/debian"
cp deploy/systemd/tcpmon.service deploy/systemd/tcpmon.socket deploy/systemd/tcpmon.sysusers "$tree/debian/"
python3 deploy/changelog.py "$version" >"$tree/debian/changelog"

echo "building tcpmon $version in $tree"
if ! (cd "$tree" && dpkg-buildpackage --build=binary --no-sign) >"$log" 2>&1; then
	tail -n 40 "$log" >&2
	echo "build-deb.sh: the build failed; all of it is in $log" >&2
	exit 1
fi
cp "build/deb/tcpmon_${version}_all.deb" dist/
echo "made dist/tcpmon_${version}_all.deb; install it with: apt install ./dist/tcpmon_${version}_all.deb"
