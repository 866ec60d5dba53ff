package ews

// Dialect: the version of EWS that is spoken with a server.

import (
	"errors"
	"sync/atomic"
)

// The versions that are asked for (RequestServerVersion). A server answers one that it does not know with ErrorInvalidServerVersion, a SOAP
// fault with status 500: so does Exchange 2010 (14.3) when it is asked for 2013.
const (
	version2013 = "Exchange2013_SP1" // what every supported server understands
	version2010 = "Exchange2010_SP1" // the first with streaming

	codeVersion = "ErrorInvalidServerVersion"

	// inFlight2010 bounds a client's calls at once where the server is a 2010: EWSMaxConcurrency is 10 there, and before its second
	// service pack (rollup 4) all of them are charged to the account itself.
	inFlight2010 = 10
)

// Dialect is the version that the servers of an exchange entry understand; its clients share one. The zero Dialect begins with
// Exchange2013_SP1 and goes over to Exchange2010_SP1 with the first server that refuses it: from then on nothing is asked for that
// Exchange 2010 does not know, item:Preview above all, and no affinity by X-BackEndOverrideCookie. It is safe for concurrent use.
type Dialect struct{ old atomic.Bool }

// Version is the RequestServerVersion in use.
func (d *Dialect) Version() string {
	if d.old.Load() {
		return version2010
	}
	return version2013
}

// refuses reports whether an error says that the server is older than the version that it was asked for.
func refuses(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Fault.Code == codeVersion
}

// older takes in how a request ended that was made in the version of 2010, after the newer one had been refused. It is remembered only
// where the server has spoken it: what is older still has to be named as such, and a proxy's failure says nothing.
func (d *Dialect) older(err error) {
	e, ok := errors.AsType[*Error](err)
	if err == nil || ok && isCode(e.Fault.Code) && !refuses(err) {
		d.old.Store(true)
	}
}
