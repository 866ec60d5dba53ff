package entra

// The faults of the token service.

import "github.com/mailbell/mailbell/simulator/faults"

// Names of the faults as the code uses them.
const (
	tokenAway     = "token_away"
	tokenSlow     = "token_slow"
	tokenRefused  = "token_refused"
	tokenShort    = "token_short"
	tokensRevoked = "tokens_revoked"
)

// Faults is the table of Entra ID. "At once": the fault happens when it is set, and is then over.
func Faults() []faults.Kind {
	return []faults.Kind{
		{Name: tokenAway, Fields: "share count seconds status",
			Text: "The token service is away: it closes connections without an answer, or answers the bare HTTP `status`."},
		{Name: tokenSlow, Fields: "seconds", Valued: true,
			Text: "The token service answers `seconds` later; without them it answers no request that comes meanwhile."},
		{Name: tokenRefused, Fields: "share count seconds reason", Check: checkCode, AnyReason: true,
			Text: "The token service refuses with the error code `reason`, as AADSTS7000215; without one it is a transient error."},
		{Name: tokenShort, Fields: "seconds", Valued: true,
			Text: "Access tokens that are issued now live for `seconds`, at least one."},
		{Name: tokensRevoked, Fields: "",
			Text: "At once: Exchange Online takes none of the access tokens issued so far; new ones work."},
	}
}

// checkCode says what is wrong with the reason of token_refused.
func checkCode(f faults.Fault) (field, text string) {
	if _, known := findAADSTS(f.Reason); f.Reason != "" && !known {
		return "reason", "must be a code of Entra ID that this simulator knows, as AADSTS7000215"
	}
	return "", ""
}
