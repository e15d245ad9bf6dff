#!/bin/bash
# Print a directory that holds a Linux guest: "kernel", "initramfs" and "root.img".
#
#	tests/lab/linux/guest.sh KIND
#
# KIND is one of
#	debian-6.1, debian-6.12		Debian's cloud kernel as packaged (bzImage)
#	built				the lab's own kernel (bzImage)
#	built-elf			the same as an ELF with a PVH note
#
# The initramfs is Debian's static busybox, the init and the vsock.c beside this
# script, and the modules named below. root.img is the same as an ext4 disk, for
# root=/dev/vda; who wants to write copies it. Nothing is installed: the package is downloaded with apt
# and unpacked in ${VMMD_CACHE_DIR:-~/.cache/vmmd-lab}/guests. Run it outside the
# lab first, which has no network.
#
# Exit status: 77 when the kernel cannot be had on this machine, with the reason.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
PATH=$PATH:/sbin:/usr/sbin
cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}/guests
# What a guest of vmmd may have; what is built in is no module and left out.
modules=(virtio_pci virtio_blk virtio_net virtio_console virtio-rng virtio_balloon
	vmw_vsock_virtio_transport ext4 button evdev)
root_mib=64

skip() {
	echo "guest.sh: $*" >&2
	exit 77
}

# The package that Debian's meta packages stand for, of this version of Linux.
find_package() {
	apt-cache depends --important linux-image-cloud-amd64 \
		"linux-image-$1-cloud-amd64" 2>/dev/null |
		sed -n "s/^ *Depends: \(linux-image-$1\.[0-9].*-cloud-amd64\)$/\1/p" |
		sed -n 1p	# not head: who closes a pipe early fails the other
}

# fetch PACKAGE DIRECTORY
fetch() {
	local part

	part=$(mktemp -d "$cache/part.XXXXXX")
	(cd "$part" && apt-get -q download "$1" >&2) || { rm -rf "$part"; return 1; }
	dpkg-deb -x "$part"/*.deb "$part/root"
	rm "$part"/*.deb
	depmod -b "$part/root" "$(ls "$part/root/lib/modules")"
	mv -T "$part/root" "$2" && rmdir "$part"
}

# The unpacked package in $package: today's if it can be had, else the last one.
find_debian_kernel() {
	local name version

	name=$(find_package "$1")
	if [ -n "$name" ]; then
		version=$(apt-cache show --no-all-versions "$name" |
			sed -n 's/^Version: //p')
		package=$cache/${name}_${version//[^A-Za-z0-9.+-]/_}
		[ -d "$package" ] || fetch "$name" "$package" || package=
	fi
	if [ -z "${package:-}" ]; then
		package=$(find "$cache" -maxdepth 1 -name "linux-image-$1.*" \
			-printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2-)
	fi
	[ -n "$package" ] || skip "no package of Debian's cloud kernel $1 to be had"
	kernel=$(echo "$package"/boot/vmlinuz-*)
	tree=$(echo "$package"/lib/modules/*)
}

# The little-endian number of so many bytes at an offset of the kernel.
number_at() {
	od -A n -t "u$2" -j "$1" -N "$2" "$kernel" | tr -d ' '
}

# The ELF in a bzImage that was compressed with gzip, as "payload_offset" in
# Linux's Documentation/arch/x86/boot.rst says where it is.
unpack_elf() {
	local start=$((($(number_at 0x1f1 1) + 1) * 512 + $(number_at 0x248 4)))

	dd if="$kernel" bs=1M iflag=skip_bytes,count_bytes status=none \
		skip="$start" count="$(number_at 0x24c 4)" |
		gzip -dcq || [ $? -eq 2 ]	# behind it is its length
}

# The files of a module and of all that it needs, relative to the tree.
files_of() {
	local pattern="/${1//[-_]/[-_]}\.ko"

	if ! grep -q "$pattern\$" "$tree/modules.builtin"; then
		grep -m1 "$pattern[.a-z]*:" "$tree/modules.dep" | tr -d :
	fi
}

put_modules() {
	local to=$root/lib/modules/${tree##*/} name file files

	mkdir -p "$to"
	cp "$tree/modules.builtin" "$tree/modules.builtin.modinfo" \
		"$tree/modules.order" "$to"
	for name in "${modules[@]}"; do
		files=$(files_of "$name")
		for file in $files; do
			mkdir -p "$to/${file%/*}"
			cp "$tree/$file" "$to/${file%/*}"
		done
	done
	# Here it is quick, and busybox then loads them as they are.
	find "$to" -name '*.xz' -exec xz -d {} +
	depmod -b "$root" "${tree##*/}"
}

put_files() {
	local button=$root/etc/acpi/PWRF/00000080	# busybox's name for it

	mkdir -p "$root"/{bin,dev,proc,sbin,sys,tmp} "${button%/*}"
	printf '#!/bin/sh\npoweroff -f\n' >"$button"
	chmod 755 "$button"
	cp /bin/busybox "$root/bin/busybox"
	${CC:-cc} -static -O2 -Wall -o "$root/bin/vsock" "$here/vsock.c"
	${CC:-cc} -static -O2 -Wall -o "$part/load" "$here"/load/*.c -luring
	cp "$part/load" "$root/bin/load"
	cp "$here/init" "$root/init"
	chmod 755 "$root/init"
	ln "$root/init" "$root/sbin/init"
	[ -z "$tree" ] || put_modules
}

put_initramfs() {
	(cd "$root" && find . | cpio -o -H newc --quiet -R 0:0) |
		gzip -1 >"$part/initramfs"
}

# A kernel without an initramfs wants its console to be there already; debugfs
# makes devices without being root.
put_root_disk() {
	truncate -s "${root_mib}M" "$part/root.img"
	mke2fs -q -t ext4 -b 4096 -E root_owner=0:0 -d "$root" "$part/root.img"
	debugfs -w -f - "$part/root.img" >/dev/null 2>&1 <<-END
		cd /dev
		mknod console c 5 1
	END
}

# Everything that goes in, so that nothing old is ever taken for new.
guest_key() {
	{
		echo "$kernel ${package:-}"
		stat -c %Y "$kernel"
		cat "$0" "$here/init" "$here/vsock.c" "$here"/load/* /bin/busybox
	} | sha256sum | cut -c1-16
}

[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
file -b /bin/busybox 2>/dev/null | grep -q 'statically linked' ||
	skip "Debian's busybox-static is not installed (scripts/setup.sh)"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
case $1 in
debian-6.1|debian-6.12) find_debian_kernel "${1#debian-}" ;;
built|built-elf)
	kernel=$("$here/../kernel.sh" built)
	tree=
	;;
*) echo "guest.sh: no such kind: $1" >&2; exit 2 ;;
esac
guest=$cache/$1-$(guest_key)
if [ ! -d "$guest" ]; then
	part=$(mktemp -d "$cache/part.XXXXXX")
	trap 'rm -rf "$part"' EXIT
	root=$part/root
	put_files
	put_initramfs
	put_root_disk
	rm -rf "$root"
	case $1 in
	*-elf) unpack_elf >"$part/kernel" ;;
	*) cp "$kernel" "$part/kernel" ;;
	esac
	rm -rf "$cache/$1"-????????????????
	mv -T "$part" "$guest"
fi
echo "$guest"
