#!/bin/bash
# Run a command in the lab: a virtual machine in QEMU's software emulation, with
# AMD SVM, whose kernel's kvm_amd gives a real /dev/kvm with nested paging.
#
#	tests/lab/run.sh [OPTION...] [--] COMMAND [ARG...]
#
#	--kernel KIND		built (default), patched, stock and others: see
#				kernel.sh
#	--cpus N		CPUs of the lab (default 2)
#	--mem MIB		its memory (default 4096)
#	--kvm-param M.NAME=V	module parameter, e.g. kvm_amd.npt=0 or
#				kvm.tdp_mmu=0; may be repeated
#	--writable DIR		writes under DIR reach the host; may be repeated
#	--scratch MIB		size of the disk at /scratch (default 16384)
#	--timeout SECONDS	of everything, booting included (default 600)
#	--console FILE		keep the lab's console, kernel messages and all
#	--wire SOCKET		a network card eth0, and on its other end the lab
#				that was given the same name before, or will be
#	--threads T		of the emulation: one (default), or cpus: one for
#				each CPU, at its own risk, see README.md
#	--clock C		host (default), or instructions: a nanosecond goes
#				by for each that a CPU executes, see README.md;
#				with one thread
#	--tsc-error PPM		by how much its kernel is wrong about its TSC when
#				it loads KVM, which may be negative (default 0)
#
# COMMAND runs as root in the caller's working directory, sees the host's files
# where they are, and finds the variables named in pass_environment(). What it
# writes stays in the lab's memory and is gone afterwards, but for --writable.
# /scratch is an ext4 disk with O_DIRECT; /dev/shm, /run and $TMPDIR are tmpfs.
#
# Exit status: COMMAND's; 77 when the lab cannot be had here; 124 after the
# timeout; 125 when the lab did not come up or died, or when its kernel
# complained although COMMAND had returned 0; 2 for wrong usage.
set -uo pipefail

lab=$(dirname "$(realpath "$0")")
boot_limit_s=180	# from start to "up"; 3 when nothing else uses the host
power_off_limit_s=30
post_mortem_limit_s=3
beat_s=0.5
slice_limit_s=10	# how often the console is looked at
console_tail=40
crashes='BUG: |Oops|Kernel panic'
complaints="WARNING: |$crashes|KASAN|INFO: task .* blocked|general protection"

kernel=built
cpus=2
mem_mib=4096
scratch_mib=16384
timeout_s=600
threads=one
clock=host
tsc_error_ppm=0
keep_console=
wire=
kvm_params=()
writable=()
tmp=
qemu_pid=
beat_pid=

usage() {
	sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

say() {
	echo "lab: $*" >&2
}

wrong_usage() {
	say "$*"
	usage >&2
	exit 2
}

clean_up() {
	trap "" HUP INT TERM # told twice: no reason to leave anything
	stop_emulation
	[ -z "$tmp" ] || rm -rf "$tmp"
}

stop_emulation() {
	local pid

	for pid in $beat_pid $qemu_pid; do
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	beat_pid=
	qemu_pid=
}

is_number() {
	[[ $1 =~ ^[1-9][0-9]*$ ]]
}

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		--help) usage; exit 0 ;;
		--) shift; break ;;
		-*) [ $# -ge 2 ] || wrong_usage "$1 needs a value" ;;
		*) break ;;
		esac
		case $1 in
		--kernel) kernel=$2 ;;
		--cpus) cpus=$2 ;;
		--mem) mem_mib=$2 ;;
		--scratch) scratch_mib=$2 ;;
		--timeout) timeout_s=$2 ;;
		--console) keep_console=$2 ;;
		--wire) wire=$2 ;;
		--threads) threads=$2 ;;
		--clock) clock=$2 ;;
		--tsc-error) tsc_error_ppm=$2 ;;
		--kvm-param) kvm_params+=("$2") ;;
		--writable) writable+=("$2") ;;
		*) wrong_usage "unknown option $1" ;;
		esac
		shift 2
	done
	command=("$@")
}

