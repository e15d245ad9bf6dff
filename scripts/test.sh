#!/bin/bash
# The test command: build with both compilers and under the sanitizers, check
# format and lint, run every test through ctest, and close with the counts.
#
#	scripts/test.sh [PRESET...]	release clang asan tsan when none is given
#
# VMMD_TEST_LAB=1 adds the tests in the lab (tests/lab) to the release build's.
#
# Exit status 0 only when everything that could run here passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

jobs=$(nproc)
results=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-results.XXXXXX")
trap 'rm -rf "$results"' EXIT
presets=("$@")
[ "${#presets[@]}" -gt 0 ] || presets=(release clang asan tsan)

heading() {
	printf '\n== %s (%d s)\n' "$*" "$SECONDS"
}

# One line per check that is not a ctest: summary.py counts them too.
record() {
	printf '%s\t%s\n' "$1" "$2" >>"$results/checks"
}

check() {
	local name=$1

	shift
	heading "$name"
	if ! "$@"; then
		echo "FAILED: $name"
		record failed "$name"
		return 1
	fi
	record passed "$name"
}

build() {
	local -a options=(-DVMMD_FAULT_POINTS=ON)

	# OFF too: the build directory remembers.
	if [ "$1" = release ] && [ -n "${VMMD_TEST_LAB:-}" ]; then
		options+=(-DVMMD_TEST_LAB=ON)
	else
		options+=(-DVMMD_TEST_LAB=OFF)
	fi
	# libFuzzer is clang's.
	[ "$1" = clang ] && options+=(-DVMMD_FUZZ=ON)
	cmake --preset "$1" "${options[@]}" >"$results/cmake.log" 2>&1 ||
		{ cat "$results/cmake.log"; return 1; }
	cmake --build --preset "$1" -j "$jobs" -- --quiet
}

sources() {
	find cli compat examples migrate proto tests uffd vmm \
		-name '*.[ch]' -print0
}

check_format() {
	sources | xargs -0 clang-format-19 --dry-run -Werror
}

# Every file of ours that the preset compiles, generated code left out.
lint() {
	jq -r '.[].file' "build/$1/compile_commands.json" |
		grep "^$PWD/" | grep -v "^$PWD/build/" | grep '\.c$' | sort -u |
		xargs -P "$jobs" -n 4 clang-tidy-19 -p "build/$1" --quiet \
			>"$results/tidy.log" 2>"$results/tidy.err"
	local ret=$?

	[ $ret -eq 0 ] || cat "$results/tidy.log"
	return $ret
}

run_ctest() {
	local -a only=()

	# The debug build with clang is for its warnings, units and fuzzers.
	[ "$1" = clang ] && only=(-LE process)
	heading "ctest: $1"
	# summary.py reads every test's output: no truncation.
	ctest --test-dir "build/$1" "${only[@]}" --output-on-failure \
		--output-junit "$results/$1.xml" --no-tests=error \
		--test-output-size-passed 1000000 \
		--test-output-size-failed 1000000 ||
		echo "FAILED: ctest $1"
	[ -s "$results/$1.xml" ] || record failed "ctest $1"
}

scripts/setup.sh ${VMMD_TEST_LAB:+--lab} || exit 1
export CTEST_PARALLEL_LEVEL=$jobs

check clang-format check_format
for preset in "${presets[@]}"; do
	check "build: $preset" build "$preset" || continue
	[ "$preset" = clang ] && check clang-tidy lint clang
	run_ctest "$preset"
done

[ -n "${VMMD_TEST_LAB:-}" ] ||
	record skipped "lab: its tests run when VMMD_TEST_LAB=1 is set (tests/lab/README.md)"
heading summary
/usr/bin/python3 scripts/summary.py "$results"
