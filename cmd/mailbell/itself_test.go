package main_test

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailbell/mailbell/simulator"
)

// Each breakage is named with its remedy by the service itself, within a minute and without a check: by what the API answers to an
// enrolment, by why, by the status or by the log.
func TestTheServiceItselfNamesEachBreakageWithinAMinute(t *testing.T) {
	t.Parallel()
	onlyChecked := []string{ // what works all the same, and what concerns the command line of check alone
		"Basic behind what ends TLS, which works", "a device that is not enrolled", "an address that is none",
	}
	otherwise := map[string]string{ // what the service says where check advises something else, or names what it said before
		"a listener account at Exchange Online": "use client_secret or certificate",
		"an app that was removed":               "let the app report its token", // the enrolment has gone
		"a domain that no entry has":            "not in domains of an exchange entry",
		"a client secret that nobody gives":     "check the day",
		"another mailbell has the state file":   "in use by another process",
	}
	for _, b := range breakages() {
		if slices.Contains(onlyChecked, b.name) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			b.advice = cmp.Or(otherwise[b.name], b.advice)
			inst := install(t, b.options)
			if b.prepare != nil {
				b.prepare(inst)
			}
			p := launch(t, "run", "--config", inst.config)
			inst.runs = append(inst.runs, p)
			eventually(t, soon, "the service is ready, or has ended", func() bool {
				return strings.Contains(p.stderr(), "mailbell is running") || !p.running()
			})
			if !p.running() {
				if said := p.stderr(); !strings.Contains(said, b.says) {
					t.Errorf("want %q in\n%s", b.says, said)
				}
				return
			}
			address := first
			if b.options.Hybrid {
				address = second
			}
			if i := slices.Index(b.args, "--mailbox"); i >= 0 {
				address = b.args[i+1]
			}
			var answer []byte
			if status, _ := inst.raw(http.MethodGet, "/v1/devices/phone", inst.token, nil); status != http.StatusOK {
				_, answer = inst.raw(http.MethodPut, "/v1/devices/phone", inst.token, map[string]string{"mailbox": address, "token": deviceToken()})
			}
			if address != nobody && strings.HasSuffix(address, simulator.Domain) {
				inst.sim.Deliver(address, time.Time{}, []byte("Subject: Hello\r\n\r\n"))
			}
			told := ""
			if !waitUntil(t.Context(), time.Minute, func() bool {
				_, status := inst.raw(http.MethodGet, "/v1/status", inst.token, nil)
				why := launch(t, "why", "--config", inst.config, address)
				why.wait(refusal)
				told = string(answer) + string(status) + why.stdout() + why.stderr() + p.stderr()
				return strings.Contains(told, b.advice)
			}) {
				t.Errorf("want %q in\n%s", b.advice, told)
			}
		})
	}
}
