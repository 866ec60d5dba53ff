package fault

// Peer is whose answer it was, or who did not answer.
type Peer uint8

// The peers.
const (
	Unknown Peer = iota
	Exchange
	Autodiscover
	TokenService
	Proxy
	APNs
	StateStore
	Graph
)

var peers = [...]string{"", "Exchange", "Autodiscover", "the token service", "the proxy", "APNs", "the state store", "Microsoft Graph"}

func (p Peer) String() string { return peers[p] }

// Detail is what exactly is wrong, where a code stands for several things.
type Detail uint8

// The details. None: the code says it all, or nobody knows more.
const (
	None Detail = iota

	// Of a certificate that is not trusted.
	OtherName     // it is for other names than the one that was asked for
	Untimely      // it, or one of its chain, has expired or is not valid yet
	UnknownIssuer // nobody who is trusted here has issued it
	NoRoots       // nobody is trusted here at all: this machine has no CA certificates
	Intercepted   // it speaks TLS as only something in between does
	ClientUnknown // the server asks for a certificate of ours, and got none or another

	// Of a proxy.
	ProxySignIn // it wants a user name and password, or does not accept them
	ProxyScheme // it wants a sign-in of another kind than Basic
	ProxyDenies // it does not let us through to that host and port
	ProxyAway   // it cannot be reached, or does not answer
	ProxyKind   // it is one of another kind than the URL says

	// Of a refusal (HTTP 401, 403).
	NoChallenge   // nothing says how to sign in
	PolicyBlocks  // EWS is blocked by a policy
	PolicyOff     // EWS is switched off
	BeforeItsDoor // something before the server refuses: it has none of the server's marks
	SignInPage    // a page for people to sign in at
	OtherTenant   // the tenant of the token has no Exchange Online
	NoRight       // the app has no right to mail at all
)

// Evidence is what came back beside a code. By it advice is chosen, and never by a text: the same code has several causes. Nothing of it
// is a secret.
type Evidence struct {
	Peer   Peer
	Host   string // of the peer; empty: not known
	Status int    // of HTTP; 0: none came
	Detail Detail
	Offers []string // the authentication schemes of a challenge
	Leads  string   // where a redirect leads: host and path
}

// From is the error as one of this peer, where it does not say whose it is.
func (e *Error) From(p Peer) *Error {
	if e.Peer != Unknown {
		return e
	}
	told := *e
	told.Peer = p
	return &told
}
