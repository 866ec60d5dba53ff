package setup

// Where the mailbox may be, asked without a password.

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mailbell/mailbell/auth"
	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/hostname"
	"github.com/mailbell/mailbell/proxy"
)

// surveyTimeout bounds the survey: a handful of hosts, of which some do not answer.
const surveyTimeout = 90 * time.Second

// survey asks, and says what it found. Where a server's certificate is not trusted it asks for the authority.
func (s *session) survey(ctx context.Context) error {
	a := s.answers.value
	if s.given("ews-url") != "" && s.given("autodiscover-url") == "" || s.Untried && s.given("type") != "" {
		return nil // the answer is there
	}
	address := a[addressQuestion]
	if v, given := s.Given["autodiscover-url"]; given && a["autodiscover-url"] == "" {
		a["autodiscover-url"] = v
	}
	for {
		fmt.Fprintf(s.Talk, "\nAsking Autodiscover where %s is. No password is sent.\n", address)
		found, err := s.look(ctx, address)
		if err != nil {
			return err
		}
		s.answers.found, s.asked = found, a["autodiscover-url"]
		s.told(found)
		if len(found.Distrusted) == 0 || len(found.Findings) > 0 || a[caQuestion] != "" || s.Yes {
			return nil
		}
		fmt.Fprintf(s.Talk, "The certificate of %s is of an authority that this machine does not trust.\n", strings.Join(found.Distrusted, ", "))
		if err := s.ask(ctx, caFile(), false); err != nil {
			return err
		}
		if a[caQuestion] == "" {
			return nil
		}
	}
}

// look makes the survey.
func (s *session) look(ctx context.Context, address string) (autodiscover.Survey, error) {
	within, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	out, err := s.outbound()
	if err != nil {
		return autodiscover.Survey{}, err
	}
	plain := out.Transport()
	defer plain.CloseIdleConnections()
	o := autodiscover.Options{Plain: plain, URL: s.answers.value["autodiscover-url"], UserAgent: "mailbell/" + s.Version}
	cloud := s.cloud()
	o.EWS, o.Hosts = cloud.EWS, auth.Hosts{Online: true, URLs: []string{cloud.EWS, cloud.Autodiscover}}
	if given := s.given("type"); given != config.OnPremises && o.URL == "" {
		o.Online, o.Cloud = given == config.Online, cloud.Autodiscover
	}
	found, err := autodiscover.New(o).Survey(within, address)
	if within.Err() != nil && ctx.Err() == nil {
		return found, nil // what has not answered by now is no help
	}
	return found, err
}

// given is an answer, or the one of the command line that is not taken yet.
func (s *session) given(name string) string {
	if v, ok := s.answers.value[name]; ok {
		return v
	}
	return s.Given[name]
}

// cloud has the URLs of the chosen cloud.
func (s *session) cloud() config.Cloud {
	if s.given("cloud") == "custom" {
		return config.Cloud{EWS: s.given("cloud-ews"), Autodiscover: s.given("cloud-autodiscover")}
	}
	return config.CloudOf(s.given("cloud"))
}

// outbound connects as the answers say.
func (s *session) outbound() (out proxy.Settings, err error) {
	if file := s.given(caQuestion); file != "" {
		if roots, err := proxy.LoadRoots(file); err == nil { // else it is said where the answer is taken
			out.Roots = roots
		}
	}
	a := s.answers.value
	if a["proxy"] == "" {
		return out, nil
	}
	via, err := proxy.ParseVia(a["proxy"], a["proxy-username"], a["proxy-password"], list(a["proxy-bypass"]))
	if err != nil {
		return out, fmt.Errorf("proxy: %w", err)
	}
	out.Proxy = new(proxy.Current)
	out.Proxy.Set(via)
	return out, nil
}

// told says what was found.
func (s *session) told(found autodiscover.Survey) {
	for i, p := range found.Findings {
		where := "an Exchange on premises"
		if p.Online {
			where = "Exchange Online"
		}
		if i > 0 {
			where = "or else " + where
		}
		fmt.Fprintf(s.Out, "found: %s, by %s\n", where, p.How)
		if p.EWS != "" {
			fmt.Fprintf(s.Out, "       EWS is at %s\n", p.EWS)
		}
		if len(p.Offers) > 0 {
			fmt.Fprintf(s.Out, "       one signs in there by %s\n", strings.Join(p.Offers, ", "))
		}
	}
	if len(found.Findings) > 1 {
		fmt.Fprintln(s.Out, "       mailboxes in both take an exchange entry each: add the other one later (docs/authentication/hybrid.md)")
	}
	if len(found.Findings) == 0 {
		fmt.Fprintln(s.Out, "found: no Autodiscover that says where the mailbox is")
		for _, line := range found.Asked {
			fmt.Fprintf(s.Out, "       asked %s\n", line)
		}
	}
}

// foundHere is the finding on premises; nil: there is none.
func (a answers) foundHere() *autodiscover.Finding {
	for i, p := range a.found.Findings {
		if !p.Online {
			return &a.found.Findings[i]
		}
	}
	return nil
}

// hostOf is the host of a URL; empty: it has none.
func hostOf(u string) string {
	parsed, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return hostname.Of(parsed)
}
