#!/bin/bash
# The lab's process 1. run.sh gives it to the kernel as init; the root is the
# host's, read-only. It builds a root whose writes stay in memory, runs the
# command that run.sh left in $lab_job, and says on the status port "up", then
# "exit STATUS". Whatever fails here reaches the console.
set -u
: "${lab_job:?}" "${lab_modules:=}"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
v9fs_writable=trans=virtio,version=9p2000.L,cache=mmap,msize=512000

# run.sh waits for a status: without one it shows the console, with this on it.
fail() {
	echo "lab: init: $*" >&2
	power_off
}

power_off() {
	sync
	[ -e /proc/sysrq-trigger ] || mount -t proc proc /proc
	echo o >/proc/sysrq-trigger
	# Process 1 must not end, although its files may be gone by now.
	sleep 60 || while :; do :; done
}

# A modular kernel's modules are on the host, where "modprobe -d" finds them. Later
# they are where the kernel itself looks when it wants one.
early_modules() {
	[ -n "$lab_modules" ] || return 0
	mount -t proc proc /proc &&
		modprobe -d "$lab_modules" -a overlay virtio_blk
}

late_modules() {
	[ -n "$lab_modules" ] || return 0
	mkdir -p /lib/modules &&
		mount --bind "$lab_modules/lib/modules" /lib/modules &&
		modprobe -a kvm_amd tun vhost_net vhost_vsock virtio_rng virtio_net
}

# pivot_root rather than chroot: a chrooted process may not make user namespaces.
writable_root() {
	mount -t tmpfs -o size=75% tmpfs /run &&
		mkdir /run/upper /run/work /run/root &&
		mount -t overlay overlay /run/root -o \
			lowerdir=/,upperdir=/run/upper,workdir=/run/work &&
		mkdir -p /run/root/mnt /run/root/scratch &&
		cd /run/root &&
		pivot_root . mnt &&
		umount -l /mnt
}

system_mounts() {
	mount -t proc proc /proc &&
		mount -t sysfs sysfs /sys &&
		mount -t debugfs debugfs /sys/kernel/debug &&
		mount -t tracefs tracefs /sys/kernel/tracing &&
		mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
		mount -t devtmpfs devtmpfs /dev &&
		mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/hugepages &&
		mount -t devpts -o ptmxmode=666 devpts /dev/pts &&
		mount -t tmpfs tmpfs /dev/shm &&
		mount -t mqueue mqueue /dev/mqueue &&
		mount -t hugetlbfs hugetlbfs /dev/hugepages &&
		ln -sf /proc/self/fd /dev/fd &&
		mount -t tmpfs tmpfs /run &&
		mkdir -p /run/lock /run/tmp
}

# The directories that run.sh was told to share for writing, by tag w0, w1...
writable_mounts() {
	local tag=0 dir

	while IFS= read -r dir; do
		if [ -n "$lab_modules" ]; then
			mount -t virtiofs "w$tag" "$dir"
		else
			mount -t 9p -o "$v9fs_writable" "w$tag" "$dir"
		fi || return
		tag=$((tag + 1))
	done <"$lab_job/writable"
}

# A misspelt parameter would be ignored, and a test would prove nothing.
check_kvm_parameters() {
	local parameter module name

	while IFS= read -r parameter; do
		module=${parameter%%.*}
		name=${parameter#*.}
		name=${name%%=*}
		[ -e "/sys/module/$module/parameters/$name" ] ||
			fail "this kernel has no parameter $module.$name"
	done <"$lab_job/kvm-params"
	[ -c /dev/kvm ] || fail "this kernel has no /dev/kvm"
}

# Left-over processes would hold the pipes open, and cat would wait for ever.
kill_others() {
	local process pid

	for process in /proc/[0-9]*; do
		pid=${process#/proc/}
		case " 1 $* " in
		*" $pid "*) ;;
		*) kill -KILL "$pid" 2>/dev/null ;;
		esac
	done
}

# The device of run.sh's port of this name. Ports appear a little late.
port() {
	local name tries

	for tries in {1..100}; do
		for name in /sys/class/virtio-ports/*/name; do
			[ "$(cat "$name" 2>/dev/null)" = "lab.$1" ] || continue
			name=${name%/name}
			echo "/dev/${name##*/}"
			return
		done
		sleep 0.1
	done
	fail "no port lab.$1 after $tries tries"
}

# Pipes, because a port can be opened only once, and /dev/stderr is a reopening.
run_command() {
	local out err status

	mkfifo /run/lab-out /run/lab-err
	cat /run/lab-out >"$(port out)" &
	out=$!
	cat /run/lab-err >"$(port err)" &
	err=$!
	setsid bash "$lab_job/command" \
		</dev/null >/run/lab-out 2>/run/lab-err &
	wait $!
	status=$?
	kill_others $out $err $beat
	wait $out $err
	return $status
}

mount -t devtmpfs devtmpfs /dev && exec >/dev/console 2>&1
early_modules || fail "no modules to begin with"
writable_root || fail "no writable root"
system_mounts || fail "no system mounts"
late_modules || fail "no kvm_amd"
mount -o discard /dev/vda /scratch || fail "no scratch disk"
writable_mounts || fail "no writable directory"
check_kvm_parameters
echo lab >/proc/sys/kernel/hostname
ip link set lo up
ulimit -l unlimited
ulimit -c 0
cat "$(port beat)" >/dev/null &	# run.sh: start_beats()
beat=$!
exec 3>"$(port status)"
echo up >&3
run_command 3>&-
echo "exit $?" >&3
power_off
