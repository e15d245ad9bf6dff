#!/bin/bash
# Print the path of Debian's own 6.12 cloud kernel, as packaged, fetching the
# package first when it is missing; kernel.sh calls this. Nothing is installed:
#
#	~/.cache/vmmd-lab/images/stock-RELEASE/bzImage
#	~/.cache/vmmd-lab/images/stock-RELEASE/lib/modules/RELEASE
#
# Exit status: 77 when it cannot be had on this machine, with the reason.
set -euo pipefail

cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}

skip() {
	echo "lab: $*" >&2
	exit 77
}

# Debian 12 has 6.12 beside its own kernel, Debian 13 as its own.
current_package() {
	apt-cache depends linux-image-6.12-cloud-amd64 linux-image-cloud-amd64 \
		2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-6\.12\..*-cloud-amd64\)$/\1/p' |
		sed -n 1p	# not head: who closes a pipe early fails the other
}

fetch() {
	local part log

	mkdir -p "$cache/images"
	part=$(mktemp -d "$cache/fetch.XXXXXX")
	log=$(cd "$part" && apt-get download "$package" 2>&1) || {
		rm -rf "$part"
		skip "cannot download $package: $log"
	}
	dpkg-deb -x "$part"/*.deb "$part/root"
	mkdir -p "$part/image/lib"
	mv "$part/root/boot/vmlinuz-$release" "$part/image/bzImage"
	mv "$part/root"/{,usr/}lib/modules "$part/image/lib" 2>/dev/null ||
		[ -d "$part/image/lib/modules/$release" ]
	depmod -b "$part/image" "$release"
	mv -T "$part/image" "$image"
	rm -rf "$part"
}

for tool in apt-get dpkg-deb depmod flock; do
	[ -n "$(PATH=$PATH:/sbin:/usr/sbin command -v $tool)" ] ||
		skip "$tool is not installed"
done
PATH=$PATH:/sbin:/usr/sbin
package=$(current_package)
[ -n "$package" ] || skip "apt knows no 6.12 cloud kernel (apt-get update?)"
release=${package#linux-image-}
image=$cache/images/stock-$release
if [ ! -e "$image/bzImage" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/lock-stock"
	flock 9
	[ -e "$image/bzImage" ] || fetch
fi
echo "$image/bzImage"
