package api

// The problems with which the API answers, and the codes of fields that are wrong: one table for programs, for /docs/problems and for
// docs/problems.md. A code stays what it is; a program decides by it and never by a text.

import (
	"net/http"

	"github.com/mailbell/mailbell/api/reference"
)

// problemsPath is the page of the table. The type of a problem is this path with its code as the anchor.
const problemsPath = "/docs/problems"

// kind is a kind of problem.
type kind struct {
	Code   string
	Status int
	Title  string
	Do     string // what the client does about it; `…` is code
}

// kinds are all problems, by their status.
var kinds = []kind{
	{"not_json", http.StatusBadRequest, "The body is not JSON", "Send one JSON object in UTF-8, and nothing behind it."},
	{"field_twice", http.StatusBadRequest, "A field is given twice", "Name each field of the object once."},
	{"wrong_query", http.StatusBadRequest, "The query cannot be read", "Send name=value pairs, percent-encoded."},
	{"body_cut_off", http.StatusBadRequest, "The body ended early", "Send the request again; look at the proxy between if it comes back."},
	{"wrong_etag", http.StatusBadRequest, "The header If-Match or If-None-Match cannot be read", "Send the `ETag` of an answer as it is, with its quotes, or `*`."},
	{"no_token", http.StatusUnauthorized, "A bearer token is needed", "Send `Authorization: Bearer` and the token of a client of the configuration."},
	{"wrong_token", http.StatusUnauthorized, "The token is not that of a client",
		"Send the token of a client under `api.clients` of the configuration; it may have been replaced. Several wrong ones are answered slowly."},
	{codeWrongCertificate, http.StatusUnauthorized, "The certificate is not that of a client",
		"The detail says what is wrong. Use a certificate that is valid, signed by an authority of `tls.client_ca_file`, and has the name of one client."},
	{"role_not_allowed", http.StatusForbidden, "The role does not allow it", "Use a client whose role may make this call; docs/api.md lists the roles."},
	{"wrong_signature", http.StatusForbidden, "The signature is not that of an enrolled phone",
		"Sign with the key whose public half is the `receipt_key` of the enrolment, or enrol again; docs/payload.md has an example. Several wrong ones are answered slowly."},
	{"no_path", http.StatusNotFound, "There is nothing at this path", "Look at /docs or /openapi.yaml for what there is."},
	{"no_device", http.StatusNotFound, "There is no such device",
		"It was never enrolled, was removed, another id took it over, or APNs declared it gone. Enrol it again if the app still reports its token."},
	{"no_mailbox", http.StatusNotFound, "No device is enrolled for this address", "Enrol a device for it, or look for another address of the person."},
	{"no_exchange_entry", http.StatusNotFound, "There is no such exchange entry", "Use the `name` of an entry under `exchange` of the configuration."},
	{"no_state_file", http.StatusNotFound, "The state is not in a file", "It is in Redis: back it up there."},
	{"wrong_method", http.StatusMethodNotAllowed, "The path does not have this method", "Use one of the methods in the `Allow` header."},
	{"not_moved", http.StatusConflict, "No mailbox goes over", "Do what the detail advises, then repeat the call. Nothing was changed."},
	{"precondition_failed", http.StatusPreconditionFailed, "The enrolment is not the one that was seen",
		"Read it again, decide anew, and send the new `ETag`. With `If-None-Match: *`: the device is enrolled already."},
	{"body_too_large", http.StatusRequestEntityTooLarge, "The body is too large", "Send at most 64 KiB; enrol many devices by `POST /v1/devices:import`."},
	{"wrong_content_type", http.StatusUnsupportedMediaType, "The Content-Type is another one", "Send the one that the detail names."},
	{"wrong_fields", http.StatusUnprocessableEntity, "Fields are wrong", "Correct what `errors` lists, each with a code of its own, see below: all that is wrong with the request itself, or else the first field that does not fit the configuration."},
	{"too_many_requests", http.StatusTooManyRequests, "The client sends too many requests",
		"Wait for the seconds in `Retry-After`; enrol many devices by `POST /v1/devices:import`. `api.requests_per_second` of the configuration is the limit."},
	{"tested_too_soon", http.StatusTooManyRequests, "The device was tested just now", "Wait for the seconds in `Retry-After`."},
	{"too_many_receipts", http.StatusTooManyRequests, "The phone sends too many requests", "Wait for the seconds in `Retry-After`; send up to 16 receipts in one request."},
	{"too_many_imports", http.StatusTooManyRequests, "Two imports are under way", "Try again when one has ended."},
	{"defect", http.StatusInternalServerError, "A defect in mailbell", "Report it with the lines \"panic while answering\" of the log."},
	{"state_store_away", http.StatusServiceUnavailable, "The state store did not take it",
		"Repeat the call after the seconds in `Retry-After`: nothing is lost by a repeat. If it lasts, `/v1/status` says why."},
	{"too_many_certificates", http.StatusServiceUnavailable, "Too many unknown certificates are shown at once",
		"Wait for the seconds in `Retry-After`. Those of clients that have signed in are remembered; if it lasts, somebody shows ever others: close the port to them."},
	{"standby", http.StatusServiceUnavailable, "This instance does not hold the state",
		"Repeat the call: the load balancer leads it to the instance that does, or this one takes over."},
}

