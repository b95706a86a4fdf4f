#!/usr/bin/env bash
# Runs the official Azure IoT device SDK for Node.js, unmodified and at pinned versions, against a freshly started simulator.
# It needs Node.js and npm; everything it makes lies under dist/. On Linux, as root or with
# net.ipv4.ip_unprivileged_port_start=443 or below for the standard ports of layout loopback.
set -euo pipefail
cd "$(dirname "$0")/.."

work=dist/node
mkdir -p "$work"
cp conformance/node/package.json conformance/node/package-lock.json "$work/"
(cd "$work" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >npm.log 2>&1) || { cat "$work/npm.log" >&2; exit 1; }
cp conformance/node/device.js "$work/"
go build -o "$work/hubhop" .

rm -rf "$work/sim"
# An address block of its own, so that a simulator that is running already does not get into the way.
coproc SIM { exec "$work/hubhop" sim --layout loopback --base-address 127.31.0.1 --control 127.31.0.1:0 --out "$work/sim" --retry-after 1s 2>"$work/sim.log"; }
sim=$SIM_PID
trap 'kill "$sim" 2>/dev/null || true' EXIT
IFS= read -r -t 20 -u "${SIM[0]}" ready || { echo "the simulator does not get ready" >&2; cat "$work/sim.log" >&2; exit 1; }
echo "$ready"
NODE_EXTRA_CA_CERTS="$work/sim/ca.pem" timeout 120 node "$work/device.js" "$work/sim"
