#!/bin/bash
# The test command: build with both compilers and under the sanitizers, check
# format and lint, run every test through ctest, and close with the counts.
#
#	scripts/test.sh [STEP...]	release clang asan tsan lab when none is given
#
# Each step is the preset of that name; lab is the release build once more, with
# its tests in an emulated machine (tests/lab).
#
# Exit status 0 only when everything that could run here passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

jobs=$(nproc)
results=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-results.XXXXXX")
trap 'rm -rf "$results"' EXIT
steps=("$@")
[ "${#steps[@]}" -gt 0 ] || steps=(release clang asan tsan lab)

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

preset_of() {
	[ "$1" = lab ] && echo release || echo "$1"
}

build() {
	local -a options=(-DVMMD_FAULT_POINTS=ON)
	local preset

	preset=$(preset_of "$1")
	case $1 in
	lab) options+=(-DVMMD_TEST_LAB=ON) ;;
	clang) options+=(-DVMMD_FUZZ=ON) ;;	# libFuzzer is clang's
	esac
	cmake --preset "$preset" "${options[@]}" >"$results/cmake.log" 2>&1 ||
		{ cat "$results/cmake.log"; return 1; }
	cmake --build --preset "$preset" -j "$jobs" -- --quiet
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
	local -a only

	case $1 in
	lab) only=(-L lab) ;;
	# The debug build with clang is for its warnings, units and fuzzers.
	clang) only=(-LE process) ;;
	*) only=(-LE lab) ;;
	esac
	heading "ctest: $1"
	# summary.py reads every test's output: no truncation.
	ctest --test-dir "build/$(preset_of "$1")" "${only[@]}" --output-on-failure \
		--output-junit "$results/$1.xml" --no-tests=error \
		--test-output-size-passed 1000000 \
		--test-output-size-failed 1000000 ||
		echo "FAILED: ctest $1"
	[ -s "$results/$1.xml" ] || record failed "ctest $1"
}

setup=(scripts/setup.sh)
[[ " ${steps[*]} " != *" lab "* ]] || setup+=(--lab)
"${setup[@]}" || exit 1
export CTEST_PARALLEL_LEVEL=$jobs

check clang-format check_format
for step in "${steps[@]}"; do
	check "build: $step" build "$step" || continue
	[ "$step" = clang ] && check clang-tidy lint clang
	run_ctest "$step"
done
heading summary
/usr/bin/python3 scripts/summary.py "$results"
