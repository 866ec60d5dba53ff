package exchange

// NTLM as IIS has it for Exchange (MS-NTHT, MS-NLMP): it signs in a connection, NTLMv2 alone, with Extended Protection.

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // it is what NTLM is made of
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //nolint:gosec,staticcheck // as MD5
)

// extendedProtection is a setting of IIS: whether a sign-in must be bound to its TLS connection.
type extendedProtection uint8

// The settings. Exchange requires it since 2019 CU14.
const (
	protectionRequired extendedProtection = iota // the certificate of this server
	protectionAllowed                            // that, or nothing
	protectionOff                                // it is not looked at
)

// The names of the server other than mailboxServer, its name in DNS.
const (
	ntlmDomain   = "CONTOSO"
	ntlmComputer = "EXCH01"
)

const (
	// maxNTLM bounds a message, far above those of any client.
	maxNTLM = 16 << 10
	// ntlmLife is how far the client's clock may be off (MS-NLMP 3.1.1.1, MaxLifetime).
	ntlmLife = 36 * time.Hour
	// sinceWindows is from the beginning of Windows' time, in 1601, to that of Unix', in 100 ns.
	sinceWindows = 116444736000000000
)

const ntlmSignature = "NTLMSSP\x00"

// Flags (MS-NLMP 2.2.2.5).
const (
	ntlmUnicode    = 1 << 0
	ntlmOEM        = 1 << 1 // names in ASCII, as curl has them
	ntlmTarget     = 1 << 2
	ntlmV          = 1 << 9
	ntlmAlwaysSign = 1 << 15
	ntlmTypeDomain = 1 << 16
	ntlmExtended   = 1 << 19
	ntlmTargetInfo = 1 << 23
	ntlmVersion    = 1 << 25
	ntlm128        = 1 << 29
	ntlm56         = 1 << 31
)

// Attributes of target information (2.2.2.1).
const (
	attributeEnd = iota
	attributeComputer
	attributeDomain
	attributeDNSComputer
	attributeDNSDomain
	attributeDNSTree
	attributeFlags
	attributeTime
	attributeHost
	attributeTarget
	attributeBindings

	attributeFlagMIC = 2
)

// ntlmServer signs connections in. It needs withNTLM in the server's ConnContext.
type ntlmServer struct {
	bindings   []byte // of the TLS connections to this server
	protection extendedProtection
	// account finds the user by DOMAIN\user or a name without a domain, and returns the name here and the password.
	account func(user string) (name, password string, ok bool)
	refuse  func(http.ResponseWriter) // answers 401 with what is offered: offerNTLM
}

// newNTLM makes one for a listener with that certificate, with Extended Protection required.
func newNTLM(certificate tls.Certificate, account func(user string) (name, password string, ok bool), refuse func(http.ResponseWriter)) (*ntlmServer, error) {
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &ntlmServer{bindings: bindingsOf(endPointHash(leaf)), account: account, refuse: refuse}, nil
}

// offerNTLM adds the offers of IIS to a 401.
func offerNTLM(h http.Header) {
	h.Add("WWW-Authenticate", "Negotiate")
	h.Add("WWW-Authenticate", "NTLM")
}

type ntlmKey struct{}

// ntlmState is the state of a connection's sign-in. Its requests come one after another.
type ntlmState struct {
	negotiate, challenge []byte // of a sign-in under way
	name                 string // who is signed in
}

// withNTLM gives a connection its state.
func withNTLM(ctx context.Context) context.Context {
	return context.WithValue(ctx, ntlmKey{}, &ntlmState{})
}

// authenticate returns who is signed in on the connection of a request, or answers 401: with a challenge, or by refuse.
func (n *ntlmServer) authenticate(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	c, _ := r.Context().Value(ntlmKey{}).(*ntlmState)
	if c == nil || r.ProtoMajor != 1 { // HTTP/2 has many requests at once on a connection
		n.refuse(w)
		return "", false
	}
	header := r.Header.Get("Authorization")
	if header == "" && c.name != "" {
		return c.name, true
	}
	negotiate, challenge := c.negotiate, c.challenge
	*c = ntlmState{} // a challenge is good for one answer
	scheme, token, _ := strings.Cut(header, " ")
	message, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(message) > maxNTLM || !strings.EqualFold(scheme, "NTLM") && !strings.EqualFold(scheme, "Negotiate") {
		message = nil
	}
	switch ntlmType(message) {
	case 1:
		if c.challenge = newChallenge(message, time.Now()); c.challenge != nil {
			c.negotiate = message
			w.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(c.challenge))
			w.Header().Set("Content-Type", "text/html; charset=us-ascii")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "<html><head><title>Not Authorized</title></head><body><h2>Not Authorized</h2><hr><p>HTTP Error 401. The requested resource requires user authentication.</p></body></html>")
			return "", false
		}
	case 3:
		if name, err := n.verify(negotiate, challenge, message, time.Now()); err == nil {
			c.name = name
			return name, true
		}
	}
	n.refuse(w)
	return "", false
}

