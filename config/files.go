package config

// The files that a configuration names, and its secrets, which are in files or variables.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mailbell/mailbell/internal/certificate"
	"github.com/mailbell/mailbell/internal/credential"
)

// Secret is a value that must not be shown. However it is printed, the text is ***; string(s) is its value.
type Secret = credential.Secret

// file returns a path, relative to the working directory instead of the configuration file.
func (v value) file() (string, bool) {
	s, ok := v.text()
	if ok && !filepath.IsAbs(s) {
		s = filepath.Join(v.r.dir, s)
	}
	return s, ok
}

// shown is a path in one line, for errors.
func shown(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

// contents returns the content of the file under a key; nil if none is named, or it is reported as unreadable or empty.
func (o *object) contents(key string) ([]byte, value) {
	v := o.get(key)
	path, ok := v.file()
	if !ok {
		return nil, v
	}
	v.r.files = append(v.r.files, File{Key: v.path, Path: path})
	data, err := v.r.read(path)
	switch {
	case err != nil:
		v.fail("%s %v", shown(path), err)
	case len(strings.TrimSpace(string(data))) == 0:
		v.fail("%s is empty", shown(path))
	default:
		return data, v
	}
	return nil, v
}

// secret returns the secret that key_file or key_env names, and its position; "" if it is reported as missing or wrong.
func (o *object) secret(name string) (Secret, value) {
	file, env := name+"_file", name+"_env"
	data, v := o.contents(file)
	if data != nil {
		o.r.files[len(o.r.files)-1].Secret = true
	}
	e := o.get(env)
	variable, ok := e.text()
	switch {
	case o.has(file) && o.has(env):
		e.fail("%s and %s are both given: want one", file, env)
		return "", e
	case o.has(file):
		return Secret(strings.TrimRight(string(data), "\r\n")), v
	case !ok:
		if !o.has(env) && !o.wrong && !o.absent {
			v.fail("is required (or %s)", env)
		}
		return "", v
	case !variableName.MatchString(variable):
		// It could be the secret itself, so it is not shown.
		e.fail("not the name of an environment variable: want one as in BELL_PASSWORD, and never the secret itself")
		return "", e
	}
	s, set := os.LookupEnv(variable)
	switch {
	case !set:
		e.fail("the environment variable %s is not set", variable)
	case strings.TrimSpace(s) == "":
		e.fail("the environment variable %s is empty", variable)
	default:
		return Secret(strings.TrimRight(s, "\r\n")), e
	}
	return "", e
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// word returns a secret of one line: a password or token, not a key file.
func (o *object) word(name string) (Secret, value) {
	s, v := o.secret(name)
	switch {
	case s == "":
	case !utf8.ValidString(string(s)):
		v.fail("its text is not UTF-8: save it as UTF-8")
	case strings.HasPrefix(string(s), "\ufeff"):
		v.fail("begins with a byte order mark: save it as UTF-8 without one")
	case strings.ContainsAny(string(s), "\r\n"):
		v.fail("has more than one line: want the secret alone")
	case strings.ContainsFunc(string(s), func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.fail("has a control character")
	default:
		if strings.TrimSpace(string(s)) != string(s) {
			v.warn("begins or ends with a space, which is taken as a part of it")
		}
		return s, v
	}
	return "", v
}

// optionalWord is word for a secret that may be left out.
func (o *object) optionalWord(name string) (Secret, value) {
	file, env := o.get(name+"_file"), o.get(name+"_env")
	if file.node == nil && env.node == nil {
		return "", file
	}
	return o.word(name)
}

// authorities returns the certificates of the PEM file under a key; nil if none is named.
func (o *object) authorities(key string) *x509.CertPool {
	data, v := o.contents(key)
	if data == nil {
		return nil
	}
	list, err := certificate.Authorities(data)
	if err != nil {
		v.fail("%v", err)
		return nil
	}
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
	}
	return pool
}

// signingKey returns the key of Apple's .p8 file in PEM form, after it was checked.
func (o *object) signingKey(name string) Secret {
	s, v := o.secret(name)
	if s == "" {
		return ""
	}
	blocks, err := certificate.Blocks([]byte(s))
	if err != nil {
		v.fail("%v", err)
		return ""
	}
	if len(blocks) == 0 || blocks[0].Type != "PRIVATE KEY" {
		v.fail("has no private key in PEM form (-----BEGIN PRIVATE KEY-----): want the .p8 file from Apple")
		return ""
	}
	key, err := x509.ParsePKCS8PrivateKey(blocks[0].Bytes)
	if err != nil {
		v.fail("has a private key that cannot be read: want the .p8 file from Apple")
		return ""
	}
	if ec, ok := key.(*ecdsa.PrivateKey); !ok || ec.Curve != elliptic.P256() {
		v.fail("has another kind of private key: want an elliptic curve key on P-256, as in the .p8 files from Apple")
		return ""
	}
	return Secret(pem.EncodeToMemory(blocks[0]))
}

// certificate reads a client certificate with its key: a PFX file as OpenSSL and Windows write it, or both in PEM form.
func (o *object) certificate() *tls.Certificate {
	o.require("file")
	data, v := o.contents("file")
	if data != nil {
		o.r.files[len(o.r.files)-1].Secret = true
	}
	password, _ := o.optionalWord("password")
	if data == nil {
		return nil
	}
	c, err := certificate.Load(data, string(password))
	unread, toConvert := errors.AsType[*certificate.Unread](err)
	switch {
	case errors.Is(err, certificate.ErrPassword):
		if password == "" {
			v.fail("is protected by a password: set password_file (or password_env)")
		} else {
			v.fail("cannot be opened with this password: check password_file")
		}
		return nil
	case toConvert:
		path, _ := v.file()
		v.fail("%s", unread.Advice(shown(path)))
		return nil
	case err != nil:
		v.fail("%v", err)
		return nil
	}
	return c
}
