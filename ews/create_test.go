package ews

import (
	"net/http"
	"testing"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/simulator"
)

func TestAMessageThatAMailboxSendsItselfArrivesInItsInbox(t *testing.T) {
	_, c, target := simulated(t, simulator.Options{Mailboxes: 2})
	const subject = "mailbell canary <&> é"
	if _, err := c.Send(t.Context(), target, subject, "Sent by mailbell."); err != nil {
		t.Fatal(err)
	}
	list, err := c.FindItem(t.Context(), target, 0, 10)
	if err != nil || len(list.Messages) != 1 || list.Messages[0].Subject != subject || list.Messages[0].Read {
		t.Errorf("%+v, %v", list.Messages, err)
	}
}

func TestARefusalToSendIsTyped(t *testing.T) {
	for code, want := range map[string]fault.Remedy{"ErrorSendAsDenied": fault.Fix, "ErrorServerBusy": fault.Wait} {
		_, err := answers(http.StatusOK, response("CreateItem", failure("CreateItem", code, "", ""))).Send(t.Context(), target, "subject", "text")
		if f := fault.Of(err); f.Code != code || f.Op != "CreateItem" || f.Remedy != want {
			t.Errorf("%s: %v, remedy %v", code, err, f.Remedy)
		}
	}
	if _, err := answers(http.StatusOK, response("CreateItem", success("CreateItem", "<m:Items/>"))).Send(t.Context(), target, "subject", "text"); err != nil {
		t.Error(err)
	}
}
