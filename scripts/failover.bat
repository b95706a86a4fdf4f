@echo off
rem Moves one device of an IoT Central application to another hub.
rem
rem   failover.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX [TTL_MINUTES]
rem
rem The Azure CLI with its azure-iot extension does the work; AZ names another program in its place.
rem Exit codes: 0 done, 2 wrong arguments, 127 no Azure CLI, else that of the Azure CLI.
setlocal
if not defined AZ set "AZ=az"
if "%~4"=="" goto usage
if not "%~6"=="" goto usage
where "%AZ%" >nul 2>nul
if errorlevel 1 (
  echo failover: the Azure CLI ^(%AZ%^) is not installed; see https://aka.ms/azure-cli, then: az extension add --name azure-iot>&2
  exit /b 127
)
if "%~5"=="" (
  call "%AZ%" iot central device manual-failover -n "%~1" -d "%~2" --central-api-uri "%~3" --central-dns-suffix "%~4"
) else (
  call "%AZ%" iot central device manual-failover -n "%~1" -d "%~2" --central-api-uri "%~3" --central-dns-suffix "%~4" --ttl "%~5"
)
exit /b %errorlevel%

:usage
echo usage: failover.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX [TTL_MINUTES]>&2
exit /b 2
