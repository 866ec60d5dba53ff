package service_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/service"
)

func TestAProgramSignsInByItsCertificateUntilItsAuthorityIsReplaced(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	server, serverPEM, serverKey := service.SelfSigned(t, "mailbell.contoso.com")
	own, authority, _ := service.SelfSigned(t, "mdm.contoso.com")
	_, otherAuthority, _ := service.SelfSigned(t, "other.contoso.com")
	inst.write("api.pem", string(serverPEM))
	inst.write("api.key", string(serverKey))
	inst.write("clients.pem", string(authority))
	inst.configure("listen: ", "tls: {cert_file: api.pem, key_file: api.key, client_ca_file: clients.pem}\nlisten: ")
	inst.edit("clients:\n", "clients:\n  - {name: by-certificate, role: admin, certificate: mdm.contoso.com}\n")
	inst.load()
	inst.start()

	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "mailbell.contoso.com", Certificates: []tls.Certificate{own}}}
	defer transport.CloseIdleConnections()
	url := "https://" + inst.service.Address().String() + "/v1/status"
	ask := func() (status int, code string, s api.Status) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			err = json.NewDecoder(resp.Body).Decode(&s)
		} else {
			var p api.Problem
			err = json.NewDecoder(resp.Body).Decode(&p)
			code = p.Code
		}
		if err != nil {
			t.Error(err)
		}
		return resp.StatusCode, code, s
	}
	status, code, s := ask()
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, code)
	}
	if i := slices.IndexFunc(s.Clients, func(c api.ClientStatus) bool { return c.Name == "by-certificate" }); i < 0 || s.Clients[i].SignIns[0].By != "certificate" || s.Clients[i].SignIns[0].Last.IsZero() {
		t.Errorf("%+v", s.Clients)
	}
	inst.write("clients.pem", string(otherAuthority))
	inst.service.Reload()
	inst.eventually("the certificate is refused, over the same connection too", func() bool {
		status, code, _ := ask()
		return status == http.StatusUnauthorized && code == "wrong_certificate"
	})
	inst.write("clients.pem", string(authority))
	inst.service.Reload()
	inst.eventually("the certificate is good again", func() bool {
		status, _, _ := ask()
		return status == http.StatusOK
	})
}
