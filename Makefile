# The two commands that do everything: make demo, make test. Each installs what
# it needs itself. `make help` lists the rest.
.DEFAULT_GOAL := all
SHELL := /bin/sh

HOST_ARCH := $(shell go env GOARCH)
SB := bin/sovereign-build
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The release whose go.mod is in tools/buildkitd.
BUILDKIT := $(shell sed -n 's,^\tgithub.com/moby/buildkit \(v[^ ]*\).*,\1,p' tools/buildkitd/go.mod)
FUZZTIME ?= 20s
# Pairs of kernels that bench-kernel builds.
COUNT ?= 2
# Of make torture: power cuts, what every choice comes from (0: the clock),
# families (all), and the page that takes the table.
ROUNDS ?= 20
SEED ?= 0
ONLY ?=
PAGE ?=
# Of make phone: flags of the test phone, such as --su=kernelsu --port=5600.
PHONE ?=

# One thing at a time: the steps inside use all cores.
.NOTPARALLEL:
.PHONY: all help demo test test-unit test-build test-boot test-e2e test-modules test-tailnet test-transfer test-release release test-snapshots test-backup test-audit test-cache test-forge test-crosvm test-streams test-devices phone test-phone test-phone-machines test-torture test-long test-arm64 lint fuzz bench bench-kernel torture sums generate clean setup-% FORCE

all: $(SB) bin/sovereignd bin/sovereign-backup bin/buildkitd ## bin/sovereign-build, and sovereignd, sovereign-backup and the BuildKit daemon beside it

help: ## this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

$(SB): FORCE
	@echo "== compiling $@"
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/sovereign-build/sovereign/internal/cli.version=$(VERSION)" -o $@ ./cmd/sovereign-build

bin/sovereignd: bin/sovereignd-linux-$(HOST_ARCH)
	@ln -f $< $@

# Static; make bin/sovereignd-linux-arm64 makes that of a phone or a small board.
bin/sovereignd-linux-%: FORCE
	@echo "== compiling $@"
	@CGO_ENABLED=0 GOOS=linux GOARCH=$* go build -trimpath -ldflags "-s -w" -o $@ ./cmd/sovereignd

bin/sovereign-backup: bin/sovereign-backup-linux-$(HOST_ARCH)
	@ln -f $< $@

# Of a module of its own: who imports the packages gets none of kopia's.
bin/sovereign-backup-linux-%: FORCE
	@echo "== compiling $@"
	@cd backup && CGO_ENABLED=0 GOOS=linux GOARCH=$* go build -trimpath -ldflags "-s -w" -o ../$@ ./cmd/sovereign-backup

# Of a module of its own for the same reason, with sigstore-go: some 540 packages
# that only verify --sigstore-bundle needs, so it is not among all.
bin/sovereign-sigstore: FORCE ## what checks signatures of Sigstore
	@echo "== compiling $@"
	@cd sigstore && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o ../$@ ./cmd/sovereign-sigstore

bin/buildkitd: tools/buildkitd/go.mod tools/buildkitd/go.sum
	@echo "== compiling the BuildKit daemon $(BUILDKIT) (about two minutes the first time)"
	@cd tools/buildkitd && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/moby/buildkit/version.Version=$(BUILDKIT)" -o ../../$@ github.com/moby/buildkit/cmd/buildkitd
	@touch $@

# The program of kopia's authors, without its pages: for tests of what
# sovereign-backup makes.
bin/kopia: tools/kopia/go.mod tools/kopia/go.sum
	@echo "== compiling kopia"
	@cd tools/kopia && CGO_ENABLED=0 go build -tags nohtmlui -o ../../$@ github.com/kopia/kopia
	@touch $@

setup-%:
	@scripts/setup.sh $(subst -, ,$*)

demo: setup-build-run-demo all ## build recipes/sql for this machine, boot it, ask it something
	@scripts/demo.sh

# What make test does; CI adds to it. scripts/test.sh has the stages.
STAGES ?= lint unit build boot e2e modules

test: setup-build-run-test all ## everything: lint, unit tests, a real build and real boots
	@scripts/test.sh $(STAGES)

