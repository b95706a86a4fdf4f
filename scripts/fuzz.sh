#!/usr/bin/env bash
# Fuzzes every target of the module, FUZZTIME each (default 5s).
#
# Up to Go 1.26, on a busy machine, the end of -fuzztime may be reported as a failure, "context deadline
# exceeded" (https://go.dev/issue/75804). Such a failure without a failing input is tried again, at most
# twice. What only looks interesting is minimised ten times at most, or that takes all the time.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus=$(go env GOCACHE)/fuzz || exit 1
# Only these packages are built, each once: linking is what takes the time.
folders=$(grep -rl --include='*_test.go' '^func Fuzz' . | grep -v '^./internal/sim/bench/\|^./conformance/' | xargs -n1 dirname | sort -u)
targets=0
for folder in $folders; do
	package=$(go list "$folder") && go test -c -fuzz '^Fuzz' -o "$work/test" "$folder" || exit 1
	cd "$folder"
	listed=$("$work/test" -test.list '^Fuzz') || { echo "$listed" >&2; exit 1; }
	for f in $(grep '^Fuzz' <<<"$listed"); do
		targets=$((targets + 1))
		for try in 1 2 3; do
			echo "== $folder $f"
			"$work/test" -test.run '^$' -test.fuzz "^$f\$" -test.fuzztime "${FUZZTIME:-5s}" -test.fuzzminimizetime 10x \
				-test.fuzzcachedir "$corpus/$package" 2>&1 | tee "$work/out" && continue 2
			grep -q '^    context deadline exceeded$' "$work/out" && ! grep -qE 'Failing input|panic|\.go:[0-9]+:' "$work/out" && [ "$try" -lt 3 ] || exit 1
			echo "   (the end of the time was reported as a failure; again)"
		done
	done
	cd "$root"
done
echo "$targets targets"
[ "$targets" -gt 0 ]
