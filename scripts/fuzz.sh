#!/usr/bin/env bash
# Fuzzes every target of the module, FUZZTIME each (default 5s).
#
# Up to Go 1.26, on a busy machine, the end of -fuzztime may be reported as a failure, "context deadline
# exceeded" (https://go.dev/issue/75804). Such a failure without a failing input is tried again, at most
# twice. What only looks interesting is minimised ten times at most, or that takes all the time.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(mktemp)
trap 'rm -f "$out"' EXIT
# Only these packages are built: the test of every other would be linked for nothing.
packages=$(go list $(grep -rl --include='*_test.go' '^func Fuzz' . | grep -v '^./internal/sim/bench/\|^./conformance/' | xargs -n1 dirname | sort -u)) || exit 1
for p in $packages; do
	targets=$(go test -list '^Fuzz' "$p") || { echo "$targets" >&2; exit 1; }
	for f in $(grep '^Fuzz' <<<"$targets"); do
		for try in 1 2 3; do
			echo "== $p $f"
			go test -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-5s}" -fuzzminimizetime 10x "$p" 2>&1 | tee "$out" && continue 2
			grep -q '^    context deadline exceeded$' "$out" && ! grep -qE 'Failing input|panic|\.go:[0-9]+:' "$out" && [ "$try" -lt 3 ] || exit 1
			echo "   (the end of the time was reported as a failure; again)"
		done
	done
done
