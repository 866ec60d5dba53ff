package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const failedWay = `{"ok": false, "steps": [{"name": "enrolment", "ok": true, "ms": 0},
	{"name": "location", "ok": false, "ms": 7, "error": "Autodiscover: nowhere", "advice": "look"}]}`

func TestATestGoesTheWayForADeviceOrTheFirstOfAMailboxAndIsNoErrorWhenAStepFails(t *testing.T) {
	d := newBackend(t)
	for _, id := range []string{"phone", "other"} {
		is(t, d.ask(t, enrolToken, "PUT", "/v1/devices/"+id, strings.Replace(enrolment, deviceHex, strings.Repeat("ab", 32), 1)), 201, "")
	}
	is(t, d.ask(t, testToken, "POST", "/v1/test-notifications", `{"device": "phone"}`), 200, failedWay)
	is(t, d.ask(t, adminToken, "POST", "/v1/test-notifications", `{"mailbox": "ANN@contoso.com"}`), 200, failedWay)
	if diff := cmp.Diff([]string{"phone", "other"}, d.tested); diff != "" {
		t.Error(diff)
	}
	lines := d.log.FilterMessage("test notification").All()
	if len(lines) != 2 || lines[0].ContextMap()["client"] != "helpdesk" || lines[0].ContextMap()["device"] != "phone" {
		t.Errorf("who tested what is not in the log: %v", lines)
	}
}

func TestATestOfNobodyOrOfTwoIsRefused(t *testing.T) {
	for body, want := range map[string]string{
		`{"device": "phone"}`:            "404",
		`{"mailbox": "ann@contoso.com"}`: "404",
		`{}`:                             "422 device required",
		`{"device": "phone", "mailbox": "ann@contoso.com"}`:   "422 mailbox invalid",
		`{"device": "my phone"}`:                              "422 device invalid",
		`{"mailbox": "Ann"}`:                                  "422 mailbox invalid",
		`{"device": 1}`:                                       "422 device wrong_type",
		`{"device": "phone", "vip": [], "content": "sender"}`: "422 content unknown, vip unknown",
		`[]`: "422 body wrong_type",
		`{`:  "400",
	} {
		t.Run(body, func(t *testing.T) {
			d := newBackend(t)
			a := d.ask(t, testToken, "POST", "/v1/test-notifications", body)
			if got := told(t, a); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if len(d.tested) != 0 {
				t.Error("somebody was tested")
			}
		})
	}
}

func TestADeviceIsTestedOnceInTenSecondsAndOthersMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newBackend(t)
		for _, id := range []string{"phone", "other"} {
			d.ask(t, enrolToken, "PUT", "/v1/devices/"+id, enrolment)
		}
		ask := func(device string) *http.Response {
			return d.ask(t, testToken, "POST", "/v1/test-notifications", `{"device": "`+device+`"}`)
		}
		is(t, ask("phone"), 200, "")
		<-time.After(2500 * time.Millisecond)
		is(t, ask("other"), 200, "")
		refused := ask("phone")
		is(t, refused, 429, "")
		if got := refused.Header.Get("Retry-After"); got != "8" {
			t.Errorf("Retry-After is %q, want the rest of the ten seconds, in whole ones", got)
		}
		<-time.After(7500 * time.Millisecond)
		is(t, ask("phone"), 200, "")
	})
}

func TestTestsAreRememberedWithinBounds(t *testing.T) {
	ts, now := newTests(), time.Now()
	for i := range maxTests {
		if wait := ts.begin(fmt.Sprint(i), now); wait != 0 {
			t.Fatalf("device %d waits %v", i, wait)
		}
	}
	if wait := ts.begin("one more", now); wait != testPause {
		t.Errorf("one more than can be remembered waits %v", wait)
	}
	if wait := ts.begin("one more", now.Add(testPause)); wait != 0 || len(ts.last) != 1 {
		t.Errorf("when the others are over it waits %v, and %d are remembered", wait, len(ts.last))
	}
}

func TestReplacedClientsAreRecognisedAtOnceAndTheirForerunnersNoMore(t *testing.T) {
	d := newBackend(t)
	d.handler.SetClients([]Client{{Name: "grafana", Role: RoleRead, Token: "another-0123456789abcdef"}})
	is(t, d.ask(t, readToken, "GET", "/v1/status", ""), 401, "")
	is(t, d.ask(t, "another-0123456789abcdef", "GET", "/v1/status", ""), 200, "")
	is(t, d.ask(t, "another-0123456789abcdef", "PUT", "/v1/devices/phone", enrolment), 403, "")
}
