package graph

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailbell/mailbell/internal/fault"
)

const callback = "https://bell.contoso.com/callbacks/graph/s3cretPath"

func TestASubscriptionIsMadeAsItIsDocumented(t *testing.T) {
	until := time.Date(2026, 12, 5, 2, 0, 0, 0, time.UTC)
	plain := map[string]any{
		"changeType": "created", "resource": "/users/mara@contoso.com/mailFolders('inbox')/messages", "clientState": "state",
		"notificationUrl": callback, "lifecycleNotificationUrl": callback + "/l", "expirationDateTime": "2026-12-05T02:00:00.000Z", "latestSupportedTlsVersion": "v1_2",
	}
	rich := map[string]any{"includeResourceData": true, "encryptionCertificate": "MIIC", "encryptionCertificateId": "id"}
	maps.Copy(rich, plain)
	rich["resource"] = "/users/mara@contoso.com/mailFolders('inbox')/messages?$select=" + shownFields +
		"&$expand=singleValueExtendedProperties($filter=id eq 'Integer 0x0036' or id eq 'String 0x001A')"
	for _, want := range []map[string]any{plain, rich} {
		c := client(func(r *http.Request, body string) *http.Response {
			if diff := cmp.Diff(want, parsed(t, body)); diff != "" || r.Method != http.MethodPost || r.URL.Path != "/v1.0/subscriptions" || r.Header.Get("Content-Type") != "application/json" {
				t.Error(diff)
			}
			return reply(r, http.StatusCreated, `{"id":"6f1c5a4e-0f0e-4bd7-9df1-0f0d6a8f3c55","expirationDateTime":"2026-12-04T00:00:00Z","clientState":null}`)
		})
		s := Subscription{NotificationURL: callback, LifecycleURL: callback + "/l", ClientState: "state", Until: until}
		if want["includeResourceData"] != nil {
			s.Rich = &Rich{Certificate: "MIIC", CertificateID: "id"}
		}
		got, err := c.Subscribe(t.Context(), mara, s)
		if err != nil || got.ID != "6f1c5a4e-0f0e-4bd7-9df1-0f0d6a8f3c55" || !got.Expires.Equal(time.Date(2026, 12, 4, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v, %v: the date of the answer counts", got, err)
		}
	}
}

func TestWhereALifeIsTooLongTheLongestThatGraphAllowsIsAskedFor(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"Subscription expiration can only be 4230 minutes in the future.": 4220 * time.Minute,
		"Subscription expiration can only be 30 minutes in the future.":   shortest,
		"Subscription expiration can only be shorter.":                    fallback,
		"Subscription expiration can only be 999999 minutes.":             Longest * 3 / 4, // and never what was refused
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked []string
			c := client(func(r *http.Request, body string) *http.Response {
				asked = append(asked, parsed(t, body)["expirationDateTime"].(string))
				if len(asked) == 1 {
					return reply(r, http.StatusBadRequest, errorBody("ExtensionError", text))
				}
				return reply(r, http.StatusOK, `{"id":"1"}`)
			})
			made, err := c.Subscribe(t.Context(), mara, Subscription{Until: time.Now().Add(Longest)})
			if err != nil || len(asked) != 2 || time.Until(made.Expires) != want {
				t.Errorf("%s: %v, %v, %v", text, asked, time.Until(made.Expires), err)
			}
			asked = nil
			until, err := c.Renew(t.Context(), "1", time.Now().Add(Longest))
			if err != nil || len(asked) != 2 || time.Until(until) != want {
				t.Errorf("%s: renewed %v, %v, %v", text, asked, time.Until(until), err)
			}
		})
	}
	refused := 0
	c := client(func(r *http.Request, _ string) *http.Response {
		refused++
		return reply(r, http.StatusBadRequest, errorBody("ExtensionError", "Subscription expiration can only be 4230 minutes in the future."))
	})
	if _, err := c.Renew(t.Context(), "1", time.Now().Add(Longest)); fault.Of(err).Code != CodeExpiration || refused != 2 {
		t.Errorf("%d requests, %v", refused, err)
	}
}

