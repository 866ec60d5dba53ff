package graph

// Folders and messages: GET /users/{id}/mailFolders/{folder}[/messages], /users/{id}/messages[/{id}].

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/mailbell/mailbell/simulator/exchange"
)

// Bounds of a page.
const (
	defaultTop = 10
	maxTop     = 1000
)

// user answers a request below /users/{name}.
func (c *call) user(name string, rest []string) {
	sends := len(rest) == 1 && strings.EqualFold(rest[0], "sendMail")
	if sends != (c.r.Method == http.MethodPost) || !sends && c.r.Method != http.MethodGet {
		c.count(opUnknown)
		c.fail(http.StatusMethodNotAllowed, "Request_BadRequest", "Specified HTTP method is not allowed for the request target.")
		return
	}
	operation := opUnknown
	switch {
	case sends:
		operation = opSend
	case len(rest) == 0:
		operation = opUser
	case len(rest) == 1 && rest[0] == "messages", len(rest) == 3 && rest[0] == "mailfolders" && strings.EqualFold(rest[2], "messages"):
		operation = opMessages
	case len(rest) == 2 && rest[0] == "messages", len(rest) == 4 && rest[0] == "mailfolders" && strings.EqualFold(rest[2], "messages"):
		operation = opMessage
	case len(rest) == 2 && rest[0] == "mailfolders":
		operation = opFolder
	}
	c.count(operation)
	switch operation {
	case opUser: // mail rights do not read users
		c.fail(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
		return
	case opUnknown:
		c.fail(http.StatusBadRequest, "BadRequest", "Resource not found for the segment '"+strings.Join(rest, "/")+"'.")
		return
	}
	needed := readBasic
	if sends {
		needed = send
	}
	if !c.granted(needed) {
		c.fail(http.StatusForbidden, "ErrorAccessDenied", textDenied)
		return
	}
	box, ok := c.box(name)
	if !ok {
		return
	}
	leave, ok := c.enterMailbox(box)
	if !ok {
		return
	}
	defer leave()
	switch operation {
	case opSend:
		c.sendMail(box)
	case opFolder:
		c.folder(box, rest[1])
	case opMessage:
		c.message(box, rest[len(rest)-1])
	case opMessages:
		folder := ""
		if len(rest) == 3 {
			folder = rest[1]
		}
		c.messages(box, folder)
	}
}

// box finds a mailbox, and answers if it is not here or the app may not reach it.
func (c *call) box(name string) (exchange.Box, bool) {
	box, status, code, text := c.s.find(name)
	switch {
	case status == 0:
		return box, true
	case code == "":
		c.w.WriteHeader(status)
	default:
		c.fail(status, code, text)
	}
	return exchange.Box{}, false
}

// find finds a mailbox; a status other than 0 says why it is not reached. An answer without a code has no body.
func (s *Server) find(name string) (box exchange.Box, status int, code, text string) {
	box, err := s.mail.AtOnline(name)
	at := box.Address
	if errors.Is(err, exchange.ErrNoMailbox) {
		at = strings.ToLower(name)
	}
	if _, ok := s.faults.Hit(denied, at, ""); ok {
		return box, http.StatusForbidden, "ErrorAccessDenied", textDenied
	}
	if f, ok := s.faults.Hit(noMailbox, at, ""); ok {
		switch f.Reason {
		case reasonBare:
			return box, http.StatusNotFound, "", ""
		case "", codeElsewhere:
			return box, http.StatusNotFound, codeElsewhere, textElsewhere
		}
		return box, http.StatusNotFound, f.Reason, "The requested user '" + name + "' is invalid."
	}
	switch {
	case err == nil:
		return box, 0, "", ""
	case errors.Is(err, exchange.ErrElsewhere):
		return box, http.StatusNotFound, codeElsewhere, textElsewhere
	case strings.Contains(name, "@"):
		return box, http.StatusNotFound, "ErrorInvalidUser", "The requested user '" + name + "' is invalid."
	}
	return box, http.StatusNotFound, "ResourceNotFound", "Resource could not be discovered."
}

// gone answers for a folder or message that is not there, or a mailbox that has just left.
func (c *call) gone(err error) {
	if errors.Is(err, exchange.ErrNoItem) {
		c.fail(http.StatusNotFound, "ErrorItemNotFound", "The specified object was not found in the store.")
		return
	}
	c.fail(http.StatusNotFound, codeElsewhere, textElsewhere)
}

func (c *call) folder(box exchange.Box, name string) {
	f, err := c.s.mail.FolderAtOnline(box.Address, standard(name))
	if err != nil {
		c.gone(err)
		return
	}
	all := map[string]any{
		"id": urlSafe(f.ID), "displayName": f.Name, "parentFolderId": urlSafe(f.ParentID), "childFolderCount": 0,
		"unreadItemCount": f.Unread, "totalItemCount": f.Total, "sizeInBytes": f.Total * 4096, "isHidden": false,
	}
	shown := all
	if text := c.r.URL.Query().Get("$select"); text != "" {
		shown = map[string]any{"id": all["id"]}
		for name := range strings.SplitSeq(text, ",") {
			v, ok := all[name]
			if !ok {
				c.fail(http.StatusBadRequest, "BadRequest", "Parsing OData Select and Expand failed: Could not find a property named '"+name+"' on type 'microsoft.graph.mailFolder'.")
				return
			}
			shown[name] = v
		}
	}
	c.ok(http.StatusOK, "users('"+box.Object+"')/mailFolders/$entity", shown)
}

// urlSafe is an id as Graph has it.
func urlSafe(id string) string { return safeLetters.Replace(id) }

// standard is an id of Graph as the store has it.
func standard(id string) string { return standardLetters.Replace(id) }

var (
	safeLetters     = strings.NewReplacer("/", "-", "+", "_")
	standardLetters = strings.NewReplacer("-", "/", "_", "+")
)

func (c *call) message(box exchange.Box, id string) {
	wanted, problem := readShape(c.r.URL.Query())
	if problem != nil {
		c.fail(http.StatusBadRequest, problem.code, problem.text)
		return
	}
	if !c.mayShow(wanted) {
		return
	}
	m, err := c.s.mail.MessageAtOnline(box.Address, standard(id))
	if err != nil {
		c.gone(err)
		return
	}
	if f, ok := c.s.faults.Hit(unreadable, box.Address, ""); ok {
		c.fail(http.StatusInternalServerError, orElse(f.Reason, "ErrorItemCorrupt"), "The item is corrupt.")
		return
	}
	c.ok(http.StatusOK, "users('"+box.Object+"')/messages/$entity", c.view(m, wanted))
}

// mayShow answers and returns false for an app that may not see what it asks for.
func (c *call) mayShow(wanted shape) bool {
	if wanted.content() && c.basicOnly() {
		c.fail(http.StatusForbidden, "ErrorAccessDenied", textDenied)
		return false
	}
	return true
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// messages answers a page of a list.
func (c *call) messages(box exchange.Box, folder string) {
	q, problem := readQuery(c.r.URL.Query())
	if problem != nil {
		c.fail(http.StatusBadRequest, problem.code, problem.text)
		return
	}
	if !c.mayShow(q.wanted) {
		return
	}
	all, err := c.s.mail.MessagesAtOnline(box.Address, standard(folder), q.from, q.before)
	if err != nil {
		c.gone(err)
		return
	}
	if q.unread != nil {
		all = slices.DeleteFunc(all, func(m exchange.Message) bool { return m.Properties().Read == *q.unread })
	}
	if !q.oldestFirst {
		slices.Reverse(all)
	}
	total, offset := len(all), q.start(all, c.s.drifting(box.Address))
	all = all[offset:]
	size := c.s.pageSize(box.Address, q.top)
	page := all[:min(size, len(all))]
	list := make([]map[string]any, 0, len(page))
	for _, m := range page {
		list = append(list, c.view(m, q.wanted))
	}
	answer := map[string]any{"value": list}
	if q.counted {
		answer["@odata.count"] = total
	}
	if rest := all[len(page):]; len(rest) > 0 {
		answer["@odata.nextLink"] = c.nextLink(q.next(rest[0], offset+len(page)))
	}
	c.ok(http.StatusOK, "users('"+box.Object+"')/messages", answer)
}

// nextLink is the URL of the next page: this request with a token.
func (c *call) nextLink(token string) string {
	values := c.r.URL.Query()
	values.Del("$skip")
	values.Set("$skiptoken", token)
	base := c.s.base()
	if _, ok := c.s.faults.Hit(linkElsewhere, "", ""); ok {
		base = "https://graph.attacker.example"
	}
	return base + c.r.URL.EscapedPath() + "?" + strings.ReplaceAll(values.Encode(), "%24", "$")
}

// drifting reports whether pages are counted from the newest message, so that mail which comes and goes meanwhile shifts them.
func (s *Server) drifting(address string) bool {
	_, ok := s.faults.On(pagesDrift, address, "")
	return ok
}

// pageSize is how many messages a page has.
func (s *Server) pageSize(address string, top int) int {
	if _, ok := s.faults.Hit(pagesEmpty, address, ""); ok {
		return 0
	}
	if _, ok := s.faults.Hit(pagesShort, address, ""); ok {
		return max(1, top/3)
	}
	return top
}

// parseTop reads $top.
func parseTop(values url.Values) (int, *problem) {
	text := values.Get("$top")
	if text == "" {
		return defaultTop, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxTop {
		return 0, &problem{"ErrorInvalidParameter", "The limit of '" + strconv.Itoa(maxTop) + "' for Top query has been exceeded. The value from the incoming request is '" + text + "'."}
	}
	return n, nil
}