check() {
	local value

	[ "${#command[@]}" -gt 0 ] || wrong_usage "no command"
	for value in "$cpus" "$mem_mib" "$scratch_mib" "$timeout_s"; do
		is_number "$value" || wrong_usage "not a number: $value"
	done
	[[ $tsc_error_ppm =~ ^(0|-?[1-9][0-9]*)$ ]] ||
		wrong_usage "not a number of parts in a million: $tsc_error_ppm"
	case $threads,$clock in
	one,host) accel=(-accel "tcg,thread=single") ;;
	cpus,host) accel=(-accel "tcg,thread=multi") ;;
	one,instructions)
		accel=(-accel "tcg,thread=single" -icount "shift=0,sleep=off") ;;
	*) wrong_usage "no such threads and clock: $threads, $clock" ;;
	esac
	for value in "${kvm_params[@]}"; do
		[[ $value =~ ^kvm(_amd|_intel)?\.[a-z_]+=[A-Za-z0-9]+$ ]] ||
			wrong_usage "not a parameter of KVM: $value"
	done
	for value in "${writable[@]}"; do
		[[ -d $value && $value != *[,$'\n']* ]] ||
			wrong_usage "not a directory that can be shared: $value"
	done
}

# What a command may depend on, as declarations that bash reads back. The rest
# of the environment speaks of the host: its sessions, sockets and directories.
pass_environment() {
	local name

	for name in $(compgen -e); do
		case $name in
		PATH|TERM|LANG|LC_*|CC|VMMD*|GUEST_ELF|TCPCOPY) ;;
		PYTHON*|PYTEST*|CMOCKA*|*SAN_OPTIONS) ;;
		*) continue ;;
		esac
		printf 'export %s=%q\n' "$name" "${!name}"
	done
	printf 'export HOME=/root TMPDIR=/run/tmp VMMD_LAB=%q\n' "$kernel"
}

# The job: what init.sh reads. It sees $tmp at the same path.
write_job() {
	local dir

	{
		pass_environment
		printf 'cd %q || exit 125\nexec' "$PWD"
		printf ' %q' "${command[@]}"
		echo
	} >"$tmp/command"
	: >"$tmp/kvm-params"
	[ "${#kvm_params[@]}" -eq 0 ] ||
		printf '%s\n' "${kvm_params[@]}" >"$tmp/kvm-params"
	: >"$tmp/writable"
	for dir in "${writable[@]}"; do
		realpath "$dir" >>"$tmp/writable"
	done
	cp "$lab/init.sh" "$tmp/init"
	chmod +x "$tmp/init"
}

# Nameless once it is open: no gigabytes stay when this script is killed outright.
make_scratch() {
	truncate -s "${scratch_mib}M" "$tmp/scratch" &&
		mke2fs -q -F -t ext4 -E lazy_itable_init=1,root_owner=0:0 \
			"$tmp/scratch" &&
		exec {scratch_fd}<>"$tmp/scratch" &&
		rm "$tmp/scratch"
}

# The TSC is this host's, or counts what is executed. The lab's kernel would measure it
# against a timer, and where the host takes time away is wrong by 800 parts in a
# million in one boot of twenty, for as long as KVM remembers.
measure_tsc() {
	tsc_khz=1000000
	if [ "$clock" = host ]; then
		${CC:-cc} -O1 -o "$tmp/tsc_khz" "$lab/tsc_khz.c" || {
			say "no C compiler (scripts/setup.sh)"
			exit 77
		}
		tsc_khz=$("$tmp/tsc_khz") || {
			say "cannot run a program in ${tmp%/*}; set TMPDIR"
			exit 77
		}
	fi
	tsc_khz=$((tsc_khz + tsc_khz * tsc_error_ppm / 1000000))
}

