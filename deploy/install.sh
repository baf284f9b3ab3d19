#!/bin/sh
# Installs tcpmon from this tree, or takes it away again: `deploy/install.sh install|uninstall`.
#
# PREFIX (/usr/local) is where it goes. DESTDIR (none) stands before every path, for packagers and tests: with it,
# nothing of the running system is touched. What was put is listed in $PREFIX/share/tcpmon/installed, and uninstall
# takes away just that. Should an installation fail on its way, all is put back as it was.
set -eu
umask 022

source=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-/usr/bin/python3} # the distribution's: bcc comes with it and imports under no other
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
config=/etc/tcpmon/tcpmon.yaml
listed=$PREFIX/share/tcpmon/installed
# Besides /usr/lib, the only place where systemd looks for units, users and message catalogs that are not the admin's
system=/usr/local/lib/systemd
[ "$PREFIX" = /usr ] && system=/usr/lib/systemd
users=$(dirname "$system")/sysusers.d/tcpmon.conf

fail() {
	echo "install.sh: $1" >&2
	[ -z "${2:-}" ] || echo "hint: $2" >&2
	exit 1
}

live() { [ -z "$DESTDIR" ]; }

systemd_runs() { live && [ -d /run/systemd/system ]; }

check() {
	case $PREFIX$DESTDIR in *[!A-Za-z0-9/._+-]*) fail "PREFIX and DESTDIR must not have spaces or the like" ;; esac
	case $PREFIX in /*) ;; *) fail "PREFIX must be an absolute path, not $PREFIX" ;; esac
	! live || [ "$(id -u)" = 0 ] || fail "must be root" "or set DESTDIR to install below a folder of your own"
}

# --- install ---

# Makes everything that will be put, in a folder of its own: what can fail mostly fails here
build() {
	"$PYTHON" -c 'import ensurepip' 2>/dev/null ||
		fail "$PYTHON cannot make virtual environments" "run deploy/packages.sh run, or: apt install python3-venv"
	echo "building, with $PYTHON"
	mkdir "$stage/source" "$stage/before"
	tar -c -C "$source" --exclude=__pycache__ README.md docs/man pyproject.toml tcpmon | tar -x -C "$stage/source"
	"$PYTHON" -m venv --system-site-packages "$stage/venv"
	pip="$stage/venv/bin/python -m pip --disable-pip-version-check --quiet"
	$pip install --no-compile "$stage/source"
	$pip uninstall --yes setuptools pip 2>/dev/null # 15 MB that it does not need to run
	# A virtual environment knows its own place
	sed -i "s|$stage/venv|$PREFIX/lib/tcpmon|g" "$stage"/venv/bin/[!p]* "$stage/venv/pyvenv.cfg"
	"$PYTHON" -m compileall -q -f -s "$stage/venv" -p "$PREFIX/lib/tcpmon" "$stage/venv/lib"
	sed "s|/usr/bin/tcpmon|$PREFIX/bin/tcpmon|" "$source/deploy/systemd/tcpmon.service" >"$stage/tcpmon.service"
	sed "s|/usr/share/tcpmon|$PREFIX/share/tcpmon|" "$source/grafana/provisioning/dashboards/tcpmon.yaml" \
		>"$stage/grafana.yaml"
	ln -s "$PREFIX/lib/tcpmon/bin/tcpmon" "$stage/tcpmon"
	mkdir "$stage/docs"
	cp -R "$source"/docs/*.md "$source/docs/images" "$stage/docs"
}

# A service that runs is restarted in the end: it must be able to
check_config() {
	if systemd_runs && systemctl --quiet is-active tcpmon.service; then
		"$stage/venv/bin/python" -m tcpmon check-config ||
			fail "tcpmon.service runs, and could not start again with this configuration" "mend it, and run this again"
	fi
}

# Makes a folder and those above it, and notes which were not there
folder() {
	[ -d "$DESTDIR$1" ] && return
	folder "$(dirname "$1")"
	mkdir "$DESTDIR$1"
	echo "dir $1" >>"$stage/made"
}

# With times, for everybody to read, and nobody's but who installs: the tree may be another user's
copy() {
	cp -dR --preserve=timestamps,mode "$1" "$2"
	[ -L "$2" ] || chmod -R u=rwX,go=rX "$2"
}

# Of what is to change, what it was
keep() {
	if [ -e "$DESTDIR$1" ] || [ -L "$DESTDIR$1" ]; then
		mkdir -p "$stage/before$(dirname "$1")"
		cp -a "$DESTDIR$1" "$stage/before$1"
	fi
	echo "$1" >>"$stage/put"
}

# Puts a file or a tree into its place, at once; what was there is kept until the end
put() {
	folder "$(dirname "$2")"
	keep "$2"
	rm -rf "$DESTDIR$2.new-tcpmon"
	copy "$1" "$DESTDIR$2.new-tcpmon"
	[ ! -d "$1" ] || rm -rf "$DESTDIR$2"
	mv -T "$DESTDIR$2.new-tcpmon" "$DESTDIR$2"
	echo "file $2" >>"$stage/list"
	echo "installed $DESTDIR$2"
}

put_files() {
	put "$stage/venv" "$PREFIX/lib/tcpmon"
	put "$stage/tcpmon" "$PREFIX/bin/tcpmon"
	put "$stage/tcpmon.service" "$system/system/tcpmon.service"
	put "$source/deploy/systemd/tcpmon.socket" "$system/system/tcpmon.socket"
	put "$source/deploy/systemd/tcpmon.sysusers" "$users"
	put "$source/deploy/systemd/tcpmon.catalog" "$system/catalog/tcpmon.catalog"
	for page in "$source"/docs/man/*.8; do
		put "$page" "$PREFIX/share/man/man8/$(basename "$page")"
	done
	put "$source/deploy/completions/bash/tcpmon" "$PREFIX/share/bash-completion/completions/tcpmon"
	put "$source/deploy/completions/zsh/_tcpmon" "$PREFIX/share/zsh/site-functions/_tcpmon"
	put "$source/deploy/prometheus" "$PREFIX/share/tcpmon/prometheus"
	put "$source/config/tcpmon.schema.json" "$PREFIX/share/tcpmon/tcpmon.schema.json"
	put "$source/config/web.schema.json" "$PREFIX/share/tcpmon/web.schema.json"
	put "$source/README.md" "$PREFIX/share/doc/tcpmon/README.md"
	put "$stage/docs" "$PREFIX/share/doc/tcpmon/docs"
	for example in "$source"/config/web.example.yml "$source"/deploy/systemd/examples/*.conf; do
		put "$example" "$PREFIX/share/doc/tcpmon/examples/$(basename "$example")"
	done
	for dashboard in "$source"/grafana/dashboards/*.json; do
		put "$dashboard" "$PREFIX/share/tcpmon/grafana/dashboards/$(basename "$dashboard")"
	done
	put "$stage/grafana.yaml" "$PREFIX/share/tcpmon/grafana/provisioning/dashboards/tcpmon.yaml"
	put "$source/grafana/provisioning/datasources/tcpmon.yaml" \
		"$PREFIX/share/tcpmon/grafana/provisioning/datasources/tcpmon.yaml"
}

# An existing configuration is the admin's: the new default goes beside it
put_config() {
	default=$source/config/tcpmon.yaml
	if [ ! -e "$DESTDIR$config" ]; then
		put "$default" "$config"
		sed -i "\|^file $config\$|d" "$stage/list"
		echo "config $(sha256sum <"$default")" >>"$stage/list"
		return
	fi
	grep '^config ' "$DESTDIR$listed" >>"$stage/list" 2>/dev/null || true
	if cmp -s "$default" "$DESTDIR$config"; then
		echo "kept $DESTDIR$config, which is the default"
	else
		echo "kept $DESTDIR$config as it is; see the new default beside it"
		put "$default" "$config.new"
	fi
}

make_user() {
	grep -s '^user ' "$DESTDIR$listed" >>"$stage/list" && return
	if ! live || getent passwd tcpmon >/dev/null; then return; fi
	systemd-sysusers "$source/deploy/systemd/tcpmon.sysusers"
	echo "user tcpmon" >>"$stage/list"
	echo "made the user tcpmon"
}

# What an earlier version put and this one does not
remove_stale() {
	[ -e "$stage/before$listed" ] || return 0
	sed -n 's/^file //p' "$stage/before$listed" | while read -r path; do
		grep -qxF "file $path" "$stage/list" || { keep "$path" && remove "$path"; }
	done
}

put_list() {
	grep -s '^dir ' "$DESTDIR$listed" >>"$stage/list" || true
	folder "$(dirname "$listed")"
	cat "$stage/made" >>"$stage/list"
	cp "$stage/list" "$stage/installed"
	echo "file $listed" >>"$stage/installed"
	put "$stage/installed" "$listed"
}

# Runs on every way out
finish() {
	status=$?
	trap - EXIT INT TERM HUP
	if [ "$status" != 0 ] && [ -s "$stage/put" ]; then
		echo "install.sh: putting everything back as it was" >&2
		while read -r path; do
			rm -rf "$DESTDIR$path" "$DESTDIR$path.new-tcpmon"
			if [ -e "$stage/before$path" ] || [ -L "$stage/before$path" ]; then
				mv -T "$stage/before$path" "$DESTDIR$path"
			fi
		done <"$stage/put"
		tell_system
	fi
	if [ "$status" != 0 ]; then
		tac "$stage/made" | while read -r _ path; do rmdir "$DESTDIR$path" 2>/dev/null || true; done
		! grep -qx 'user tcpmon' "$stage/list" || [ -e "$DESTDIR$listed" ] || userdel tcpmon
	fi
	rm -rf "$stage"
	exit "$status"
}

install() {
	stage=$(mktemp -d)
	chmod 755 "$stage"
	touch "$stage/made" "$stage/put" "$stage/list"
	trap finish EXIT
	trap 'exit 1' INT TERM HUP
	build
	check_config
	make_user
	put_files
	put_config
	put_list
	remove_stale
	tell_system
	if systemd_runs; then
		# One that runs goes on with the new code; its counts stay
		systemctl try-restart tcpmon.service
		echo "nothing is started by itself; to start it now and at every boot: systemctl enable --now tcpmon"
	fi
}

# --- uninstall ---

remove() {
	rm -rf "$DESTDIR$1"
	echo "removed $DESTDIR$1"
}

remove_config() {
	[ -e "$DESTDIR$config" ] || return 0
	if [ "$1" = "$(sha256sum <"$DESTDIR$config")" ]; then
		remove "$config"
	else
		echo "kept $DESTDIR$config, which was edited"
	fi
}

# The number of a user to whom a file was given (a TLS key, say) must not become somebody else's
remove_user() {
	if [ -n "$(find "$(dirname "$config")" \( -user tcpmon -o -group tcpmon \) -print -quit 2>/dev/null)" ]; then
		echo "kept the user tcpmon, which something in $(dirname "$config") belongs to"
	else
		userdel tcpmon && echo "removed the user tcpmon"
	fi
}

uninstall() {
	[ -e "$DESTDIR$listed" ] || fail "nothing is installed: there is no $DESTDIR$listed" "is PREFIX the same?"
	list=$(cat "$DESTDIR$listed")
	if systemd_runs; then
		echo "stopping and disabling tcpmon.socket and tcpmon.service"
		systemctl disable --now tcpmon.socket tcpmon.service
	fi
	echo "$list" | while read -r kind what; do
		case $kind in
		file) remove "$what" ;;
		config) remove_config "$what" ;;
		user) ! live || remove_user ;;
		esac
	done
	echo "$list" | sed -n 's/^dir //p' | sort -r | while read -r path; do
		rmdir "$DESTDIR$path" 2>/dev/null || true # others may have put something there
	done
	tell_system
}

tell_system() {
	! live || ! command -v journalctl >/dev/null || journalctl --update-catalog
	! systemd_runs || systemctl daemon-reload
}

case ${1:-} in
install | uninstall)
	check
	"$1"
	;;
*) fail "usage: deploy/install.sh install|uninstall" ;;
esac
