package control

// The calls about Entra ID: the secrets and certificates of the app, and the users.

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/mailbell/mailbell/simulator/entra"
	"github.com/mailbell/mailbell/simulator/internal/answer"
)

// maxEntraBody bounds a body: a certificate is a few KiB.
const maxEntraBody = 64 << 10

// entra registers the calls:
//
//	GET    /entra               {"tenant", "client_id", "counts"}
//	POST   /entra/secrets       {"secret", "expires"}: a further client secret, made up where it is left out; answers both
//	DELETE /entra/secrets       {"secret"}
//	POST   /entra/certificates  a certificate as PEM: a further one
//	DELETE /entra/certificates  the same
//	PUT    /entra/users         {"address", "password", "mfa", "disabled", "locked"}
func (a *api) entra(mux *http.ServeMux) {
	mux.HandleFunc("GET /entra", func(w http.ResponseWriter, _ *http.Request) {
		answer.JSON(w, http.StatusOK, map[string]any{"tenant": a.Tenant.ID(), "client_id": a.Tenant.ClientID(), "counts": a.Tenant.Count()})
	})
	mux.HandleFunc("POST /entra/secrets", a.postSecret)
	mux.HandleFunc("DELETE /entra/secrets", a.deleteSecret)
	mux.HandleFunc("POST /entra/certificates", a.postCertificate)
	mux.HandleFunc("DELETE /entra/certificates", a.deleteCertificate)
	mux.HandleFunc("PUT /entra/users", a.putUser)
}

// readControl reads a JSON body; it answers and returns false if it is none.
func readControl(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEntraBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		problem(w, http.StatusBadRequest, "", "The body must be a JSON object with the fields of this call: "+err.Error())
		return false
	}
	return true
}

func (a *api) postSecret(w http.ResponseWriter, r *http.Request) {
	var s entra.Secret
	if !readControl(w, r, &s) {
		return
	}
	if s.Value == "" {
		s.Value = rand.Text()
	}
	if !a.Tenant.AddSecret(s) {
		problem(w, http.StatusConflict, "", fmt.Sprintf("The app has %d client secrets: take one away.", entra.MaxSecrets))
		return
	}
	answer.JSON(w, http.StatusCreated, s)
}

func (a *api) deleteSecret(w http.ResponseWriter, r *http.Request) {
	var s entra.Secret
	if !readControl(w, r, &s) {
		return
	}
	if !a.Tenant.RemoveSecret(s.Value) {
		problem(w, http.StatusNotFound, "secret", "The app has no such client secret.")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// readCertificate reads a body of one PEM block CERTIFICATE; it answers and returns nil if it is none.
func readCertificate(w http.ResponseWriter, r *http.Request) *x509.Certificate {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEntraBody))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "", "The body cannot be read.")
		return nil
	}
	block, rest := pem.Decode(body)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		problem(w, http.StatusBadRequest, "", "The body must be one certificate, as PEM.")
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		problem(w, http.StatusBadRequest, "", "The certificate cannot be read: "+err.Error())
		return nil
	}
	return c
}

func (a *api) postCertificate(w http.ResponseWriter, r *http.Request) {
	c := readCertificate(w, r)
	if c == nil {
		return
	}
	if !a.Tenant.AddCertificate(c) {
		problem(w, http.StatusConflict, "", fmt.Sprintf("The app takes certificates with RSA keys, at most %d.", entra.MaxSecrets))
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (a *api) deleteCertificate(w http.ResponseWriter, r *http.Request) {
	c := readCertificate(w, r)
	if c == nil {
		return
	}
	if !a.Tenant.RemoveCertificate(c) {
		problem(w, http.StatusNotFound, "", "The app has no such certificate.")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *api) putUser(w http.ResponseWriter, r *http.Request) {
	var u entra.User
	if !readControl(w, r, &u) {
		return
	}
	if local, domain, _ := strings.Cut(u.Address, "@"); local == "" || domain == "" {
		problem(w, http.StatusUnprocessableEntity, "address", "Must be an address of a domain of the tenant.")
		return
	}
	a.Tenant.SetUser(u)
	w.WriteHeader(http.StatusNoContent)
}
