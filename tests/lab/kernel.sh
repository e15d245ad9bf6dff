#!/bin/bash
# Print the path of a kernel for the lab, building it first when it is missing.
#
#	tests/lab/kernel.sh [--source|--build] KIND
#
# KIND is one of
#	built		Debian's linux-source-6.12 with kernel.config
#	debug		the same with debug.config: lockdep, KASAN, KVM's own checks
#	lockstat	the same with lockstat.config: the kernel's lock statistics
#	patched		built with kernel-patch/linux-6.12/*.patch applied, as
#			patched-debug and patched-lockstat
#	stock		Debian's cloud kernel as packaged, with an initrd of ours
#	/PATH		a bzImage that somebody else has built
#
# --source prints the source tree instead, --build the tree it is built in
# (make's O=); both are kept, so that a changed patch rebuilds only what it
# touches. Everything lives in ${VMMD_CACHE_DIR:-~/.cache/vmmd-lab}:
#
#	source-VERSION[-patched]	unpacked once; patches are brought up to date
#	build-VERSION-KIND		objects
#	images/KIND-KEY/bzImage		complete once it is there; KEY says from what
#
# Exit status: 77 when it cannot be had on this machine, with the reason.
set -euo pipefail

lab=$(dirname "$(realpath "$0")")
repository=$(dirname "$(dirname "$lab")")
cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}
package=linux-source-6.12
tarball=/usr/src/$package.tar.xz
kept_images=4		# of each kind; the oldest go

usage() {
	sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

fail() {
	echo "lab: $*" >&2
	exit 1
}

skip() {
	echo "lab: $*" >&2
	exit 77
}

require_packages() {
	local name

	for name; do
		dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null |
			grep -qx installed ||
			skip "Debian's $name is not installed (scripts/setup.sh)"
	done
}

find_patches() {
	patches=()
	case $kind in
	patched*)
		mapfile -t patches < <(
			find "$repository/kernel-patch/linux-6.12" \
				-name '*.patch' ! -name '0000-*' \
				2>/dev/null | sort)
		[ "${#patches[@]}" -gt 0 ] ||
			skip "kernel-patch/linux-6.12 holds no patches"
		;;
	esac
}

find_configs() {
	configs=("$lab/kernel.config")
	case $kind in
	*debug) configs+=("$lab/debug.config") ;;
	*lockstat) configs+=("$lab/lockstat.config") ;;
	esac
}

# Names nothing by path: the same inputs elsewhere make the same key.
image_key() {
	{
		echo "$version"
		cat "${configs[@]}" "${patches[@]}"
	} | sha256sum | cut -c1-16
}

unpack_source() {
	local to=$1 part

	[ -d "$to" ] && return
	part=$(mktemp -d "$cache/part.XXXXXX")
	tar -x -f "$tarball" -C "$part" --strip-components=1
	mv -T "$part" "$to"
}

# Paths that the patches change, create or delete. They hold no renames.
files_in_patches() {
	sed -n 's,^\(---\|+++\) [ab]/\([^\t]*\).*,\2,p' "$@" | sort -u
}

# Bring the patched tree to "pristine plus these patches", writing only files
# whose contents change: make goes by time, and a full build takes minutes.
update_patched_source() {
	local pristine=$1 tree=$2 list=$2/.patched-files staged file

	staged=$(mktemp -d "$cache/part.XXXXXX")
	{ files_in_patches "${patches[@]}"; cat "$list" 2>/dev/null || true; } |
		sort -u >"$staged.list"
	while read -r file; do
		[ -e "$pristine/$file" ] || continue
		mkdir -p "$staged/$(dirname "$file")"
		cp "$pristine/$file" "$staged/$file"
	done <"$staged.list"
	for file in "${patches[@]}"; do
		patch -s -p1 -d "$staged" --no-backup-if-mismatch <"$file" >&2 ||
			fail "$(basename "$file") does not apply to $package $version"
	done
	cp "$staged.list" "$list"
	while read -r file; do
		if [ ! -e "$staged/$file" ]; then
			rm -f "$tree/$file"
		elif ! cmp -s "$staged/$file" "$tree/$file"; then
			mkdir -p "$tree/$(dirname "$file")"
			cp "$staged/$file" "$tree/$file"
		fi
	done <"$staged.list"
	rm -rf "$staged" "$staged.list"
}

