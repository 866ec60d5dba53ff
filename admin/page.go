package admin

// Making a page from its template.

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/internal/hidden"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/internal/quantity"
	"github.com/mailbell/mailbell/subscriptions"
)

// page is what the template of a page gets.
type page struct {
	Title   string
	Visitor visitor // zero: nobody is signed in
	CSRF    string  // of the forms of a session
	Live    bool    // the page is kept up to date
	Summary string  // of what is wrong, for those who cannot see it change
	Now     time.Time
	Body    any
}

// parse reads the templates: each page is one with the layout around it.
func parse() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(files, "pages/layout.html", "pages/parts.html"))
	all, err := files.ReadDir("pages")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	list := map[string]*template.Template{}
	for _, f := range all {
		if f.Name() == "layout.html" || f.Name() == "parts.html" {
			continue
		}
		one := template.Must(layout.Clone())
		list[strings.TrimSuffix(f.Name(), path.Ext(f.Name()))] = template.Must(one.ParseFS(files, "pages/"+f.Name()))
	}
	return list
}

// functions of the templates.
var functions = template.FuncMap{
	"time":      stamp,
	"ago":       ago,
	"until":     until,
	"took":      took,
	"words":     words,
	"badCanary": badCanary,
	"quantity":  quantity.Of,
	"bad":       bad,
	"soon":      soon,

	"at":         func(now, t time.Time) moment { return moment{now, t} },
	"badOutcome": badOutcome,
	"link":       link,
	"linkDevice": linkDevice,
	"whom":       whom,
	"going":      going,
}

// render answers with a page.
func (p *Pages) render(w http.ResponseWriter, status int, name string, v page) {
	body, err := p.execute(name, "layout.html", v)
	if err != nil {
		p.log.Error("a page could not be made", zap.String("page", name), zap.Error(err))
		http.Error(w, "A defect in mailbell: its log says where.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // html/template has escaped what is in it
}

// execute makes a page, or the part of it with this name.
func (p *Pages) execute(name, part string, v page) ([]byte, error) {
	if v.Now.IsZero() {
		v.Now = time.Now()
	}
	v.CSRF = v.Visitor.csrf
	var b bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&b, part, v); err != nil {
		return nil, err
	}
	return visible(b.Bytes()), nil
}

// fail answers with an error.
func (p *Pages) fail(w http.ResponseWriter, status int, text string) {
	p.render(w, status, "error", page{Title: http.StatusText(status), Body: text})
}

// visible writes out what a page must not have, wherever it came from: control characters, which terminals and screen readers obey, and
// the characters that turn the direction of a text or have no width, with which one address can look like another.
func visible(html []byte) []byte {
	var out bytes.Buffer
	out.Grow(len(html))
	for i := 0; i < len(html); {
		r, n := utf8.DecodeRune(html[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			out.WriteRune(utf8.RuneError)
		case hidden.Is(r):
			fmt.Fprintf(&out, `\u{%04X}`, r)
		default:
			out.Write(html[i : i+n])
		}
		i += n
	}
	return out.Bytes()
}

// stamp formats a time; empty: there is none.
func stamp(t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	t = t.UTC()
	//nolint:gosec // only digits and letters
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `">` + t.Format("2006-01-02 15:04:05") + ` UTC</time>`)
}

// ago says how long ago something was; empty: never.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(now.Sub(t)) + " ago"
}

// until says when something is.
func until(now, t time.Time) string {
	switch d := t.Sub(now); {
	case t.IsZero():
		return ""
	case d <= 0:
		return "now"
	default:
		return "in " + span(d)
	}
}

// span is a length of time, as exact as a person wants it.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d/day))
}

// took is the time between two steps; empty: one of them is not known.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return ""
	}
	switch d := to.Sub(from); {
	case d < 0: // the clocks differ
		return "0 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return span(d)
	}
}

// words are a name of the API for people: waiting_for_capacity is "waiting for capacity".
func words(name any) string { return strings.ReplaceAll(fmt.Sprint(name), "_", " ") }

// whom says what a condition concerns.
func whom(c check.Condition) string {
	switch {
	case c.Kind == check.KindState && c.Name == "":
		return "the state"
	case c.Kind == check.KindConfiguration && c.Name != "":
		return "the changed credential of " + c.Name
	case c.Kind == check.KindConfiguration:
		return "the configuration"
	case c.Kind == check.KindAudit:
		return "the audit log"
	case c.Kind == check.KindWebhook:
		return "webhook " + c.Name
	case c.Kind == check.KindAPNs:
		return "APNs topic " + c.Name
	case c.Kind == check.KindCanary:
		return "canary " + c.Name
	case c.Kind == check.KindAccount:
		return "listener account " + c.Name
	}
	return "exchange entry " + c.Name
}

// moment is a time, and what time it is.
type moment struct{ Now, At time.Time }

// badOutcome says how bad an outcome is: the class of its badge.
func badOutcome(o outcome.Outcome) check.Level {
	switch o {
	case outcome.Accepted:
		return "ok"
	case outcome.Refused:
		return check.LevelError
	case outcome.NotSent:
		return check.LevelInfo
	}
	return check.LevelWarn
}

// badCanary says how bad the state of a canary is: the class of its badge.
func badCanary(state string) check.Level {
	switch state {
	case "lost", "not_sent":
		return check.LevelError
	case "late":
		return check.LevelWarn
	case "accepted":
		return "ok"
	}
	return check.LevelInfo
}

// bad says how bad a state is: the class of its badge.
func bad(s subscriptions.State) check.Level {
	switch s {
	case subscriptions.Listening:
		return "ok"
	case subscriptions.Resolving, subscriptions.OutOfScope:
		return check.LevelInfo
	case subscriptions.Failing, subscriptions.RefusedState, subscriptions.QuarantinedState:
		return check.LevelError
	}
	return check.LevelWarn
}
