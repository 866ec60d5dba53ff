package autodiscover

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/internal/fault"
)

func TestNoMoreThanFourSRVRecordsAreTried(t *testing.T) {
	var records []*net.SRV
	for i := range 20 {
		records = append(records, &net.SRV{Target: fmt.Sprintf("srv%02d.contoso.com.", i), Port: 443, Priority: uint16(i)})
	}
	n := &internet{t: t, srv: records}
	_, err := n.find(Options{})
	hosts := map[string]bool{}
	for _, a := range n.asked {
		if _, host, ok := strings.Cut(a, "https://srv"); ok {
			hosts[host[:2]] = true
		}
	}
	if err == nil || len(hosts) != 4 || !hosts["00"] || !hosts["03"] {
		t.Errorf("%v: %d of its hosts were asked, %v", err, len(hosts), hosts)
	}
}

func TestEightSearchesOfADomainAreMadeAtOnceAndNoMore(t *testing.T) {
	c := New(Options{})
	var mine []*walk
	for i := range 20 {
		_, w, ok := c.turn("contoso.com", i > 0)
		if ok {
			mine = append(mine, w)
		} else if !slices.Contains(mine, w) {
			t.Fatalf("the %d. waits for nobody", i+1)
		}
	}
	if len(mine) != 8 {
		t.Errorf("%d searches at once", len(mine))
	}
	if _, _, ok := c.turn("contoso.com", false); ok {
		t.Error("who has not waited makes another")
	}
	if _, _, ok := c.turn("fabrikam.com", false); !ok {
		t.Error("another domain has to wait")
	}
}

func TestAURLInAnAnswerIsBounded(t *testing.T) {
	const at = "https://mail.contoso.com/"
	long := func(begin string, length int) string { return begin + strings.Repeat("x", length-len(begin)) }
	for name, web := range map[string]map[string]page{
		"SOAP": {namedSOAP: {body: soap(userSettings(long(at, 900_000)))}}, "POX": {named: {body: settings(long(at, maxURL+1))}},
		"a redirect":             {named: {body: redirectURL(long(at, maxURL+1))}, long(at, maxURL+1): {body: settings(mailURL)}},
		"HTTP 302":               {named: {status: 302, location: long(at, maxURL+1)}, long(at, maxURL+1): {body: settings(mailURL)}},
		"of the web site itself": {bare: {body: redirectURL(long("https://contoso.com/", maxURL+1))}, long("https://contoso.com/", maxURL+1): {status: 302, location: named + "?"}, named + "?": {body: settings(mailURL)}},
	} {
		n := &internet{t: t, web: web}
		p, err := n.find(Options{})
		if e := fault.Of(err); p.URL != "" || e.Code != CodeHost || !strings.Contains(e.Text, "invalid URL") || len(err.Error()) > 1000 {
			t.Errorf("%s: a URL of %d bytes, %.300v", name, len(p.URL), err)
		}
	}
	n := &internet{t: t, web: map[string]page{named: {body: settings(long(at, maxURL))}}}
	if p, err := n.find(Options{}); err != nil || p.URL != long(at, maxURL) {
		t.Errorf("the longest: %v", err)
	}
	n.web[named] = page{body: strings.Replace(settings(long(at, maxURL+1)), "<EwsUrl>", "<EwsUrl>"+mailURL+"</EwsUrl></Protocol><Protocol><Type>EXPR</Type><EwsUrl>", 1)}
	if p, err := n.find(Options{}); err != nil || p.URL != mailURL {
		t.Errorf("beside one that is short: %v", err)
	}
	n.web = map[string]page{cloudV2: {body: `{"Protocol":"EWS","Url":"` + long(cloud+"/EWS/", maxURL+1) + `"}`}}
	if p, err := n.findOnline(Options{}); err == nil || p.URL != "" || fault.Of(err).Code != CodeUnread {
		t.Errorf("in the cloud: a URL of %d bytes, %.300v", len(p.URL), err)
	}
}

func TestAServersOwnWordsAreFew(t *testing.T) {
	if got := printable(strings.Repeat("word ", 1000)); len(got) > 250 {
		t.Errorf("%d bytes of them", len(got))
	}
}
