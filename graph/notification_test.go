package graph

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheOfficialNotificationsAreRead(t *testing.T) {
	for name, want := range map[string]Post{
		"02-change-notification.json": {Notifications: []Notification{{
			Subscription: "{subscription_guid}", ClientState: "secretClientValue", Expires: time.Date(2016, 3, 19, 22, 11, 9, 952e6, time.UTC),
			Tenant: "84bd8158-6d4d-4958-8b9f-9d6445542f95", Change: "created", Item: "{long_id_string}",
		}}},
		"03-lifecycle-notification.json": {Notifications: []Notification{{
			Subscription: "<subscription_guid>", ClientState: "<secretClientState>", Expires: time.Date(2019, 3, 20, 11, 0, 0, 0, time.UTC), Tenant: "<tenant_guid>",
			Lifecycle: "subscriptionRemoved or missed or reauthorizationRequired",
		}}},
		"04-rich-notification.json": {
			Tokens: []string{"eyJ0eXAiOiJKV1QiLCJhbGciOiJSU..."},
			Notifications: []Notification{{
				Subscription: "76222963-cc7b-42d2-882d-8aaa69cb2ba3", Change: "created", Item: "1565293727947",
				Content: &Encrypted{
					Data: "{encrypted data that produces a full resource}", DataSignature: "<HMAC-SHA256 hash>", DataKey: "{encrypted symmetric key from Microsoft Graph}",
					CertificateID: "MySelfSignedCert/DDC9651A-D7BC-4D74-86BC-A8923584B0AB", Thumbprint: "07293748CC064953A3052FB978C735FB89E61C3D",
				},
			}},
		},
	} {
		got, err := ParseNotifications(strings.NewReader(sample(t, name)))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

func TestANotificationThatIsNoneHarmsNoOther(t *testing.T) {
	got, err := ParseNotifications(strings.NewReader(`{"unknown":{"a":[1]},"validationTokens":7,"value":[
		1, null, "x", {}, {"subscriptionId":7}, {"subscriptionId":"a","resourceData":"x"}, {"subscriptionId":"b","resourceData":null,"more":[{}]},
		{"clientState":"c","lifecycleEvent":"missed"}, {"subscriptionId":"d","encryptedContent":7}
	]}`))
	if err != nil || len(got.Notifications) != 2 || got.Notifications[0].Subscription != "b" || got.Notifications[1].Lifecycle != Missed || got.Tokens != nil {
		t.Errorf("%+v %v", got, err)
	}
}

func TestAPostIsBounded(t *testing.T) {
	for name, body := range map[string]string{
		"its size":   `{"value":[{"subscriptionId":"` + strings.Repeat("x", MaxNotifications) + `"}]}`,
		"its number": `{"value":[` + strings.Repeat(`{},`, maxItems) + `{}]}`,
		"its shape":  `{"value":7}`,
		"no JSON":    `validationToken=x`,
		"nothing":    ``,
	} {
		if got, err := ParseNotifications(strings.NewReader(body)); err == nil || got.Notifications != nil || len(err.Error()) > 100 {
			t.Errorf("%s: %d, %v", name, len(got.Notifications), err)
		}
	}
	broken := errors.New("broken")
	if _, err := ParseNotifications(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
	many := `{"value":[],"validationTokens":["` + strings.Repeat(`x","`, maxTokens) + `x"]}`
	if got, err := ParseNotifications(strings.NewReader(many)); err != nil || got.Tokens != nil {
		t.Errorf("%d tokens, %v", len(got.Tokens), err)
	}
}

func FuzzParseNotifications(f *testing.F) {
	for _, name := range []string{"02-change-notification.json", "03-lifecycle-notification.json", "04-rich-notification.json"} {
		f.Add(sample(f, name))
	}
	f.Add(`{"value":[{}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		post, err := ParseNotifications(strings.NewReader(body))
		if err != nil && post.Notifications != nil || len(post.Notifications) > maxItems || len(post.Tokens) > maxTokens {
			t.Errorf("%v: %+v", err, post)
		}
		for _, n := range post.Notifications {
			if n.Subscription == "" && n.ClientState == "" {
				t.Errorf("%+v says of nothing", n)
			}
		}
	})
}

func BenchmarkParseNotifications(b *testing.B) {
	body := sample(b, "02-change-notification.json")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseNotifications(strings.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
}
