# What there is to do. Every target goes through the modules that the file allmodules lists.

MODULES  := $(shell cat allmodules)
FUZZTIME ?= 30s
BENCH    ?= -short
each      = @for m in $(MODULES); do echo "== $$m: $(1)"; (cd $$m && $(1)) || exit 1; done

.PHONY: help build test race nat cover cover-suite bench bench-peers size table breakages fuzz lint cross ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' Makefile

build: ## build everything; the commands go to bin/
	$(call each,go build ./...)
	@mkdir -p bin && go build -o bin/ ./cmd/...

test: ## run the tests
	$(call each,go test ./...)

race: ## run the tests under the race detector, in random order
	$(call each,go test -race -shuffle=on -timeout 30m ./...)

nat: ## run the tests in the lab of NATs; needs Linux and root
	@.ci/run nat

cover: ## run the tests and show what they reach
	@go test -coverpkg=./... -coverprofile=cover.out ./... && go tool cover -func=cover.out | tail -n 1

cover-suite: ## what the conformance suite alone reaches of tcp, mux, quic and transport
	@mkdir -p bin
	@for p in tcp mux quic conformance; do \
		go test -count=1 -run '^Test(Conformance|Stack|AgainstSound)' -coverprofile bin/suite-$$p.out -coverpkg ./tcp,./mux,./quic,./transport ./$$p >bin/suite-$$p.txt || { cat bin/suite-$$p.txt; exit 1; }; \
	done
	@awk '!/^mode/ { n[$$1] = $$2; hits[$$1] += $$3 } \
		END { for (b in n) { dir = b; sub("/[^/]*$$", "", dir); all[dir] += n[b]; if (hits[b]) reached[dir] += n[b] } \
			for (d in all) printf "%s: %d of %d statements, %.1f %%\n", d, reached[d], all[d], 100 * reached[d] / all[d] }' bin/suite-*.out

bench: ## measure the transports beside their bare engines, as the table in README.md does
	go test -run '^$$' -bench Transport -benchtime 40x -v ./tcp ./mux ./quic ./transport/mem

bench-peers: ## compare with what programs would use instead: yamux, quic-go, go-libp2p, gRPC and others; a few minutes
	@cd bench && go run . $(BENCH)

size: ## what a program with all three transports is made of
	@mkdir -p bin && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/all ./examples/all
	@echo "bytes, stripped: $$(wc -c <bin/all)"
	@echo "modules of others: $$(go version -m bin/all | grep -c '^	dep	')"
	@go version -m bin/all | awk '$$1 == "dep" { print "  " $$2, $$3 }'

table: ## write what is new into conformance/BREAKAGES.md, but not what it would take a run of the matrix to know
	@PHEROMONES_CONFORMANCE_TABLE=write go test -count=1 -run '^TestTable$$' ./conformance

breakages: ## run every rule over every breakage, and write conformance/BREAKAGES.md: half an hour
	@mkdir -p bin && PHEROMONES_CONFORMANCE_MATRIX=$(CURDIR)/bin/breakages.json go test -run '^TestMatrix$$' -v -timeout 3h ./conformance

fuzz: ## run every fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) .ci/run fuzz

lint: ## gofmt, go vet and, if it is installed, golangci-lint
	@.ci/run format vet lint

cross: ## build and vet for the other systems
	@.ci/run cross

ci: ## everything that must pass before a change is taken
	@.ci/run
