package graph

// What Graph says to an access token, and what it grants.

import (
	"net/http"
	"slices"

	"github.com/mailbell/mailbell/simulator/entra"
)

const bearerChallenge = `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", ` +
	`client_id="00000003-0000-0000-c000-000000000000"`

var tokenTexts = map[entra.Verdict]string{
	entra.Missing:       "Access token is empty.",
	entra.Unreadable:    "IDX14100: JWT is not well formed, there are no dots (.).\nThe token needs to be in JWS or JWE Compact Serialization Format.",
	entra.BadSignature:  "Signing key is invalid.",
	entra.TooOld:        "Lifetime validation failed, the token is expired.",
	entra.TooYoung:      "Lifetime validation failed, the token is not yet valid.",
	entra.WrongAudience: "Access token validation failure. Invalid audience.",
	entra.Revoked:       "Access token has been revoked.",
}

// Application permissions. Any one of a line is enough. Those of RBAC for Applications, which stand in no token, are not served.
var (
	readBasic = []string{"Mail.ReadBasic", "Mail.ReadBasic.All", "Mail.Read", "Mail.ReadWrite"}
	readAll   = []string{"Mail.Read", "Mail.ReadWrite"} // bodies, previews and extended properties too; subscribing needs it
	send      = []string{"Mail.Send"}
)

// granted reports whether the token has one of these permissions.
func (c *call) granted(permissions []string) bool {
	return slices.ContainsFunc(c.bearer.Roles, func(role string) bool { return slices.Contains(permissions, role) })
}

// authorised checks the token, and answers if it is refused.
func (c *call) authorised() bool {
	b, verdict := c.s.tokens.Inspect(c.r, c.s.base(), c.s.clock.Now())
	c.bearer = b
	if verdict == entra.Valid {
		return true
	}
	c.s.mu.Lock()
	c.s.counts.Unauthorized++
	c.s.mu.Unlock()
	c.w.Header().Set("WWW-Authenticate", bearerChallenge)
	c.fail(http.StatusUnauthorized, "InvalidAuthenticationToken", tokenTexts[verdict])
	return false
}
