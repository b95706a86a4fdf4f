@echo off
rem Moves one device of an IoT Central application back to its first hub.
rem
rem   failback.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX
rem
rem The Azure CLI with its azure-iot extension does the work; AZ names another program in its place.
rem Exit codes: 0 done, 2 wrong arguments, 127 no Azure CLI, else that of the Azure CLI.
setlocal
if not defined AZ set "AZ=az"
if "%~4"=="" goto usage
if not "%~5"=="" goto usage
where "%AZ%" >nul 2>nul
if errorlevel 1 (
  echo failback: the Azure CLI ^(%AZ%^) is not installed; see https://aka.ms/azure-cli, then: az extension add --name azure-iot>&2
  exit /b 127
)
call "%AZ%" iot central device manual-failback -n "%~1" -d "%~2" --central-api-uri "%~3" --central-dns-suffix "%~4"
exit /b %errorlevel%

:usage
echo usage: failback.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX>&2
exit /b 2
