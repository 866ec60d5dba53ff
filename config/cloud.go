package config

// Microsoft's clouds and their URLs.

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Cloud has the URLs of one of Microsoft's clouds.
type Cloud struct {
	EWS          string // the whole URL of Exchange.asmx
	Autodiscover string // https://host
	Authority    string // https://host, of Entra ID
	Graph        string // https://host
	Custom       bool   // it is none of Microsoft's
}

// custom is the cloud that cloud_urls describes.
const custom = "custom"

// clouds are the URLs of Microsoft's clouds: Get-CloudServiceEndpoint of microsoft/CSS-Exchange, and "National cloud deployments"
// of Microsoft Graph. GCC shares the hosts of the worldwide cloud.
var clouds = map[string]Cloud{
	"global": worldwide,
	"gcc":    worldwide,
	"gcc-high": {"https://outlook.office365.us/EWS/Exchange.asmx", "https://autodiscover-s.office365.us",
		"https://login.microsoftonline.us", "https://graph.microsoft.us", false},
	"dod": {"https://outlook-dod.office365.us/EWS/Exchange.asmx", "https://autodiscover-s-dod.office365.us",
		"https://login.microsoftonline.us", "https://dod-graph.microsoft.us", false},
	"china": {"https://partner.outlook.cn/EWS/Exchange.asmx", "https://autodiscover-s.partner.outlook.cn",
		"https://login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn", false},
}

var worldwide = Cloud{"https://outlook.office365.com/EWS/Exchange.asmx", "https://autodiscover-s.outlook.com",
	"https://login.microsoftonline.com", "https://graph.microsoft.com", false}

// cloud reads cloud and cloud_urls of an exchange entry.
func (o *object) cloud(listenBy string) Cloud {
	before := len(o.r.errs)
	chosen := o.choice("cloud", "global", append(slices.Sorted(maps.Keys(clouds)), custom))
	urls, given := o.optional("cloud_urls")
	switch {
	case chosen == custom && !given && !urls.wrong:
		urls.fail("is required with cloud: custom")
	case chosen != custom && given && len(o.r.errs) == before: // else it is perhaps custom that was meant
		urls.fail("is only for cloud: custom")
	}
	urls.absent = urls.absent || chosen != custom
	if listenBy == ByGraph {
		urls.require("graph")
	}
	described := urls.cloudURLs()
	if chosen == custom {
		return described
	}
	return clouds[chosen]
}

// cloudURLs reads the URLs of a custom cloud.
func (o *object) cloudURLs() Cloud {
	defer o.end()
	o.require("ews", "autodiscover", "authority")
	c := Cloud{
		EWS:          o.text("ews", "", httpsURL),
		Autodiscover: o.text("autodiscover", "", httpsHost),
		Authority:    o.text("authority", "", httpsHost),
		Graph:        o.text("graph", "", httpsHost),
		Custom:       true,
	}
	// A host without a path means the usual path of EWS.
	if u, err := url.Parse(c.EWS); err == nil && c.EWS != "" && strings.Trim(u.Path, "/") == "" {
		c.EWS = u.Scheme + "://" + u.Host + "/EWS/Exchange.asmx"
	}
	return c
}

// CloudOf returns the URLs of one of Microsoft's clouds by its name in the configuration; empty, or a name that none has: the worldwide one.
func CloudOf(name string) Cloud {
	if c, known := clouds[name]; known {
		return c
	}
	return worldwide
}
