package simulator

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/simulator/faults"
)

func TestEveryFaultIsListedAndChecked(t *testing.T) {
	s := start(t, Options{})
	all := s.Faults()
	for _, name := range []string{"stream_fin", "stream_rst", "stream_half", "stream_silent", "events_dropped", "subscriptions_lost", "wrong_password", "mailbox_unknown",
		"impersonation_refused", "server_busy", "server_restart", "apns_cut", "apns_stall", "apns_answer", "answer_garbage", "answer_huge", "answer_entities", "answer_control_chars",
		"events_reordered", "mailbox_move", "apns_goaway", "apns_goaway_close", "apns_dead", "apns_streams", "apns_limit_kept",
		"graph_dropped", "graph_missed", "graph_late", "graph_doubled", "graph_reordered", "graph_foreign", "graph_removed", "graph_token_ends", "graph_limit"} {
		if !slices.ContainsFunc(all, func(f faults.Info) bool { return f.Name == name && len(f.Text) > 20 }) {
			t.Errorf("%s is not listed", name)
		}
	}
	for name, tc := range map[string]struct {
		fault string
		f     Fault
		field string
	}{
		"an unknown name":        {"no_such", Fault{}, ""},
		"a field not taken":      {"stream_fin", Fault{Token: "00"}, "token"},
		"a share above 1":        {"events_dropped", Fault{Share: 1.1}, "share"},
		"a share below 0":        {"events_dropped", Fault{Share: -0.1}, "share"},
		"a count below 0":        {"events_dropped", Fault{Count: -1}, "count"},
		"seconds below 0":        {"server_busy", Fault{Seconds: -1}, "seconds"},
		"seconds without end":    {"server_busy", Fault{Seconds: 1e18}, "seconds"},
		"a status that is none":  {"apns_answer", Fault{Status: 42}, "status"},
		"a reason that is none":  {"apns_answer", Fault{Reason: `"}`}, "reason"},
		"a shape that is none":   {"server_busy", Fault{Reason: "late"}, "reason"},
		"a limit below 0":        {"apns_streams", Fault{Limit: -1}, "limit"},
		"a code that is none":    {"token_refused", Fault{Reason: "AADSTS"}, "reason"},
		"no limit":               {"graph_expiry", Fault{}, "limit"},
		"a limit of nothing":     {"graph_limit", Fault{Limit: 1, Reason: "all"}, "reason"},
		"a host of APNs":         {"apns_cut", Fault{Host: Online}, "host"},
		"a status with a reason": {"exchange_answer", Fault{Status: 503, Reason: "ErrorX"}, "status"},
	} {
		fe, ok := errors.AsType[*faults.Error](s.SetFault(tc.fault, tc.f))
		if !ok || fe.Field != tc.field || !strings.Contains(fe.Error(), tc.fault) {
			t.Errorf("%s: %v", name, fe)
		}
	}
	if err := s.SetFault("token_refused", Fault{Reason: "AADSTS7000215"}); err != nil {
		t.Error(err)
	}
	if err := s.ClearFault("no_such"); err == nil {
		t.Error("an unknown fault can be cleared")
	}
	if err := s.SetFault("events_dropped", Fault{Share: 0.25}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Faults(), func(f faults.Info) bool { return f.Name == "events_dropped" })
	if f := s.Faults()[i].Set; f == nil || f.Share != 0.25 {
		t.Errorf("listed as %+v", f)
	}
	met := 0
	for range 1000 {
		if _, ok := s.faults.Hit("events_dropped", "x", ""); ok {
			met++
		}
	}
	if met < 200 || met > 300 {
		t.Errorf("a share of 0.25 met %d of 1000", met)
	}
}