// ntlmType returns the number of a message; 0 if it is none.
func ntlmType(message []byte) uint32 {
	if len(message) < 12 || string(message[:8]) != ntlmSignature {
		return 0
	}
	return binary.LittleEndian.Uint32(message[8:])
}

// newChallenge answers a NEGOTIATE (2.2.1.1) with a CHALLENGE (2.2.1.2); nil if it cannot.
func newChallenge(negotiate []byte, now time.Time) []byte {
	if len(negotiate) < 16 {
		return nil
	}
	asked := binary.LittleEndian.Uint32(negotiate[12:])
	// Python's ntlm-auth asks with the flag for the extended session security and without that for NTLM, and Windows takes it.
	if asked&(ntlmUnicode|ntlmOEM) == 0 || asked&(ntlmV|ntlmExtended) == 0 {
		return nil
	}
	if asked&ntlmUnicode != 0 {
		asked &^= ntlmOEM
	}
	flags := asked&(ntlmUnicode|ntlmOEM|ntlmTarget|ntlmAlwaysSign|ntlmExtended|ntlm128|ntlm56) | ntlmV | ntlmTypeDomain | ntlmTargetInfo | ntlmVersion
	var info []byte
	for _, a := range []struct {
		id   uint16
		text string
	}{
		{attributeDomain, ntlmDomain}, {attributeComputer, ntlmComputer},
		{attributeDNSDomain, Domain}, {attributeDNSComputer, mailboxServer}, {attributeDNSTree, Domain},
	} {
		info = appendAttribute(info, a.id, wide(a.text))
	}
	info = appendAttribute(info, attributeTime, binary.LittleEndian.AppendUint64(nil, windowsTime(now)))
	info = appendAttribute(info, attributeEnd, nil)

	const head = 56
	target := []byte(ntlmDomain)
	if asked&ntlmUnicode != 0 {
		target = wide(ntlmDomain)
	}
	b := append([]byte(ntlmSignature), 2, 0, 0, 0)
	b = appendField(b, len(target), head)
	b = binary.LittleEndian.AppendUint32(b, flags)
	random := make([]byte, 8)
	rand.Read(random)
	b = append(b, random...)
	b = append(b, make([]byte, 8)...)
	b = appendField(b, len(info), head+len(target))
	b = append(b, 10, 0, 0x7C, 0x4F, 0, 0, 0, 15) // Windows Server 2022
	return slices.Concat(b, target, info)
}

// errProof is a wrong password, as distinct from a malformed message; both are answered with 401.
var (
	errProof      = errors.New("the proof is wrong")
	errMessage    = errors.New("the message is malformed")
	errBindings   = errors.New("the channel bindings are missing or wrong")
	errMIC        = errors.New("the MIC is wrong")
	errTime       = errors.New("the time is too far off")
	errNoAccount  = errors.New("there is no such account")
	errUnexpected = errors.New("there is no challenge to answer")
)

