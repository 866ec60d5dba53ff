package api

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/subscriptions"
)

func TestAChangeIsMadeOnlyToTheEnrolmentThatTheClientHasSeen(t *testing.T) {
	d := newBackend(t)
	const path = "/v1/devices/phone"
	put := func(body string, status int, headers ...string) string {
		t.Helper()
		a := d.ask(t, enrolToken, "PUT", path, body, headers...)
		is(t, a, status, "")
		return a.Header.Get("ETag")
	}
	put(enrolment, 412, "If-Match", "*")
	put(enrolment, 412, "If-Match", `"of-no-enrolment"`)
	first := put(enrolment, 201, "If-None-Match", "*")
	if !strings.HasPrefix(first, `"`) || strings.Contains(first, deviceHex[:4]) {
		t.Errorf("ETag: %s", first)
	}
	put(enrolment, 412, "If-None-Match", "*")
	put(enrolment, 412, "If-None-Match", `"x", W/`+first)
	if again := put(enrolment, 200, "If-Match", first); again != first {
		t.Errorf("the same enrolment has the tags %s and %s", first, again)
	}
	changed := strings.Replace(enrolment, "9c1d", "0000", 1)
	second := put(changed, 200, "If-Match", `"x" , `+first, "If-None-Match", `"y"`)
	if second == first {
		t.Error("a changed enrolment has the same tag")
	}
	put(enrolment, 412, "If-Match", first)
	put(enrolment, 412, "If-Match", "W/"+second) // weak tags say nothing of a change
	put("{}", 422, "If-Match", first)            // whatever is wrong is said first
	if got, _ := d.Device("phone"); !strings.HasPrefix(got.Token, "0000") {
		t.Errorf("a change was made: %+v", got)
	}

	a := d.ask(t, readToken, "GET", path, "", "If-None-Match", second) // its state may be another one
	is(t, a, 200, "")
	if got := a.Header.Get("ETag"); got != second {
		t.Errorf("GET has the tag %s, PUT had %s", got, second)
	}
	is(t, d.ask(t, readToken, "GET", path, "", "If-Match", second), 200, "")
	is(t, d.ask(t, readToken, "GET", path, "", "If-Match", first), 412, "")
	is(t, d.ask(t, readToken, "HEAD", path, "", "If-Match", first), 412, "")
	is(t, d.ask(t, enrolToken, "DELETE", path, "", "If-Match", first), 412, "")
	is(t, d.ask(t, enrolToken, "DELETE", path, "", "If-None-Match", "*"), 412, "")
	is(t, d.ask(t, enrolToken, "DELETE", path, "", "If-Match", second), 204, "")
	is(t, d.ask(t, enrolToken, "DELETE", path, "", "If-Match", second), 404, "")
	is(t, d.ask(t, enrolToken, "GET", path, "", "If-Match", "*"), 404, "")
	for _, wrong := range []string{"", "x", `"`, `"x`, `x"`, `"x" "y"`, `*, "x"`, `"a b"`, "W/*", "w/" + first, `"x",y`} {
		put(enrolment, 400, "If-Match", wrong)
		put(enrolment, 400, "If-None-Match", wrong)
	}
	if len(d.devices) != 0 {
		t.Error("a request with a header that cannot be read has done something")
	}
	for range 2 { // and without a header everything is as ever
		d.ask(t, enrolToken, "PUT", path, enrolment)
		d.ask(t, enrolToken, "PUT", path, changed)
	}
}

func TestTheTagIsOfWhatTheClientChoseAndOfNothingElse(t *testing.T) {
	one := subscriptions.Device{ID: "phone", Mailbox: "ann@contoso.com", Record: "r1", Token: deviceHex, Topic: "com.contoso.mail", Environment: "sandbox", Created: noon, Enrolled: noon, Since: noon}
	tag := etag(one)
	same := one
	same.Record, same.Enrolled, same.Since, same.Created = "r2", noon.AddDate(0, 0, 1), noon.AddDate(0, 0, 2), noon.Local()
	if got := etag(same); got != tag {
		t.Errorf("%s, want %s", got, tag)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[subscriptions.Device]()) {
		other := one
		switch v := reflect.ValueOf(&other).Elem().FieldByIndex(f.Index); {
		case slices.Contains([]string{"Record", "Enrolled", "Since"}, f.Name): // not the client's
			continue
		case f.Name == "Created": // removed, and made again
			other.Created = noon.Add(1)
		case v.Kind() == reflect.String:
			v.SetString("x" + v.String())
		default:
			t.Errorf("etag does not know %s", f.Name)
		}
		if etag(other) == tag {
			t.Errorf("an enrolment with another %s has the same tag", f.Name)
		}
	}
	shifted := one
	shifted.ID, shifted.Mailbox = "phonea", "nn@contoso.com"
	if etag(shifted) == tag {
		t.Error("the same letters in other fields have the same tag")
	}
}

func FuzzETags(f *testing.F) {
	for _, line := range []string{"*", `"x"`, `W/"x", "y"`, `"", ,"a,b"`, `"x" "y"`, "", `"`} {
		f.Add(line, "")
	}
	own := etag(subscriptions.Device{ID: "phone"})
	f.Fuzz(func(t *testing.T, one, two string) {
		e, ok := readETags([]string{one, two})
		if !ok {
			return
		}
		if e.any || len(e.list) == 0 {
			t.Fatalf("%q and %q are read as %+v", one, two, e)
		}
		for _, tag := range e.list {
			opaque := strings.TrimPrefix(tag, "W/")
			if len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' || strings.Count(opaque, `"`) != 2 || !strings.Contains(one+two, opaque) {
				t.Fatalf("%q and %q have the tag %q", one, two, tag)
			}
		}
		if again, ok := readETags([]string{strings.Join(e.list, ",")}); !ok || len(again.list) != len(e.list) {
			t.Fatalf("%+v is read as %+v", e, again)
		}
		if with, ok := readETags([]string{one, two + "," + own}); !ok || !with.has(own, false) {
			t.Fatalf("%q and %q hide a tag", one, two)
		}
		if has := e.has(own, false); has != strings.Contains(one+two, own) && has {
			t.Fatalf("%q and %q have %s", one, two, own)
		}
	})
}

func BenchmarkETag(b *testing.B) {
	d := subscriptions.Device{ID: "phone", Mailbox: "ann@contoso.com", Record: "r1", Token: deviceHex, Topic: "com.contoso.mail", Environment: "sandbox", Created: noon, Enrolled: noon, Since: noon}
	for b.Loop() {
		etag(d)
	}
}
