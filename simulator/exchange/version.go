package exchange

// The releases of Exchange that a host can be, as far as clients notice: which versions of EWS they accept, what they lack, their limits,
// and the mailbox servers behind them.

import (
	"fmt"
	"slices"
	"strings"
)

// Releases of Exchange as personalities; empty is Exchange Server SE.
const (
	// Exchange2010 is Exchange 2010 SP3: EWS up to Exchange2010_SP2, no item:Preview, no affinity by override cookie and no
	// back-end headers, no GroupingInformation; Autodiscover names the mailbox server.
	Exchange2010 = "exchange2010"
	// Exchange2007 is Exchange 2007 SP3: EWS up to Exchange2007_SP1, so that there is no streaming, and Autodiscover as plain
	// XML only.
	Exchange2007 = "exchange2007"
)

// Personalities lists the values of Options.Personality.
func Personalities() []string { return []string{"", Gromox, Exchange2010, Exchange2007} }

// release is a version of Exchange.
type release struct {
	newest  string // the RequestServerVersion that it takes at most; empty: any
	name    string // the Version that it tells
	number  [4]int // major, minor, build, revision
	modern  bool   // 2013 and later: Preview and its like, GroupingInformation, back-end headers, affinity by override cookie
	soap    bool   // Autodiscover as SOAP
	json    bool   // Autodiscover V2
	streams int    // that an account, or the mailbox that it impersonates, may have open (HangingConnectionLimit)
	perBox  int    // subscriptions (EWSMaxSubscriptions)
}

// Limits as documented in "EWS throttling in Exchange"; that of the streams of 2010 is not, and is taken to be that of 2013.
const (
	maxStreams          = 10
	maxSubscriptions    = 5000
	onlineSubscriptions = 20
	streams2010         = 3
)

// The releases.
var (
	releaseSE = release{name: "V2017_07_11", number: [4]int{15, 2, 2562, 17}, modern: true, soap: true, json: true,
		streams: maxStreams, perBox: maxSubscriptions}
	// What gromox says it is, by default.
	releaseGromox = release{name: "V2017_07_11", number: [4]int{15, 0, 847, 4040}, modern: true, soap: true, json: true,
		streams: maxStreams, perBox: maxSubscriptions}
	releaseOnline = release{name: "V2018_01_08", number: [4]int{15, 20, 9343, 14}, modern: true, soap: true, json: true,
		streams: maxStreams, perBox: onlineSubscriptions}
	release2010 = release{name: "Exchange2010_SP2", newest: "Exchange2010_SP2", number: [4]int{14, 3, 513, 0}, soap: true,
		streams: streams2010, perBox: maxSubscriptions}
	release2007 = release{name: "Exchange2007_SP1", newest: "Exchange2007_SP1", number: [4]int{8, 3, 83, 6},
		streams: streams2010, perBox: maxSubscriptions}
	// Amazon WorkMail reports itself as a 2010; it has no Autodiscover that belongs to the mail domain.
	releaseOther = release{name: "Exchange2010_SP2", newest: "Exchange2010_SP2", number: [4]int{14, 2, 390, 0},
		streams: maxStreams, perBox: maxSubscriptions}
)

// releaseOf returns what the host of that name is.
func releaseOf(host, personality string) release {
	switch {
	case host == Online:
		return releaseOnline
	case host == Other:
		return releaseOther
	case personality == Gromox:
		return releaseGromox
	case personality == Exchange2010:
		return release2010
	case personality == Exchange2007:
		return release2007
	}
	return releaseSE
}

// ewsVersions are the values of RequestServerVersion up to the newest that a client has a use for, the oldest first.
var ewsVersions = []string{"Exchange2007", "Exchange2007_SP1", "Exchange2010", "Exchange2010_SP1", "Exchange2010_SP2", "Exchange2013", "Exchange2013_SP1"}

// takes reports whether a request for that version of EWS is served. Without one, Exchange assumes the oldest.
func (r release) takes(version string) bool {
	if r.newest == "" || version == "" {
		return true
	}
	i := slices.Index(ewsVersions, version)
	return i >= 0 && i <= slices.Index(ewsVersions, r.newest)
}

