#!/bin/sh
# Moves one device of an IoT Central application back to its first hub.
#
#   failback.sh APP_ID DEVICE_ID APP_HOST DNS_SUFFIX
#
#   APP_ID       id of the application (Azure portal, or the application's About page)
#   DEVICE_ID    the device
#   APP_HOST     host name of the application, such as myapp.azureiotcentral.com
#   DNS_SUFFIX   azureiotcentral.com, unless your cloud has its own; the request goes to
#                https://APP_ID.DNS_SUFFIX
#
# The Azure CLI with its azure-iot extension does the work. The variable AZ names another program to
# use instead. If IOTC_TOKEN has an API token of the application, no login is needed.
# Exit codes: 0 done, 2 wrong arguments, 127 no Azure CLI or no azure-iot extension, else the exit
# code of the Azure CLI.
set -eu

AZ=${AZ:-az}

usage() {
	echo "usage: $(basename "$0") APP_ID DEVICE_ID APP_HOST DNS_SUFFIX" >&2
	exit 2
}

if [ $# -ne 4 ]; then
	echo "failback: 4 arguments are needed, $# were given" >&2
	usage
fi
case $3 in
*".$4") ;;
*) echo "failback: APP_HOST $3 does not end in .$4 (DNS_SUFFIX); the Azure CLI asks https://$1.$4" >&2 ;;
esac
if ! command -v "$AZ" >/dev/null 2>&1; then
	echo "failback: the Azure CLI ($AZ) is not installed; see https://aka.ms/azure-cli, then: az extension add --name azure-iot" >&2
	exit 127
fi
set -- iot central device manual-failback -n "$1" -d "$2" --central-api-uri "$3" --central-dns-suffix "$4"
if [ -n "${IOTC_TOKEN-}" ]; then
	set -- "$@" --token "$IOTC_TOKEN"
fi
code=0
"$AZ" "$@" || code=$?
if [ "$code" -ne 0 ] && ! "$AZ" extension show --name azure-iot >/dev/null 2>&1; then
	echo "failback: the Azure CLI has no azure-iot extension; run: az extension add --name azure-iot" >&2
	exit 127
fi
exit "$code"