// The codes of FieldError that this room gives; others come with a subscriptions.FieldError.
const (
	codeRequired     = "required"
	codeUnknown      = "unknown"
	codeWrongType    = "wrong_type"
	codeInvalid      = "invalid"
	codeNotAvailable = "not_available"
)

// codeWrongCertificate is the code of a certificate that lets nobody in.
const codeWrongCertificate = "wrong_certificate"

// fieldKind is a kind of what is wrong with a field.
type fieldKind struct {
	Code, Title, Do string
}

// fieldKinds are all that can be wrong with a field.
var fieldKinds = []fieldKind{
	{codeRequired, "It is missing or empty", "Give it."},
	{codeUnknown, "There is no such field, parameter or mailbox", "Compare it with /docs; a field of a later version is unknown too."},
	{codeWrongType, "It is of another JSON type", "Send the type that the detail names."},
	{codeInvalid, "Its value is not one that it can have", "Send what the detail asks for."},
	{codeNotAvailable, "It is not available", "Leave it out, or change what the detail names: this version or this configuration does not have it."},
	{"not_covered", "The configuration does not cover it", "Add the mail domain to an entry under `exchange`, or correct the address."},
	{"ambiguous", "Several entries of the configuration fit", "Name `topic` and `environment`."},
	{"not_configured", "No entry of the configuration fits", "Add an entry under `apns` to the configuration, or correct the field."},
	{"too_many_devices", "The mailbox has as many devices as it can have", "Remove devices that are not used any more."},
}

// newProblem is a problem of the kind with this code, which is in the table.
func newProblem(code, detail string) *Problem {
	for _, k := range kinds {
		if k.Code == code {
			return problem(k, detail)
		}
	}
	panic("no kind of problem has the code " + code) // at the start of the program: the variables below are made of constants
}

func problem(k kind, detail string) *Problem {
	p := &Problem{Type: problemsPath + "#" + k.Code, Code: k.Code, Status: k.Status, Title: k.Title, Detail: detail}
	switch k.Status {
	case http.StatusUnauthorized:
		p.authenticate = `Bearer realm="mailbell"`
	case http.StatusForbidden:
		p.authenticate = `Bearer realm="mailbell", error="insufficient_scope"`
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		p.retryAfter = "5" // where it is not known better: the store writes in milliseconds or is away for longer, an import takes seconds
	}
	return p
}

// problemsPage is the page of the table.
func problemsPage() http.Handler {
	var problems []reference.Problem
	for _, k := range kinds {
		problems = append(problems, reference.Problem(k))
	}
	var fields []reference.Field
	for _, k := range fieldKinds {
		fields = append(fields, reference.Field(k))
	}
	return reference.Problems(problems, fields)
}