# share TAG PATH [OPTION]
share_by_9p() {
	qemu+=(-fsdev "local,id=$1,path=$2,security_model=none,multidevs=remap$3"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}

# Debian's kernel has no 9p. virtiofsd cannot be told to be read-only, but the
# lab mounts its root so. Each daemon ends with QEMU's connection to it.
share_by_virtiofs() {
	local socket=$tmp/$1.socket tries

	setpriv --pdeathsig KILL "$virtiofsd" --socket-path="$socket" \
		-o "source=$2" -o cache=auto -o sandbox=chroot >>"$tmp/qemu.log" 2>&1 &
	for ((tries = 0; tries < 100; tries++)); do
		[ ! -S "$socket" ] || break
		sleep 0.1
	done
	qemu+=(-chardev "socket,id=$1,path=$socket"
		-device "vhost-user-fs-pci,chardev=$1,tag=$1")
}

# Its modules come along, and the memory that its virtiofsd must see.
choose_sharing() {
	share=share_by_9p
	root="rootfstype=9p \
rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=512000"
	[ -d "${bzimage%/*}/lib/modules" ] || return 0
	for virtiofsd in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do
		[ ! -x "$virtiofsd" ] || break
	done
	[ -x "$virtiofsd" ] || {
		say "virtiofsd is not installed (scripts/setup.sh)"
		exit 77
	}
	share=share_by_virtiofs
	root="rootfstype=virtiofs lab_modules=${bzimage%/*}"
	qemu+=(-object "memory-backend-memfd,id=ram,size=${mem_mib}M,share=on"
		-machine memory-backend=ram)
}

# port NUMBER NAME: what the lab writes to the port lab.NAME comes out of the
# fifo $tmp/NAME.
port() {
	mkfifo "$tmp/$2"
	qemu+=(-chardev "file,id=$2,path=$tmp/$2"
		-device "virtserialport,chardev=$2,nr=$1,name=lab.$2")
}

# Who comes first listens.
add_wire() {
	local server=on

	[ ! -S "$wire" ] || server=off
	qemu+=(-netdev "stream,id=wire,server=$server,addr.type=unix,addr.path=$wire"
		-device virtio-net-pci,netdev=wire)
}

# Without protection keys, which Debian's kernel has and ours has not: KVM offers
# guests the same CPU on both.
qemu_command() {
	local tag=0 dir

	qemu=(qemu-system-x86_64 "${accel[@]}" -cpu max,-pku
		-machine q35 -smp "$cpus" -m "$mem_mib" -no-reboot
		-nodefaults -no-user-config -display none
		-kernel "$bzimage" -serial "file:$tmp/console"
		-device virtio-rng-pci -device virtio-serial-pci,event_idx=off
		-drive "file=/proc/self/fd/$scratch_fd,if=none,id=disk,format=raw,cache=unsafe,discard=unmap"
		-device virtio-blk-pci,drive=disk)
	choose_sharing
	qemu+=(-append "console=ttyS0 panic=-1 oops=panic mitigations=off \
nokaslr tsc=reliable tsc_early_khz=$tsc_khz root=root $root ro init=$tmp/init lab_job=$tmp \
${kvm_params[*]}")
	$share root / ,readonly=on
	while IFS= read -r dir; do
		$share "w$tag" "$dir" ''
		tag=$((tag + 1))
	done <"$tmp/writable"
	[ -z "$wire" ] || add_wire
	add_beat
	add_monitor
	port 1 out
	port 2 err
	port 3 status
}

# For start_beats(): what is written to $tmp/beat.in reaches the port lab.beat.
add_beat() {
	mkfifo "$tmp/beat.in" "$tmp/beat.out"
	qemu+=(-chardev "pipe,id=beat,path=$tmp/beat"
		-device "virtserialport,chardev=beat,nr=4,name=lab.beat")
}

# QEMU's monitor, for post_mortem().
add_monitor() {
	mkfifo "$tmp/monitor.in" "$tmp/monitor.out"
	qemu+=(-chardev "pipe,id=monitor,path=$tmp/monitor"
		-mon chardev=monitor,mode=control)
}

# QEMU and nobody else holds the writing ends: when it dies, readers see the end.
# It dies with this script, even when the script is killed outright.
start_qemu() {
	local out err status

	exec {out}<>"$tmp/out" {err}<>"$tmp/err" {status}<>"$tmp/status"
	exec {status_fd}<"$tmp/status"
	cat <"$tmp/out" {out}>&- {err}>&- {status}>&- &
	out_pid=$!
	cat <"$tmp/err" >&2 {out}>&- {err}>&- {status}>&- &
	err_pid=$!
	setpriv --pdeathsig KILL "${qemu[@]}" \
		</dev/null >"$tmp/qemu.log" 2>&1 {status_fd}<&- &
	qemu_pid=$!
	exec {out}>&- {err}>&- {status}>&-
}

# An interrupt now and then: QEMU may fail to notice one, see README.md, until there is
# another. Without event_idx each byte that arrives is one, whether or not the last
# was seen. They would be counted where instructions are the clock.
start_beats() {
	setpriv --pdeathsig KILL bash -c 'until read -r -t "$0"; do echo; done' \
		"$beat_s" 0<>"$tmp/beat.out" 1<>"$tmp/beat.in" {status_fd}<&- &
	beat_pid=$!
}

# What its CPUs are at, once it no longer says anything itself. QEMU holds both
# ends of both fifos while it lives; a write that nobody reads must not block.
post_mortem() {
	[ -n "$qemu_pid" ] && kill -0 "$qemu_pid" 2>/dev/null || return
	timeout "$post_mortem_limit_s" bash -c 'cat >"$0" <<-END
		{"execute": "qmp_capabilities"}
		{"execute": "human-monitor-command",
		 "arguments": {"command-line": "info registers -a"}}
		{"execute": "human-monitor-command",
		 "arguments": {"command-line": "info lapic 0"}}
		{"execute": "human-monitor-command",
		 "arguments": {"command-line": "info lapic 1"}}
	END' "$tmp/monitor.in"
	echo "--- its CPUs"
	timeout "$post_mortem_limit_s" cat "$tmp/monitor.out" |
		sed -n 's/\\r\\n/\n/g; s/^{"return": "//p' |
		grep -E '^(CPU#|R[0-9A-Z]|CR|EFER|dumping|LVT|ISR|IRR|.*PR)'
}

# give_up STATUS REASON
give_up() {
	say "$2"
	cat "$tmp/qemu.log" >&2
	post_mortem >&2
	echo "--- the last of the lab's console" >&2
	tail -n "$console_tail" "$tmp/console" 2>/dev/null | tr -d '\r' >&2
	echo "---" >&2
	return "$1"
}

# QEMU's own status tells a reset of the lab (0) from a crash of QEMU.
died() {
	local status

	wait "$qemu_pid"
	status=$?
	qemu_pid=
	give_up 125 "the lab died (QEMU's status: $status) $1"
}

# wait_for WORD LIMIT_S: the rest of the line that starts with WORD, in $answer.
wait_for() {
	local word ret

	read -r -t "$2" -u "$status_fd" word answer
	ret=$?
	[ $ret -eq 0 ] && [ "$word" = "$1" ] && return
	[ $ret -gt 128 ] && return 124
	return 125
}

left_s() {
	local left=$((timeout_s - SECONDS))

	echo $((left > 1 ? left : 1))
}

# A kernel that crashed may never come to its panic: it gets another slice of time
# to say more, and status 126 stands for it.
wait_for_exit() {
	local ret=124 crashed slice_s

	while [ $ret -eq 124 ] && [ "$SECONDS" -lt "$timeout_s" ]; do
		grep -aqE "$crashes" "$tmp/console" && crashed=yes || crashed=
		slice_s=$(left_s)
		[ "$slice_s" -lt $slice_limit_s ] || slice_s=$slice_limit_s
		wait_for exit "$slice_s"
		ret=$?
		if [ $ret -eq 124 ] && [ -n "$crashed" ]; then
			return 126
		fi
	done
	return $ret
}

watch() {
	local limit_s status

	limit_s=$(left_s)
	[ "$limit_s" -lt $boot_limit_s ] || limit_s=$boot_limit_s
	wait_for up "$limit_s"
	case $? in
	124) give_up 125 "the lab did not come up in $limit_s s"; return ;;
	125) died "while it started"; return ;;
	esac
	wait_for_exit
	case $? in
	124) give_up 124 "timeout: not done in $timeout_s s: ${command[*]}"; return ;;
	125) died "during: ${command[*]}"; return ;;
	126) give_up 125 "the lab's kernel crashed during: ${command[*]}"; return ;;
	esac
	status=$answer
	wait_for end-of-file "$power_off_limit_s"
	return "$status"
}

stop_qemu() {
	stop_emulation
	wait "$out_pid" "$err_pid"
}

kernel_complained() {
	grep -aqE "$complaints" "$tmp/console" || return
	say "its kernel complained:"
	grep -aE -A 30 "$complaints" "$tmp/console" | tr -d '\r' |
		head -n 80 >&2
}

parse "$@"
check
command -v qemu-system-x86_64 >/dev/null || {
	say "qemu-system-x86_64 is not installed (scripts/setup.sh)"
	exit 77
}
bzimage=$("$lab/kernel.sh" "$kernel") || exit
SECONDS=0		# building a kernel is not the command's time

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/vmmd-lab.XXXXXX") || exit 125
[[ $tmp != *[[:space:],]* ]] || wrong_usage "TMPDIR must not hold blanks or commas"
write_job
make_scratch || exit 125
measure_tsc
qemu_command
start_qemu
[ "$clock" = instructions ] || start_beats
watch
status=$?
stop_qemu
[ -z "$keep_console" ] || cp "$tmp/console" "$keep_console"
if kernel_complained && [ $status -eq 0 ]; then
	status=125
fi
exit $status
