package auth

// Requests with an access token (RFC 6750), and why a server refuses one.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/mailbell/mailbell/internal/fault"
	"github.com/mailbell/mailbell/proxy"
)

const (
	// maxDiscard is how much of a discarded answer is read, so that its connection can be used again.
	maxDiscard = 16 << 10
	// maxServerText bounds the server's own text in an error.
	maxServerText = 300
)

// codeRefused is the code of an answer 401, also in ews and autodiscover.
const codeRefused = "HTTP 401"

// oauth is a Credential that signs in with a token.
type oauth struct {
	tokens  *tokens
	service *tokenService
}

// RoundTripper implements Credential. A token that the server refuses is replaced by a new one, once, and the request is sent again if it
// has no body or GetBody. If the server refuses that too, the error is a *fault.Error with the Code "HTTP 401" and the server's reason.
//
// A token is sent with the first request, and only to hosts that the configuration names.
func (o *oauth) RoundTripper(to Hosts, s proxy.Settings, maxConns int) http.RoundTripper {
	to.Domains = nil
	return &bearer{tokens: o.tokens, gate: newGate(to), Transport: keeping(s, maxConns)}
}

// Prepare implements Credential: it gets a token unless there is a valid one.
func (o *oauth) Prepare(ctx context.Context) error {
	_, err := o.tokens.get(ctx)
	return err
}

// Close implements Credential.
func (o *oauth) Close() {
	o.tokens.close()
	o.service.CloseIdleConnections()
}

type bearer struct {
	*http.Transport
	gate   *gate
	tokens *tokens
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := b.gate.admit(req); err != nil {
		return nil, err
	}
	ctx := req.Context()
	value, err := b.tokens.get(ctx)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := b.send(req, value)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	said := drain(resp)
	fresh, err := b.tokens.replace(ctx, value)
	if errors.Is(err, errRefusedNew) || err == nil && !canRepeat(req) {
		return nil, refusedToken(resp, said)
	} else if err != nil {
		return nil, err
	}
	repeated, err := repeat(req)
	if err != nil {
		return nil, err
	}
	resp, err = b.send(repeated, fresh)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	said = drain(resp)
	b.tokens.refused()
	return nil, refusedToken(resp, said)
}

func (b *bearer) send(req *http.Request, value string) (*http.Response, error) {
	// RoundTrip must not change the request that it was given.
	signed := *req
	signed.Header = req.Header.Clone()
	if signed.Header == nil {
		signed.Header = http.Header{}
	}
	signed.Header.Set("Authorization", "Bearer "+value)
	return b.Transport.RoundTrip(&signed)
}

// canRepeat reports whether a request can be sent again.
func canRepeat(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// idempotent reports whether a request may be carried out twice, by net/http's rules for those that it repeats itself.
func idempotent(req *http.Request) bool {
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey || slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, req.Method)
}

// repeat returns a copy of a request to send again.
func repeat(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	repeated := *req
	repeated.Body = body
	return &repeated, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// discard drops an answer so that its connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	resp.Body.Close()
}

// drain is discard, and returns what was read: Graph says there why it refuses.
func drain(resp *http.Response) []byte {
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxDiscard))
	resp.Body.Close()
	return said
}

// refusedToken is the error of an answer 401 to a token.
func refusedToken(resp *http.Response, said []byte) error {
	text, detail := graphDiagnosis(said)
	if text == "" {
		text = diagnosis(resp.Header)
	}
	return &fault.Error{Op: opSignIn, Code: codeRefused, Scope: fault.Account, Remedy: fault.Fix, Text: text, Evidence: fault.Evidence{Detail: detail}}
}

// graphDiagnosis explains why Microsoft Graph refuses a token, by the error in its answer; empty: it is no answer of Graph.
func graphDiagnosis(said []byte) (text string, detail fault.Detail) {
	var answer struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(said, &answer) != nil || answer.Error.Code == "" {
		return "", fault.None
	}
	text = "Graph does not accept the token"
	switch message := strings.ToLower(answer.Error.Message); {
	case answer.Error.Code == "OrganizationFromTenantGuidNotFound":
		text, detail = "the tenant of the token has no Exchange Online: is tenant_id that of the mailboxes?", fault.OtherTenant
	case strings.Contains(message, "audience"):
		text = "the token is for another server: the cloud is not the one that the token was asked for"
	case strings.Contains(message, "lifetime") || strings.Contains(message, "expired"):
		text = "Graph takes a new token for expired: is its clock right, and the token service's?"
	case answer.Error.Code == "UnknownError": // what the mailbox's server says to an app without any right to mail
		text = "the app has no right to mail: it needs the application permission Mail.Read or Mail.ReadBasic.All with the consent of an administrator, " +
			"or such a role of RBAC for Applications"
		detail = fault.NoRight
	}
	return text + "; it says: " + proxy.Printable(answer.Error.Code+": "+answer.Error.Message, maxServerText), detail
}

// diagnosis explains why a server refuses a token, by its header x-ms-diagnostics:
//
//	2000003;reason="The audience claim value is invalid for current resource.";error_category="invalid_resource"
//
// The numbers are those of Exchange's OAuth error categories.
func diagnosis(h http.Header) string {
	said := h.Get("X-Ms-Diagnostics")
	if said == "" {
		return "the server does not accept the token, and does not say why: has the app, or the listener account, the right to EWS or Graph?"
	}
	number, _, _ := strings.Cut(said, ";")
	text := "the server does not accept the token"
	switch strings.TrimSpace(number) {
	case "2000000":
		text = "the server does not trust who issued the token: is the authority that of its cloud?"
	case "2000001":
		text = "the server does not accept the token, or it was revoked"
	case "2000002":
		text = "the server takes a new token for expired: is its clock right?"
	case "2000003":
		text = "the token is for another server: the cloud, or the URL of EWS, is not the one that the token was asked for"
	case "2000004":
		text = "the token is of another tenant than the mailbox"
	case "2000005":
		text = "the user of the token is not known to the server, or is disabled"
	case "2000006":
		text = "the app is not known to the server, or is blocked"
	case "2000007":
		text = "the server failed while it looked at the token"
	case "2000008":
		text = "the token does not have the right that the call needs: the app needs full_access_as_app or the role Application EWS.AccessAsApp for the mailbox, a listener account the permission EWS.AccessAsUser.All"
	case "2000010":
		text = "the server has OAuth turned off"
	}
	return text + "; it says: " + proxy.Printable(said, maxServerText)
}
