@echo off
rem Moves one device of an IoT Central application back to its first hub.
rem
rem   failback.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX
rem
rem The Azure CLI with its azure-iot extension does the work. The variable AZ names another program to
rem use instead. If IOTC_TOKEN has an API token of the application, no login is needed.
rem Exit codes: 0 done, 2 wrong arguments, 127 no Azure CLI or no azure-iot extension, else the exit
rem code of the Azure CLI.
setlocal
if not defined AZ set "AZ=az"
if "%~4"=="" goto usage
if not "%~5"=="" goto usage
where "%AZ%" >nul 2>nul
if errorlevel 1 (
  echo failback: the Azure CLI ^(%AZ%^) is not installed; see https://aka.ms/azure-cli, then: az extension add --name azure-iot>&2
  exit /b 127
)
rem A token contains percent signs, and call expands them once more. So each is doubled.
set "TOKEN="
if not defined IOTC_TOKEN goto run
setlocal EnableDelayedExpansion
for /f "delims=" %%t in ("!IOTC_TOKEN:%%=%%%%!") do endlocal & set TOKEN=--token "%%t"
:run
call "%AZ%" iot central device manual-failback -n "%~1" -d "%~2" --central-api-uri "%~3" --central-dns-suffix "%~4" %TOKEN%
set "CODE=%errorlevel%"
if "%CODE%"=="0" exit /b 0
call "%AZ%" extension show --name azure-iot >nul 2>nul
if errorlevel 1 (
  echo failback: the Azure CLI has no azure-iot extension; run: az extension add --name azure-iot>&2
  exit /b 127
)
exit /b %CODE%

:usage
echo usage: failback.bat APP_ID DEVICE_ID APP_HOST DNS_SUFFIX>&2
exit /b 2
