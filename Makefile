# make without arguments lists the targets.
GO      ?= go
LINT    := $(GO) tool -modfile="$(CURDIR)/tools.mod" golangci-lint
MODULES := . internal/sim/bench conformance
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/hubhop-iot/hubhop/cmd.linked=$(VERSION)
TARGETS := linux/amd64 linux/arm64 linux/arm linux/riscv64 darwin/amd64 darwin/arm64 windows/amd64
FUZZTIME ?= 5s
KILLS ?= 200
FAILOVERS ?= 20
SEED ?= 0
BURSTS ?= 150
MESSAGES ?= 1000000
BROKER_KILLS ?= 20
DISKS ?= 5
CRASH ?=
SEEDS ?= 1000
BENCH = $(GO) test ./internal/bench -v -count=1 -timeout 30m -parallel 3 -table ../../docs/benchmarks.md

.PHONY: help build test race lint fuzz bench bench-go bench-sim bench-outbox bench-troubles bench-status bench-flows crash crash-flows chaos soak days drills-whole drills drills-all picture demo cross conformance league

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build ./hubhop
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o hubhop .

test: ## run the tests
	$(GO) test ./...

race: ## run the tests under the race detector
	$(GO) test -race -timeout 20m ./...

lint: ## format, vet and the linters of .golangci.yml, in every module
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	@set -e; for m in $(MODULES); do echo "== $$m"; (cd $$m; $(GO) vet ./...; $(LINT) run ./...); done

fuzz: ## fuzz every parser, FUZZTIME each (5s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

bench: build ## measure everything, each figure beside a lower bound, into docs/benchmarks.md (Linux; about 10 minutes)
	$(BENCH) -run '^TestTables$$'

bench-go: ## run the Go benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-sim: build ## measure the simulator beside others, into docs/benchmarks.md (Linux)
	$(BENCH) -run '^TestTables$$//^simulator$$'

crash: build ## kill -9 device and simulator KILLS times (200) during FAILOVERS (20) and more, and prove that nothing is lost; SEED repeats a run
	$(GO) run ./internal/crash -hubhop ./hubhop -kills $(KILLS) -failovers $(FAILOVERS) -seed $(SEED) $(CRASH)

crash-flows: build ## MESSAGES numbered messages (1000000) through mosquitto, two data flow graphs and the outbox, with KILLS of hubhop, BROKER_KILLS (20), FAILOVERS and DISKS full disks (5): nothing is lost, each window is right (Linux)
	$(GO) run ./internal/crash -hubhop ./hubhop -messages $(MESSAGES) -rate 2000 -kills $(KILLS) -broker-kills $(BROKER_KILLS) -failovers $(FAILOVERS) -full-disks $(DISKS) -seed $(SEED) $(CRASH)

chaos: build ## fail system calls of the device BURSTS times (150) while hubs die, and prove that nothing is lost (Linux, strace)
	$(GO) run ./internal/crash -hubhop ./hubhop -bursts $(BURSTS) -rate 300 -seed $(SEED) $(CRASH)

bench-troubles: ## measure how soon a device is back from short troubles, in virtual time, into docs/benchmarks.md (Linux; a minute)
	$(BENCH) -run '^TestTables$$//^troubles$$'

bench-status: build ## measure what scrapes and readers of the events cost a device, into docs/benchmarks.md (Linux; two minutes)
	$(BENCH) -run '^TestTables$$//^status$$'

bench-flows: build ## measure data flows beside other programs, into docs/benchmarks.md; PART=inturn shows one part alone (Linux, mosquitto; four minutes)
	$(BENCH) -run '^TestTables$$//^flows$$$(if $(PART),/^$(PART)$$)'

bench-outbox: ## measure the outbox beside its floors, into docs/benchmarks.md (Linux)
	$(BENCH) -run '^TestTables$$//^outbox$$'

outbox-belt: ## the outbox's tests with four times their seeds, and every errno at every call of the disk
	$(GO) test ./telemetry/outbox -run 'PowerLoss|Crashes|FailingDisk|EveryCall' -seeds 4 -count=1 -timeout 30m

soak: ## client and cloud in virtual time under SEEDS schedules of faults (1000, or from:to); one that fails is shrunk
	SOAK_SEEDS=$(SEEDS) $(GO) test ./internal/drill -run '^TestSoak$$' -count=1 -timeout 24h -v

days: ## days of bad weather, of renewals, and of a data flow whose hub and broker change, in virtual time
	LONG_TESTS=1 $(GO) test ./internal/device -run '^(TestUnsteadyLinkIsNeverGivenUp|TestTokenRenewal)$$' -count=1
	LONG_TESTS=1 $(GO) test ./internal/flow -run '^TestEveryWindowOfADayArrives$$' -count=1

drills-whole: ## every scenario of scripts/scenarios in virtual time, also the long ones, with a device that nobody has crippled (about two minutes)
	LONG_TESTS=1 $(GO) test ./internal/drill/play -run '^TestLibraryPasses$$' -count=1 -timeout 20m -v

drills: ## every scenario of scripts/scenarios in virtual time, also the long ones, and with crippled devices (about five minutes)
	LONG_TESTS=1 $(GO) test ./internal/drill/play -run '^(TestLibraryPasses|TestEveryScenarioCanFail)$$' -count=1 -timeout 20m -v

drills-all: ## the same, and the one trial that takes minutes by itself: 72-hours-dark with a device that acknowledges early
	LONG_TESTS=all $(GO) test ./internal/drill/play -run '^(TestLibraryPasses|TestEveryScenarioCanFail)$$' -count=1 -timeout 30m -v

picture: ## draw docs/failover.svg again, with a drill in virtual time
	$(GO) test ./internal/drill/play -run TestThePictureInTheReadmeIsUpToDate -count=1 -update

demo: ## see it work
	$(GO) run . demo

cross: ## build for every platform, into dist/
	@set -e; mkdir -p dist; for t in $(TARGETS); do \
		os=$${t%/*}; arch=$${t#*/}; ext=; if [ $$os = windows ]; then ext=.exe; fi; \
		echo "== $$t"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/hubhop-$$os-$$arch$$ext .; \
	done

conformance: ## run the clients of others against the simulator, and write docs/conformance.md
	cd conformance && $(GO) test . && $(GO) run .

league: ## play faults against the official SDK for Node.js and against hubhop, into docs/benchmarks.md (Linux; about 15 minutes)
	cd conformance && $(GO) run . -league
