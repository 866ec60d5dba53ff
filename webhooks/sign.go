package webhooks

// The signature of Standard Webhooks: HMAC-SHA256 in base64, marked v1.

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// sign is the header webhook-signature: a signature with each secret, so that a receiver can go over from one to the other.
func sign(secrets [][]byte, id, at string, body []byte) string {
	list := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		list[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(list, " ")
}
