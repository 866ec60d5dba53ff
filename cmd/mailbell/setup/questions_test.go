package setup

import (
	"slices"
	"strings"
	"testing"

	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/internal/credential"
)

// found are answers after a survey.
func found(places ...autodiscover.Finding) answers {
	return answers{value: map[string]string{addressQuestion: "ann@contoso.com", "type": "exchange"}, data: map[string][]byte{}, found: autodiscover.Survey{Findings: places}}
}

// named is the question with a name.
func named(t *testing.T, name string) question {
	t.Helper()
	for _, p := range parts() {
		if i := slices.IndexFunc(p.questions, func(q question) bool { return q.name == name }); i >= 0 {
			return p.questions[i]
		}
	}
	t.Fatalf("there is no question %s", name)
	return question{}
}

func TestAHostOutsideTheMailDomainGetsAPasswordOnlyIfAPersonSaysSo(t *testing.T) {
	const away = "https://mail.fabrikam.net/autodiscover/autodiscover.xml"
	q := named(t, "autodiscover-url")
	s := &session{answers: found(autodiscover.Finding{URL: away})}
	if s.answers.likelyAutodiscover() != away || !q.when(s.answers) {
		t.Errorf("a person is not asked for %s", away)
	}
	if wrong := s.take(q); len(wrong) != 1 || !strings.Contains(wrong[0], "--autodiscover-url is missing: "+away) || s.answers.value[q.name] != "" {
		t.Errorf("without a person: %v, %q", wrong, s.answers.value[q.name])
	}
	for _, own := range []string{"https://autodiscover.contoso.com/autodiscover/autodiscover.xml", "https://ex1.contoso.com/autodiscover/autodiscover.xml"} {
		s := &session{answers: found(autodiscover.Finding{URL: own})}
		if wrong := s.take(q); wrong != nil || q.when(s.answers) {
			t.Errorf("%s: %v", own, wrong)
		}
	}
	if a := found(autodiscover.Finding{URL: "https://contoso.com/autodiscover/autodiscover.xml"}); a.likelyAutodiscover() == "" {
		t.Error("the mail domain itself, which gets no password by itself, is not asked about")
	}
}

func TestTheDefaultsFitWhatTheSurveyFound(t *testing.T) {
	cloud, here := autodiscover.Finding{Online: true}, autodiscover.Finding{URL: "https://ex1.contoso.com/autodiscover/autodiscover.xml", Offers: []string{"Negotiate", "NTLM", "Basic"}}
	basic := here
	basic.Offers = []string{"Basic"}
	for _, c := range []struct {
		places       []autodiscover.Finding
		kind, method string
	}{
		{nil, "", credential.Basic},
		{[]autodiscover.Finding{cloud}, "online", credential.ClientSecret},
		{[]autodiscover.Finding{here}, "exchange", credential.NTLM},
		{[]autodiscover.Finding{basic, cloud}, "exchange", credential.Basic},
		{[]autodiscover.Finding{cloud, here}, "online", credential.ClientSecret},
	} {
		a := found(c.places...)
		if a.likelyType() != c.kind {
			t.Errorf("%v: the type is %q, want %q", c.places, a.likelyType(), c.kind)
		}
		if a.value["type"] = c.kind; a.likelyMethod() != c.method || !slices.Contains(a.methods(), c.method) {
			t.Errorf("%v: the method is %q, want %q", c.places, a.likelyMethod(), c.method)
		}
	}
	a := found()
	if a.value["apns-key"] = "/root/AuthKey_ABCDE12345.p8"; a.likelyKeyID() != "ABCDE12345" {
		t.Errorf("the key id is %q", a.likelyKeyID())
	}
	if a.value["apns-key"] = "/root/key.p8"; a.likelyKeyID() != "" {
		t.Errorf("the key id is %q", a.likelyKeyID())
	}
}

func TestEveryQuestionHasAFlagAndNoSecretIsAnArgument(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range parts() {
		for _, q := range p.questions {
			if seen[q.name] || q.name == "" || q.ask == "" {
				t.Errorf("question %q: twice, or without words", q.name)
			}
			seen[q.name] = true
			if words := []string{"password", "client-secret"}; slices.Contains(words, q.name) != q.secret && !strings.HasSuffix(q.name, "-password") {
				t.Errorf("question %q: secret is %v", q.name, q.secret)
			}
		}
	}
}