lint: ## gofmt, go vet, staticcheck, shellcheck
	@echo "== lint"
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	@go vet ./...
	@go tool -modfile=tools/lint/go.mod staticcheck ./...
	@go tool -modfile=tools/lint/go.mod actionlint -shellcheck= .ci/workflows/*.yml
	@shellcheck $$(git ls-files '*.sh' .ci/run .ci/release) $$(git grep -l '^#!/bin/sh' -- 'recipes/*/files/*')

test-unit: ## unit tests with the race detector
	@echo "== unit tests"
	@go test -race -timeout 20m ./...

E2E := SOVEREIGN_E2E=$(CURDIR)/dist/sql-$(HOST_ARCH)

test-build: all ## the bundle of recipes/sql for this machine, compared with its sums
	@echo "== build recipes/sql for $(HOST_ARCH)"
	@$(SB) build recipes/sql --arch $(HOST_ARCH) --relock-missing --progress plain --check-sums

test-boot: test-build ## it boots, and PostgreSQL keeps its promises
	@echo "== boot it"
	@$(E2E) go test -count=1 -p 1 -v -timeout 30m -run 'TestPostgreSQL' ./e2e

# Tests that take minutes each have stages of their own.
LONG := TestTorture|TestTransfer|TestDevice|TestPhone|TestSnapshot|TestRollback|TestBackup|TestCrosvm|TestAudit|TestCache

test-e2e: test-build ## everything else that a booted machine shows
	@echo "== boots of all kinds"
	@$(E2E) go test -count=1 -p 1 -v -timeout 40m -run 'TestBoot|TestVM|TestRealBundle|TestConf|TestUEFI' ./pkg/kernel/... ./pkg/rootfs/ext4 ./pkg/build/disk ./internal/machine ./pkg/runtime/guest/initd
	@$(E2E) go test -count=1 -v -timeout 40m -skip '$(LONG)|TestPostgreSQL' ./e2e

test-modules: test-build ## programs that import the packages, and other programs on what they make
	@echo "== modules of their own"
	@for module in examples/* compat/apko sigstore; do \
		(cd $$module && go vet ./... && $(E2E) go test -count=1 -v -timeout 30m ./...) || exit 1; done

test-tailnet: test-build ## the guest in a tailnet of this machine's own
	@cd compat/tailnet && go vet ./... && $(E2E) go test -count=1 -v -timeout 30m ./...

test-transfer: test-build ## inputs carried to an empty cache
	@$(E2E) go test -count=1 -v -timeout 60m -run TestTransfer ./e2e

# Of make release: the version, the file with the secret key, the output, the last
# release and where to push to; all but VERSION and OUT may be empty.
KEY ?=
OUT ?= dist/release-$(VERSION)
LAST ?=
PUSH ?=

release: setup-build-run-test all ## recipes/sql as a release: both architectures, checked; KEY= OUT= LAST= PUSH=oci://...
	@$(SB) release recipes/sql -o $(OUT) --release $(VERSION) --progress plain $(if $(KEY),--key-file $(KEY)) $(if $(LAST),--last $(LAST)) $(if $(PUSH),--push $(PUSH))
	@$(SB) verify $(OUT) $(if $(KEY),--key $(KEY).pub)

test-release: test-build ## from a tag to a verified pull: the script of releases, with a registry on loopback
	@rm -rf dist/release-try
	@VERSION=0.0.1 ARCHS=$(HOST_ARCH) .ci/release --try recipes/sql dist/release-try
	@cd compat/release && go vet ./... && $(E2E) go test -count=1 -v -timeout 30m ./...

test-snapshots: test-build ## a disk copied under writes, a machine's copy, and disks put back to what they were
	@$(E2E) go test -count=1 -v -timeout 30m -run 'TestSnapshot|TestRollback' ./e2e

test-backup: test-build bin/kopia bin/debian-sshd ## backups, restores and a drill, and what the stock kopia reads of them
	@cd backup && go vet ./... && $(E2E) go test -count=1 -v -timeout 30m ./...
	@$(E2E) go test -count=1 -v -timeout 40m -run TestBackup ./e2e

test-audit: test-build ## the field guide's 22 items, on a bundle and on a machine
	@$(E2E) go test -count=1 -v -timeout 30m -run TestAudit ./e2e

test-cache: test-build ## a bundle from a shared cache alone: no source, no toolchain, no engine, the same bytes
	@$(E2E) go test -count=1 -v -timeout 30m -run TestCache ./e2e

test-forge: setup-build-run-test-forge all ## recipes/forge: built, booted, and used with a browser, git, SSH, LFS and over a tailnet
	@echo "== build recipes/forge for $(HOST_ARCH)"
	@$(SB) build recipes/forge --arch $(HOST_ARCH) --relock-missing --progress plain --check-sums
	@mkdir -p dist/forge-pages
	@cd compat/forge && go vet ./... && SOVEREIGN_FORGE=$(CURDIR)/dist/forge-$(HOST_ARCH) SOVEREIGN_FORGE_SHOTS=$(CURDIR)/dist/forge-pages go test -count=1 -v -timeout 60m ./...
	@cd compat/tailnet && SOVEREIGN_FORGE=$(CURDIR)/dist/forge-$(HOST_ARCH) go test -count=1 -v -timeout 30m -run TestForge ./...

test-crosvm: test-build ## machines under the stand-in for Android's hypervisor
	@$(E2E) go test -count=1 -v -timeout 40m -run TestCrosvm ./e2e

test-streams: test-build ## 1 GiB through exec, to slow readers
	@$(E2E) SOVEREIGN_E2E_STREAM_MIB=1024 go test -count=1 -v -timeout 60m -run TestStreams ./e2e

# Debian's sshd, not installed: for the test of devices.
bin/debian-sshd: scripts/sshd.sh
	@echo "== unpacking sshd"
	@scripts/sshd.sh $@
	@touch $@

test-devices: test-build bin/debian-sshd ## machines on another computer, behind real ssh and a link that breaks
	@$(E2E) go test -count=1 -v -timeout 40m -run TestDevice ./e2e

# Debian's adbd and its libraries, not installed: for the test phone.
bin/debian-adbd: scripts/adbd.sh
	@echo "== unpacking adbd"
	@scripts/adbd.sh $@
	@touch $@

bin/testphone: FORCE
	@echo "== compiling $@"
	@CGO_ENABLED=0 go build -trimpath -o $@ ./internal/testphone/cmd/testphone

bin/crosvm: FORCE
	@echo "== compiling $@, the stand-in"
	@CGO_ENABLED=0 go build -trimpath -o $@ ./internal/testphone/crosvm

bin/vm: FORCE
	@echo "== compiling $@, the stand-in"
	@CGO_ENABLED=0 go build -trimpath -o $@ ./internal/testphone/vm

phone: setup-run-phone all bin/testphone bin/debian-adbd ## a test phone for adb, until Ctrl-C; as root
	@bin/testphone --adbd bin/debian-adbd $(PHONE)

# Those with a machine, of which each takes minutes.
PHONE_MACHINES := TestPhone(Machine|Crosvm|Shell|Two|Network)$$

test-phone: setup-phone all bin/testphone bin/crosvm bin/vm bin/debian-adbd ## the way to a phone: a real adb and adbd, root of three kinds, reboots, links that break; as root
	@SOVEREIGN_TESTPHONE=$(CURDIR)/bin go test -count=1 -p 1 -v -timeout 30m -run TestPhone -skip '$(PHONE_MACHINES)' ./internal/testphone ./e2e

test-phone-machines: setup-phone test-build bin/testphone bin/crosvm bin/vm bin/debian-adbd ## machines on a phone, rooted and not; as root
	@$(E2E) SOVEREIGN_TESTPHONE=$(CURDIR)/bin go test -count=1 -p 1 -v -timeout 60m -run '$(PHONE_MACHINES)' ./e2e

test-torture: test-build ## a few rounds of each fault
	@$(E2E) go test -count=1 -v -timeout 60m -run TestTorture ./e2e

test-long: setup-build-run-test all ## what takes minutes more than make test: a tailnet, other computers, a phone, crosvm, backups, 1 GiB through exec, inputs carried over, faults
	@scripts/test.sh snapshots audit cache backup crosvm devices phone phone-machines tailnet streams transfer release torture forge

test-arm64: setup-build-run-test all ## the same for arm64, by cross build and emulation
	@echo "== build and boot arm64"
	@$(SB) build recipes/sql --arch arm64 --relock-missing --progress plain --check-sums
	@SOVEREIGN_E2E=$(CURDIR)/dist/sql-arm64 go test -count=1 -p 1 -v -timeout 40m -run 'TestBoot|TestUEFI|TestPostgreSQL' ./pkg/kernel ./pkg/rootfs/ext4 ./pkg/build/disk ./e2e

fuzz: ## every fuzz target for FUZZTIME (20s)
	@scripts/fuzz.sh $(FUZZTIME)

bench: setup-build-run-test all ## the figures of docs/figures.md
	@$(SB) build recipes/sql --relock-missing --progress plain
	@SOVEREIGN_E2E=$(CURDIR)/dist/sql-$(HOST_ARCH) go test -run '^$$' -bench . -benchtime 5x -timeout 60m ./e2e

torture: setup-build-run-test all ## power cuts, kills and other faults, ROUNDS=20; the figures of docs/reliability.md
	@$(SB) build recipes/sql --relock-missing --progress plain
	@go run ./internal/torture/cmd/torture --programs bin --bundle dist/sql-$(HOST_ARCH) --rounds $(ROUNDS) --seed $(SEED) --only '$(ONLY)' --page '$(PAGE)' --commit $(VERSION) $(if $(JSON),--json)

sums: setup-build-run-test all ## sovereign.sums of both recipes: what every step makes, for both architectures
	@for recipe in sql forge; do for arch in amd64 arm64; do \
		$(SB) build recipes/$$recipe --arch $$arch --progress plain --write-sums || exit 1; done; done

generate: ## CLI reference and JSON schemas
	@go generate ./...

bench-kernel: setup-build-run-test all ## the engine's cost on the kernel step, against the same by hand
	@$(SB) build recipes/sql --relock-missing --progress plain
	@SOVEREIGN_E2E=$(CURDIR)/dist/sql-$(HOST_ARCH) SOVEREIGN_BENCH_KERNEL=1 go test -run '^$$' -bench Kernel -benchtime 1x -count $(COUNT) -timeout 3h ./e2e

clean: ## remove what make made here (caches stay in the user's cache directory)
	rm -rf bin dist