func TestAnErrorOfTheHandshakeNamesTheURLAndNoSecret(t *testing.T) {
	for _, text := range []string{
		"Subscription validation request failed. Notification endpoint must respond with 200 OK to validation request.",
		"Subscription validation request timed out. Tried " + callback + "?validationToken=x with state",
	} {
		_, err := answers(http.StatusBadRequest, errorBody("ValidationError", text)).Subscribe(t.Context(), mara,
			Subscription{NotificationURL: callback, LifecycleURL: callback, ClientState: "state"})
		e, _ := err.(*Error)
		if f := fault.Of(err); f.Code != CodeHandshake || !strings.Contains(f.Text, "https://bell.contoso.com/callbacks/graph/…: ") || !strings.Contains(f.Text, text[:30]) ||
			strings.Contains(f.Text, "s3cret") || strings.Contains(f.Text, "with state") || e == nil || e.RequestID == "" {
			t.Error(err)
		}
	}
}

func TestTheSubscriptionThatStandsInTheWayIsNamed(t *testing.T) {
	const id = "6f1c5a4e-0f0e-4bd7-9df1-0f0d6a8f3c55"
	for text, want := range map[string]int{"Subscription Id " + id + " already exists for the requested combination": 1, "Conflict": 0} {
		_, err := answers(http.StatusConflict, errorBody("ObjectIdentifierInUse", text)).Subscribe(t.Context(), mara, Subscription{})
		f := fault.Of(err)
		if f.Code != CodeExists || len(f.Subscriptions) != want || want == 1 && f.Subscriptions[0] != id {
			t.Errorf("%v %v", err, f.Subscriptions)
		}
	}
}

func TestASubscriptionWithoutAnIDIsNone(t *testing.T) {
	for _, body := range []string{`{}`, `{"id":"` + strings.Repeat("i", 900_000) + `"}`} {
		if _, err := answers(http.StatusCreated, body).Subscribe(t.Context(), mara, Subscription{}); fault.Of(err).Code != CodeUnparseable || len(err.Error()) > 500 {
			t.Errorf("%.40s: %.500v", body, err)
		}
	}
}

func TestASubscriptionIsRenewedAndDeleted(t *testing.T) {
	var did []string
	c := client(func(r *http.Request, body string) *http.Response {
		did = append(did, r.Method+" "+r.URL.Path+" "+body)
		if r.Method == http.MethodDelete {
			return reply(r, http.StatusNoContent, "")
		}
		return reply(r, http.StatusOK, `{"id":"1","expirationDateTime":"2026-12-04T00:00:00.123Z"}`)
	})
	got, err := c.Renew(t.Context(), "1", time.Date(2026, 12, 5, 2, 0, 0, 0, time.UTC))
	if err != nil || got.Unix() != time.Date(2026, 12, 4, 0, 0, 0, 0, time.UTC).Unix() {
		t.Error(got, err)
	}
	if err := c.Delete(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	want := []string{
		`PATCH /v1.0/subscriptions/1 {"expirationDateTime":"2026-12-05T02:00:00.000Z"}`, "DELETE /v1.0/subscriptions/1 ",
	}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Error(diff)
	}
	gone := answers(http.StatusNotFound, errorBody("ResourceNotFound", "The object was not found."))
	if err := gone.Delete(t.Context(), "1"); err != nil {
		t.Errorf("what is not there is deleted: %v", err)
	}
	if _, err := gone.Renew(t.Context(), "1", time.Now()); !fault.Of(err).Unsubscribed {
		t.Error(err)
	}
}

func TestTheSubscriptionsAreListedToTheEndAndNoFurther(t *testing.T) {
	n := 0
	c := client(func(r *http.Request, _ string) *http.Response {
		n++
		if n == 3 {
			return reply(r, http.StatusOK, `{"value":[{"id":"b","resource":"/users/x/messages","notificationUrl":"https://x/y","expirationDateTime":"2026-12-04T00:00:00Z"}]}`)
		}
		return reply(r, http.StatusOK, `{"value":[{"id":"a"}],"@odata.nextLink":"`+base+`/v1.0/subscriptions?$skiptoken=1"}`)
	})
	list, err := c.Subscriptions(t.Context())
	if err != nil || len(list) != 3 || list[2].ID != "b" || list[2].Resource != "/users/x/messages" || list[2].NotificationURL != "https://x/y" || list[2].Expires.IsZero() {
		t.Errorf("%+v %v", list, err)
	}
	endless := 0
	c = client(func(r *http.Request, _ string) *http.Response {
		endless++
		return reply(r, http.StatusOK, `{"value":[],"@odata.nextLink":"`+base+`/v1.0/subscriptions?$skiptoken=1"}`)
	})
	if _, err := c.Subscriptions(t.Context()); err == nil || endless != maxSubscriptionPages {
		t.Errorf("%d pages, %v", endless, err)
	}
}
