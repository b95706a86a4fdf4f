#!/usr/bin/env bash
# Proves on a real IoT Central application that a device survives a failover and a failback.
#
#   failover-test.sh APP_ID DEVICE_ID APP_HOST DNS_SUFFIX [TTL_MINUTES]
#
# It starts a device and waits until telemetry flows on its hub. It moves the device and waits until
# telemetry flows on the other hub. It moves the device back and waits until telemetry flows on the
# first hub again. Then it stops the device and says what it saw. Telemetry flows when the hub has
# acknowledged a message. If the test fails after the failover, it moves the device back. The
# arguments, and IOTC_TOKEN, are those of failover.sh. The device takes its credentials from the
# environment or ./hubhop.yaml:
#
#   export HUBHOP_ID_SCOPE=0ne00ABCDEF HUBHOP_GROUP_KEY_FILE=group.key
#
# AZ names the Azure CLI (default az), HUBHOP names the program (default hubhop), and STEP_TIMEOUT is how
# many seconds each step may take (default 300).
# Exit codes: 0 passed, 1 failed, 2 wrong arguments, 127 a program is missing.
set -u

here=$(cd "$(dirname "$0")" && pwd)
hubhop=${HUBHOP:-hubhop}
limit=${STEP_TIMEOUT:-300}
unset HUBHOP # the program would take it for a setting

moved=false
fail() {
	if $moved; then
		moved=false
		echo "failover-test: moving the device back" >&2
		"$here/failback.sh" "${app[@]}" >&2 || echo "failover-test: it could not be moved back; run failback.sh by hand" >&2
	fi
	echo "failover-test: FAILED: $*" >&2
	exit 1
}

if [ $# -lt 4 ] || [ $# -gt 5 ]; then
	echo "failover-test: 4 or 5 arguments are needed, $# were given" >&2
	echo "usage: $(basename "$0") APP_ID DEVICE_ID APP_HOST DNS_SUFFIX [TTL_MINUTES]" >&2
	exit 2
fi
app=("$1" "$2" "$3" "$4")
ttl=("${@:5}")
command -v "$hubhop" >/dev/null 2>&1 || { echo "failover-test: $hubhop is not installed; build it, or name it with HUBHOP" >&2; exit 127; }
command -v "${AZ:-az}" >/dev/null 2>&1 || { echo "failover-test: the Azure CLI (${AZ:-az}) is not installed; see https://aka.ms/azure-cli" >&2; exit 127; }

work=$(mktemp -d)
mkfifo "$work/log"
"$hubhop" run --device-id "$2" --log-format json --log-level debug 2>"$work/log" &
device=$!
exec 3<"$work/log"
stop() {
	kill "$device" 2>/dev/null
	cat <&3 >>"$work/rest" & # so that its last words do not block it
	wait "$device"
}
trap 'stop; rm -rf "$work"' EXIT
trap 'fail "interrupted"' INT TERM HUP

# flows waits until a hub that the test $1 accepts has acknowledged telemetry. It sets hub and seconds.
flows() {
	local accept=$1 began=$SECONDS line left
	while left=$((limit - (SECONDS - began))) && [ "$left" -gt 0 ]; do
		IFS= read -r -t "$left" -u 3 line
		code=$?
		[ "$code" -gt 128 ] && return 1 # the time is up
		if [ "$code" -ne 0 ]; then # the log has ended, and so has the device
			wait "$device"
			code=$?
			trap 'rm -rf "$work"' EXIT
			fail "the device ended with exit code $code; its last words are above"
		fi
		case $line in
		*'"kind":"acknowledged"'*)
			hub=${line#*\"hub\":\"}
			hub=${hub%%\"*}
			seconds=$((SECONDS - began))
			"$accept" && return 0
			;;
		*'"level":"warn"'* | *'"level":"error"'* | *'hubhop: '*) echo "  device: $line" >&2 ;;
		esac
	done
	return 1
}
any() { true; }
other() { [ "$hub" != "$first" ]; }
same() { [ "$hub" = "$first" ]; }

flows any || fail "no telemetry within $limit s after the start"
first=$hub
echo "1. telemetry flows on $first after $seconds s"

"$here/failover.sh" "${app[@]}" ${ttl[@]+"${ttl[@]}"} || fail "the Azure CLI could not move the device"
moved=true
flows other || fail "no telemetry on another hub within $limit s after the failover"
second=$hub
echo "2. failover: telemetry flows on $second after $seconds s"

"$here/failback.sh" "${app[@]}" || fail "the Azure CLI could not move the device back"
moved=false
flows same || fail "no telemetry on $first within $limit s after the failback"
echo "3. failback: telemetry flows on $first after $seconds s"

trap 'rm -rf "$work"' EXIT
stop
code=$?
[ "$code" -eq 0 ] || fail "the device ended with exit code $code"
echo "PASSED"
