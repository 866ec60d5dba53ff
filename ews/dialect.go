package ews

// Dialect: the version of EWS that the client requests of a server.

import (
	"errors"
	"sync/atomic"
)

// The versions that are requested (RequestServerVersion). A server answers one that it does not know with ErrorInvalidServerVersion, a SOAP
// fault with status 500: for example Exchange 2010 (14.3) when 2013 is requested.
const (
	version2013 = "Exchange2013_SP1" // what every supported server understands
	version2010 = "Exchange2010_SP1" // the first with streaming

	codeVersion = "ErrorInvalidServerVersion"

	// inFlight2010 bounds the calls of a client at once if the server is Exchange 2010: its EWSMaxConcurrency is 10, and before its
	// second service pack (rollup 4) it charges all calls to the account itself.
	inFlight2010 = 10
)

// Dialect is the version that the servers of an exchange entry understand; its clients share one. The zero Dialect begins with
// Exchange2013_SP1 and changes to Exchange2010_SP1 when a server refuses it. From then on the clients request nothing that Exchange 2010
// does not know, such as item:Preview and affinity by X-BackEndOverrideCookie. It is safe for concurrent use.
type Dialect struct{ old atomic.Bool }

// Version is the RequestServerVersion in use.
func (d *Dialect) Version() string {
	if d.old.Load() {
		return version2010
	}
	return version2013
}

// refuses reports whether an error says that the server is older than the requested version.
func refuses(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Fault.Code == codeVersion
}

// older notes the result of a request in the version of 2010, after the server had refused the newer one. It changes the version only if
// the server answered in it: a server that is older still has to be reported as such, and the error of a proxy proves nothing.
func (d *Dialect) older(err error) {
	e, ok := errors.AsType[*Error](err)
	if err == nil || ok && isCode(e.Fault.Code) && !refuses(err) {
		d.old.Store(true)
	}
}