// verify checks an AUTHENTICATE (2.2.1.3) as 3.2.5.1.2 and 3.3.2 have it, and returns who has signed in.
func (n *ntlmServer) verify(negotiate, challenge, message []byte, now time.Time) (name string, err error) {
	if challenge == nil {
		return "", errUnexpected
	}
	if len(message) < 64 {
		return "", errMessage
	}
	response, ok1 := fieldAt(message, 20)
	rawDomain, ok2 := fieldAt(message, 28)
	rawUser, ok3 := fieldAt(message, 36)
	if !ok1 || !ok2 || !ok3 {
		return "", errMessage
	}
	const proofSize, blobHead = md5.Size, 28
	if len(response) < proofSize+blobHead || response[proofSize] != 1 || response[proofSize+1] != 1 {
		return "", errMessage // NTLMv1 has 24 bytes
	}
	proof, blob := response[:proofSize], response[proofSize:]
	attributes, ok := readAttributes(blob[blobHead:])
	if !ok {
		return "", errMessage
	}
	domain, user := string(rawDomain), string(rawUser)
	if binary.LittleEndian.Uint32(message[60:])&ntlmUnicode != 0 {
		domain, user = narrow(rawDomain), narrow(rawUser)
	}
	full := user
	if domain != "" {
		full = domain + `\` + user
	}
	name, password, ok := n.account(full)
	if !ok {
		return "", errNoAccount
	}
	key := ntlmHash(user, domain, password)
	if !hmac.Equal(proof, keyed(key, challenge[24:32], blob)) {
		return "", errProof
	}
	// From here on the blob is known to be the account's own.
	if off := int64(binary.LittleEndian.Uint64(blob[8:]) - windowsTime(now)); off > int64(ntlmLife/100) || off < -int64(ntlmLife/100) {
		return "", errTime
	}
	if flags := attributes[attributeFlags]; len(flags) == 4 && binary.LittleEndian.Uint32(flags)&attributeFlagMIC != 0 {
		if len(message) < 88 {
			return "", errMIC
		}
		plain := slices.Concat(message[:72], make([]byte, md5.Size), message[88:])
		if !hmac.Equal(message[72:88], keyed(keyed(key, proof), negotiate, challenge, plain)) {
			return "", errMIC
		}
	}
	bindings := attributes[attributeBindings]
	absent := bytes.Equal(bindings, make([]byte, len(bindings))) // left out, or all zero
	matches := subtle.ConstantTimeCompare(bindings, n.bindings) == 1
	if n.protection == protectionRequired && !matches || n.protection == protectionAllowed && !matches && !absent {
		return "", errBindings
	}
	return name, nil
}

// ntlmHash is NTOWFv2 (3.3.2).
func ntlmHash(user, domain, password string) []byte {
	h := md4.New() //nolint:gosec // see the import
	h.Write(wide(password))
	return keyed(h.Sum(nil), wide(strings.ToUpper(user)+domain))
}

// keyed is HMAC-MD5.
func keyed(key []byte, parts ...[]byte) []byte {
	m := hmac.New(md5.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// endPointHash is the hash of a certificate as the channel binding tls-server-end-point has it (RFC 5929, 4.1).
func endPointHash(certificate *x509.Certificate) []byte {
	h := sha256.New()
	switch certificate.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		h = sha512.New()
	}
	h.Write(certificate.Raw)
	return h.Sum(nil)
}

// bindingsOf is the MD5 of the gss_channel_bindings_struct with such a hash and no addresses (RFC 2744, 3.11).
func bindingsOf(endPointHash []byte) []byte {
	const prefix = "tls-server-end-point:"
	sum := md5.New() //nolint:gosec // see the import
	sum.Write(make([]byte, 16))
	sum.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(prefix)+len(endPointHash))))
	io.WriteString(sum, prefix)
	sum.Write(endPointHash)
	return sum.Sum(nil)
}

// readAttributes reads target information up to its end; false if it has none.
func readAttributes(b []byte) (map[uint16][]byte, bool) {
	attributes := map[uint16][]byte{}
	for len(b) >= 4 {
		id, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if id == attributeEnd {
			return attributes, true
		}
		if size > len(b)-4 {
			return nil, false
		}
		attributes[id], b = b[4:4+size], b[4+size:]
	}
	return nil, false
}

func appendAttribute(b []byte, id uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, id)
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(value))), value...)
}

// fieldAt returns what a field of a message points at; false if that lies outside.
func fieldAt(message []byte, at int) ([]byte, bool) {
	size, from := uint64(binary.LittleEndian.Uint16(message[at:])), uint64(binary.LittleEndian.Uint32(message[at+4:]))
	if from+size > uint64(len(message)) {
		return nil, false
	}
	return message[from : from+size], true
}

func appendField(b []byte, size, from int) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	return binary.LittleEndian.AppendUint32(b, uint32(from))
}

func windowsTime(t time.Time) uint64 { return uint64(t.UnixNano()/100 + sinceWindows) }

// wide and narrow convert to and from UTF-16LE.
func wide(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func narrow(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
