# `make help` lists the targets. CI runs `make lint` and `make test`, by .ci/run.

GO       ?= go
FUZZTIME ?= 20s
LINT     := $(GO) tool -modfile=.ci/tools/go.mod golangci-lint

# The official schema of EWS (messages.xsd, types.xsd, xml.xsd) is Microsoft's and not part of this repository. Where it is
# there, the tests validate every EWS message against it.
EWS_SCHEMA := $(abspath $(or $(EWS_SCHEMA),$(wildcard ../shared/ews-schema)))
export EWS_SCHEMA

.DEFAULT_GOAL := help
.PHONY: help build test packages lint fuzz mutate soak bench demo release clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

build: ## build ./mailbell: static, without paths of this machine
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o mailbell ./cmd/mailbell

test: packages ## run all tests with the race detector; installs what they need from Debian
	@test -n "$(EWS_SCHEMA)" || echo 'The EWS schema is not here (EWS_SCHEMA): the tests that validate messages against it are skipped.'
	$(GO) test -race -count=1 -p 3 -timeout 14m ./... # -count=1: the test cache does not see the program that tests build; -p 3: most tests wait

packages:
	@.ci/packages

lint: ## look at the code: gofmt, vet, go.mod, golangci-lint
	@files=$$(gofmt -l .) && if [ -n "$$files" ]; then echo "not formatted: $$files"; exit 1; fi
	$(GO) vet ./...
	GOOS=windows $(GO) vet $$(GOOS=windows $(GO) list -f '{{range .GoFiles}}cmd/mailbell/{{.}} {{end}}' ./cmd/mailbell) # without the tests, which are for Unix
	$(GO) mod tidy -diff
	$(LINT) run

fuzz: ## run each fuzz target for 20 s (FUZZTIME=1m for longer)
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; \
		done; \
	done

mutate: ## change the operators of a room one by one and see its tests fail: make mutate ROOM=subscriptions [FILES=book.go]
	@cd .ci/mutate && $(GO) run . $(ROOM) $(FILES)

SOAK      ?= 4h
MAILBOXES ?= 15000

soak: packages ## everything that can go wrong at once, for hours: make soak SOAK=4h MAILBOXES=15000
	$(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' ./cmd/mailbell -plain -soak $(SOAK) -mailboxes $(MAILBOXES)

bench: ## run the benchmarks of the packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

demo: ## show it: the real service against the simulator
	$(GO) run ./cmd/mailbell demo

release: ## build dist/: programs, .deb and .rpm, SBOM, licences, SHA256SUMS; and try the .deb
	.ci/release/build
	.ci/release/try

clean: ## remove what build and release made
	rm -rf mailbell dist
