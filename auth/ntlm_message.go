package auth

// NTLM's messages (MS-NLMP). go-ntlmssp makes them: it is Microsoft's, is tested with IIS, and has NTLMv2 only, in Unicode. This file adds
// two things to its messages that it does not have, instead of implementing all the rest again:
//   - what Extended Protection, which Exchange requires since 2019 CU14, looks at: the channel binding and the service's name.
//     They go into the CHALLENGE's target information, which the library takes over into the blob that the password signs;
//   - the MIC over the three messages, which a client should send if the CHALLENGE has a timestamp (3.1.5.1.2).

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // it is what NTLM is made of; TLS protects it
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/Azure/go-ntlmssp"
	"golang.org/x/crypto/md4" //nolint:gosec,staticcheck // as MD5: a password's NT hash is its MD4
)

// The attributes of target information (MS-NLMP 2.2.2.1) that matter to a client.
const (
	avEOL             = 0x0
	avFlags           = 0x6 // 32 bits
	avTimestamp       = 0x7
	avTargetName      = 0x9 // the service's name, UTF-16LE
	avChannelBindings = 0xA // MD5 of a gss_channel_bindings_struct

	flagMIC = 0x2 // of avFlags: the AUTHENTICATE has a MIC
)

// The offsets of fields in the messages (2.2.1.2, 2.2.1.3). A field is its length, that again, and the offset of its content:
// 2, 2 and 4 bytes, little endian, as everything.
const (
	challengeInfo = 40 // the field of the target information
	challengeHead = 48 // up to here the library reads; some have a version after it

	authenticateNT     = 20 // the field of the NTLMv2 response, which begins with the proof
	authenticateFields = 12 // the first of six
	authenticateFlags  = 60
	authenticateHead   = 64 // without a version and a MIC, as the library leaves them out
	micAt              = 72 // after the version, which is all zero if it was not negotiated
	micSize            = 16
)

var (
	challengeStart = []byte("NTLMSSP\x00\x02\x00\x00\x00")

	errChallenge = errors.New("its NTLM challenge is malformed")
)

// authenticate answers a CHALLENGE for the server of a host and a certificate. Its error has nothing of the credential in it.
func (n NTLM) authenticate(negotiate, challenge []byte, host string, certificate *x509.Certificate) ([]byte, error) {
	bound, mic, err := bind(challenge, host, certificate)
	if err != nil {
		return nil, err
	}
	message, err := ntlmssp.NewAuthenticateMessage(bound, n.Username, string(n.Password), nil)
	if err != nil || !mic {
		return message, err
	}
	return n.seal(negotiate, challenge, message), nil
}

// bind returns the CHALLENGE with the target information that the client is to sign, and says whether a MIC is announced in it.
func bind(challenge []byte, host string, certificate *x509.Certificate) (bound []byte, mic bool, err error) {
	if len(challenge) < challengeHead || !bytes.HasPrefix(challenge, challengeStart) {
		return nil, false, errChallenge
	}
	info, ok := fieldOf(challenge, challengeInfo)
	if !ok {
		return nil, false, errChallenge
	}
	var signed []byte
	var flags uint32
	for {
		if len(info) < 4 {
			return nil, false, errChallenge // no end, or no target information at all: no NTLMv2
		}
		id, size := binary.LittleEndian.Uint16(info), int(binary.LittleEndian.Uint16(info[2:]))
		if id == avEOL {
			break
		}
		if size > len(info)-4 {
			return nil, false, errChallenge
		}
		value := info[4 : 4+size]
		info = info[4+size:]
		switch id {
		case avTargetName, avChannelBindings: // the client's to say
			continue
		case avFlags:
			if size != 4 {
				return nil, false, errChallenge
			}
			flags = binary.LittleEndian.Uint32(value)
			continue
		case avTimestamp:
			if size != 8 {
				return nil, false, errChallenge
			}
			mic = true
		}
		signed = avPair(signed, id, value)
	}
	flags &^= flagMIC
	if mic {
		flags |= flagMIC
	}
	if flags != 0 {
		signed = avPair(signed, avFlags, binary.LittleEndian.AppendUint32(nil, flags))
	}
	signed = avPair(signed, avTargetName, utf16le("HTTP/"+host))
	signed = avPair(signed, avChannelBindings, channelBindings(endPoint(certificate)))
	signed = avPair(signed, avEOL, nil)
	if len(signed) > 0xFFFF {
		return nil, false, errChallenge
	}
	bound = append(slices.Clone(challenge), signed...)
	at := bound[challengeInfo:]
	binary.LittleEndian.PutUint16(at, uint16(len(signed)))
	binary.LittleEndian.PutUint16(at[2:], uint16(len(signed)))
	binary.LittleEndian.PutUint32(at[4:], uint32(len(challenge)))
	return bound, mic, nil
}

// seal puts the MIC into an AUTHENTICATE: room for a version and the MIC goes in behind the fields, whose contents move.
func (n NTLM) seal(negotiate, challenge, message []byte) []byte {
	const room = micAt + micSize - authenticateHead
	response, _ := fieldOf(message, authenticateNT)
	session := hmacMD5(n.key(), response[:md5.Size])
	sealed := slices.Insert(message, authenticateHead, make([]byte, room)...)
	for at := authenticateFields; at < authenticateFlags; at += 8 {
		offset := sealed[at+4:]
		binary.LittleEndian.PutUint32(offset, binary.LittleEndian.Uint32(offset)+room)
	}
	copy(sealed[micAt:], hmacMD5(session, negotiate, challenge, sealed))
	return sealed
}

// key is NTOWFv2 (3.3.2): what both sides know of the password.
func (n NTLM) key() []byte {
	domain, user, found := strings.Cut(n.Username, `\`)
	if !found {
		domain, user = "", n.Username
	}
	hash := md4.New() //nolint:gosec // see the import
	hash.Write(utf16le(string(n.Password)))
	return hmacMD5(hash.Sum(nil), utf16le(strings.ToUpper(user)+domain))
}

// endPoint is the channel binding of type tls-server-end-point (RFC 5929, 4.1): the certificate's hash, by the hash of its
// signature, or by SHA-256 if that is an older one.
func endPoint(certificate *x509.Certificate) []byte {
	switch certificate.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		sum := sha512.Sum384(certificate.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		sum := sha512.Sum512(certificate.Raw)
		return sum[:]
	}
	sum := sha256.Sum256(certificate.Raw)
	return sum[:]
}

// channelBindings is the MD5 of a gss_channel_bindings_struct (RFC 2744, 3.11; MS-NLMP 2.2.2.1) without addresses.
func channelBindings(endPoint []byte) []byte {
	data := append([]byte("tls-server-end-point:"), endPoint...)
	bindings := binary.LittleEndian.AppendUint32(make([]byte, 16), uint32(len(data)))
	sum := md5.Sum(append(bindings, data...)) //nolint:gosec // see the import
	return sum[:]
}

// fieldOf returns the content of a field of a message; false if it lies outside.
func fieldOf(message []byte, at int) ([]byte, bool) {
	size, from := int(binary.LittleEndian.Uint16(message[at:])), int(binary.LittleEndian.Uint32(message[at+4:]))
	if from > len(message) || size > len(message)-from {
		return nil, false
	}
	return message[from : from+size], true
}

// avPair appends an AV_PAIR.
func avPair(info []byte, id uint16, value []byte) []byte {
	info = binary.LittleEndian.AppendUint16(info, id)
	info = binary.LittleEndian.AppendUint16(info, uint16(len(value)))
	return append(info, value...)
}

func utf16le(s string) (b []byte) {
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

func hmacMD5(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(md5.New, key)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}