// streams reports whether that version of EWS has streaming notifications. A request without a version may use them.
func streams(version string) bool {
	i := slices.Index(ewsVersions, version)
	return i < 0 || i >= slices.Index(ewsVersions, "Exchange2010_SP1")
}

// schemas is the value of EwsSupportedSchemas.
func (r release) schemas() string {
	if r.newest == "" {
		return strings.Join(ewsVersions, ", ")
	}
	return strings.Join(ewsVersions[:slices.Index(ewsVersions, r.newest)+1], ", ")
}

// text is the version in the form of CasVersion.
func (r release) text() string {
	return fmt.Sprintf("%d.%02d.%04d.%03d", r.number[0], r.number[1], r.number[2], r.number[3])
}

// hex is the version in the form of the plain XML of Autodiscover ([MS-OXDSCLI] 2.2.4.1.1.2.6.47, ServerVersion).
func (r release) hex() string {
	return fmt.Sprintf("%X", 7<<28|r.number[0]<<22|r.number[1]<<16|1<<15|r.number[2])
}

// envelope is what stands around the body of an answer.
type envelope struct {
	open, end string
	declared  bool // a declaration stands before the first of a stream
}

// envelope is that of all answers of Exchange, but for faults.
func (r release) envelope() envelope {
	return envelope{declared: true, end: `</s:Body></s:Envelope>`, open: fmt.Sprintf(
		`<s:Envelope xmlns:s="%s"><s:Header><h:ServerVersionInfo %s`+
			` xmlns:h="%s" xmlns="%s" xmlns:xsd="%s" xmlns:xsi="%s"/></s:Header><s:Body xmlns:xsi="%s" xmlns:xsd="%s">`,
		nsSOAP, r.info(), nsTypes, nsTypes, nsXSD, nsXSI, nsXSI, nsXSD)}
}

// streamEnvelope is what Exchange puts around each answer of a stream, from 2010 SP1 on to 2016, and without a declaration before
// the first. (As captured in nmarus/node-ews#48 and #56 and in jamesiarmes/php-ews#453; Microsoft's documentation shows the one above.)
func (r release) streamEnvelope() envelope {
	return envelope{end: `</soap11:Body></Envelope>`, open: fmt.Sprintf(`<Envelope xmlns="%s"><soap11:Header xmlns:soap11="%s">`+
		`<ServerVersionInfo xmlns:xsi="%s" xmlns:xsd="%s" %s xmlns="%s" /></soap11:Header><soap11:Body xmlns:soap11="%s">`,
		nsSOAP, nsSOAP, nsXSI, nsXSD, r.info(), nsTypes, nsSOAP)}
}

// gromoxEnvelope is that of grommunio's server.
func (r release) gromoxEnvelope() envelope {
	return envelope{declared: true, end: `</SOAP:Body></SOAP:Envelope>`, open: fmt.Sprintf(
		`<SOAP:Envelope xmlns:SOAP="%s" xmlns:xsi="%s" xmlns:xsd="%s">`+
			`<SOAP:Header><t:ServerVersionInfo xmlns:t="%s" %s/></SOAP:Header><SOAP:Body>`, nsSOAP, nsXSI, nsXSD, nsTypes, r.info())}
}

// info is the version as the attributes of a ServerVersionInfo.
func (r release) info() string {
	return fmt.Sprintf(`MajorVersion="%d" MinorVersion="%d" MajorBuildNumber="%d" MinorBuildNumber="%d" Version="%s"`,
		r.number[0], r.number[1], r.number[2], r.number[3], r.name)
}

// newProperties came with Exchange 2013: a request of an older server that names one fails schema validation.
var newProperties = []string{"item:Preview", "item:TextBody", "item:InstanceKey", "item:Flag", "item:InferenceClassification", "folder:DistinguishedFolderId"}

// knows reports whether a property exists on that server.
func (r release) knows(uri string) bool { return r.modern || !slices.Contains(newProperties, uri) }

// unknownProperty is the answer to a request that names a property which its server does not have.
func unknownProperty(uri string) *soapFault {
	return badRequest("The 'FieldURI' attribute is invalid - The value '" + uri +
		"' is invalid according to its datatype 'http://schemas.microsoft.com/exchange/services/2006/types:UnindexedFieldURIType' - The Enumeration constraint failed.")
}