prepare_source() {
	unpack_source "$cache/source-$version"
	if [ "${#patches[@]}" -gt 0 ]; then
		unpack_source "$source"
		update_patched_source "$cache/source-$version" "$source"
	fi
}

# A symbol that allnoconfig dropped for want of another would be missed late.
check_config() {
	local line

	while read -r line; do
		grep -qxF "$line" "$build/.config" ||
			fail "the configuration lost $line"
	done < <(grep -h '^CONFIG_' "${configs[@]}")
}

configure() {
	mkdir -p "$build"
	cat "${configs[@]}" >"$build/lab.config"
	cmp -s "$build/lab.config" "$build/lab.config.done" && return
	make -s -C "$source" O="$build" KCONFIG_ALLCONFIG="$build/lab.config" \
		allnoconfig >&2
	check_config
	cp "$build/lab.config" "$build/lab.config.done"
}

publish() {
	local part

	mkdir -p "$cache/images"
	part=$(mktemp -d "$cache/part.XXXXXX")
	cp "$build/arch/x86/boot/bzImage" "$part/bzImage"
	cp "$build/.config" "$part/config"
	mv -T "$part" "$image"
	find "$cache/images" -maxdepth 1 -name "$kind-????????????????" \
		-printf '%T@ %p\n' | sort -rn | tail -n "+$((kept_images + 1))" |
		cut -d' ' -f2- | xargs -r rm -rf
}

# make dies with this script, however it dies, and never keeps the lock.
build_image() {
	local log=$build/make.log

	[ -e "$image/bzImage" ] && return	# somebody else did, meanwhile
	prepare_source
	configure
	echo "lab: building the $kind kernel (log: $log)" >&2
	setpriv --pdeathsig TERM make -C "$source" O="$build" -j "$(nproc)" \
		bzImage >"$log" 2>&1 9>&- ||
		{ tail -n 30 "$log" >&2; fail "the $kind kernel does not build"; }
	publish
}

# One builder at a time: each uses every core, and two share a source tree.
locked() {
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock 9
	rm -rf "$cache"/part.*			# of builders that were killed
	"$@"
	exec 9>&-
}

want=image
while [ $# -gt 0 ]; do
	case $1 in
	--source) want=source ;;
	--build) want=build ;;
	--help) usage; exit 0 ;;
	-*) usage >&2; exit 2 ;;
	*) break ;;
	esac
	shift
done
[ $# -eq 1 ] || { usage >&2; exit 2; }
kind=$1
case $kind in
stock) exec "$lab/stock.sh" ;;
built|debug|lockstat|patched|patched-debug|patched-lockstat) ;;
/*) [ -f "$kind" ] || fail "no $kind"; echo "$kind"; exit 0 ;;
*) usage >&2; exit 2 ;;
esac

require_packages "$package" gcc make flex bison bc libelf-dev
version=$(dpkg-query -W -f='${Version}' "$package")
find_patches
find_configs
source=$cache/source-$version
[ "${#patches[@]}" -eq 0 ] || source+=-patched
build=$cache/build-$version-$kind
image=$cache/images/$kind-$(image_key)

case $want in
source)
	locked prepare_source
	echo "$source"
	;;
build)
	[ -d "$build" ] || rm -rf "$image"
	[ -e "$image/bzImage" ] || locked build_image
	echo "$build"
	;;
image)
	[ -e "$image/bzImage" ] || locked build_image
	echo "$image/bzImage"
	;;
esac
