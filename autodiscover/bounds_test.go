package autodiscover

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
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

func TestAServersOwnWordsAreFew(t *testing.T) {
	if got := printable(strings.Repeat("word ", 1000)); len(got) > 250 {
		t.Errorf("%d bytes of them", len(got))
	}
}
