package graph

// The query of a list of messages: $filter, $orderby, $select, $top, $skip, $skiptoken, $count.

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mailbell/mailbell/simulator/exchange"
)

// problem is what is wrong with a query; the status is 400.
type problem struct{ code, text string }

// query is what a list is asked for.
type query struct {
	from, before time.Time // received
	unread       *bool     // only unread ones (true), or only read ones
	oldestFirst  bool
	wanted       shape
	top, skip    int
	token        *skipToken
	counted      bool
}

// skipToken is where the next page begins.
type skipToken struct {
	Received time.Time `json:"r"`
	Number   uint64    `json:"n"`
	Offset   int       `json:"o"`
}

func (q *query) next(first exchange.Message, offset int) string {
	b, err := json.Marshal(skipToken{first.Received(), first.Number(), offset})
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// start is the index of the first message of the page in the list.
func (q *query) start(list []exchange.Message, drifting bool) int {
	if q.token == nil {
		return min(q.skip, len(list))
	}
	if drifting {
		return min(q.token.Offset, len(list))
	}
	for i, m := range list {
		order := m.Received().Compare(q.token.Received)
		if q.oldestFirst {
			order = -order
		}
		if order < 0 || m.Number() == q.token.Number {
			return i
		}
	}
	return len(list)
}

// readQuery reads the query of a list.
func readQuery(values url.Values) (*query, *problem) {
	q := &query{}
	for name := range values {
		switch name {
		case "$filter", "$orderby", "$select", "$top", "$skip", "$skiptoken", "$count", "$expand":
		default:
			if strings.HasPrefix(name, "$") {
				return nil, &problem{"BadRequest", "The query parameter '" + name + "' is not supported."}
			}
		}
	}
	var wrong *problem
	if q.wanted, wrong = readShape(values); wrong != nil {
		return nil, wrong
	}
	if q.top, wrong = parseTop(values); wrong != nil {
		return nil, wrong
	}
	if text := values.Get("$skip"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, &problem{"BadRequest", "Invalid value '" + text + "' for $skip query option found. The $skip query option requires a non-negative integer value."}
		}
		q.skip = n
	}
	q.counted = values.Get("$count") == "true"
	if text := values.Get("$skiptoken"); text != "" {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || json.Unmarshal(b, &q.token) != nil || q.token == nil {
			return nil, &problem{"ErrorInvalidParameter", "The value of the parameter '$skiptoken' is invalid."}
		}
	}
	order, wrong := q.readOrder(values.Get("$orderby"))
	if wrong != nil {
		return nil, wrong
	}
	return q, q.readFilter(values.Get("$filter"), order)
}

// readOrder reads $orderby, and returns the property that is ordered by.
func (q *query) readOrder(text string) (string, *problem) {
	if text == "" {
		return "", nil
	}
	name, direction, _ := strings.Cut(strings.TrimSpace(text), " ")
	switch strings.ToLower(direction) {
	case "desc":
	case "", "asc":
		q.oldestFirst = true
	default:
		return "", &problem{"BadRequest", "Syntax error in '" + text + "'."}
	}
	if name != "receivedDateTime" {
		return "", &problem{"ErrorInvalidProperty", "This simulator orders by receivedDateTime only."}
	}
	return name, nil
}

// readFilter reads comparisons that are joined by "and". What is ordered by has to stand first.
func (q *query) readFilter(text, order string) *problem {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	clauses := strings.Split(text, " and ")
	for i, clause := range clauses {
		fields := strings.Fields(clause)
		if len(fields) != 3 {
			return &problem{"BadRequest", "Invalid filter clause: Syntax error at position " + strconv.Itoa(len(clause)) + " in '" + text + "'."}
		}
		name, operator, value := fields[0], fields[1], fields[2]
		if i == 0 && order != "" && name != order {
			return &problem{"InefficientFilter", "The restriction or sort order is too complex for this operation."}
		}
		if wrong := q.restrict(name, operator, value); wrong != nil {
			return wrong
		}
	}
	return nil
}

func (q *query) restrict(name, operator, value string) *problem {
	switch name {
	case "receivedDateTime":
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return &problem{"BadRequest", "Invalid filter clause: The DateTimeOffset text '" + value + "' should be in format 'yyyy-mm-ddThh:mm:ss('.'s+)?(zzzzzz)?' and each field value is within valid range."}
		}
		switch operator {
		case "ge":
			q.from = t
		case "gt":
			q.from = t.Add(1)
		case "lt":
			q.before = t
		case "le":
			q.before = t.Add(1)
		default:
			return unsupported(operator)
		}
		return nil
	case "isRead":
		read, err := strconv.ParseBool(value)
		if err != nil || operator != "eq" && operator != "ne" {
			return unsupported(operator)
		}
		unread := read == (operator == "ne")
		q.unread = &unread
		return nil
	}
	if _, ok := properties[name]; ok {
		return &problem{"ErrorInvalidProperty", "This simulator does not filter by " + name + "."}
	}
	return &problem{"BadRequest", "Invalid filter clause: Could not find a property named '" + name + "' on type 'microsoft.graph.message'."}
}

func unsupported(operator string) *problem {
	return &problem{"BadRequest", "Invalid filter clause: The operator '" + operator + "' is not supported."}
}

// shape is what is shown of a message.
type shape struct {
	selected []string // properties; empty: those that come by default
	extended []string // ids of extended properties, as "Integer 0x36"
}

// content reports whether a shape asks for what an app with Mail.ReadBasic.All may not see.
func (s shape) content() bool {
	return len(s.extended) > 0 || slices.ContainsFunc(s.selected, func(name string) bool { return properties[name].content })
}

// readShape reads $select and $expand.
func readShape(values url.Values) (s shape, wrong *problem) {
	if text := values.Get("$expand"); text != "" {
		if s.extended, wrong = readExpand(text); wrong != nil {
			return s, wrong
		}
	}
	text := values.Get("$select")
	if text == "" {
		return s, nil
	}
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if _, ok := properties[name]; !ok {
			return s, unknownProperty(name)
		}
		s.selected = append(s.selected, name)
	}
	return s, nil
}

func unknownProperty(name string) *problem {
	return &problem{"BadRequest", "Parsing OData Select and Expand failed: Could not find a property named '" + name + "' on type 'microsoft.graph.message'."}
}

var (
	expanded   = regexp.MustCompile(`^singleValueExtendedProperties\(\$filter=(.*)\)$`)
	expandedID = regexp.MustCompile(`^id eq '(\w+) 0x0*([0-9A-Fa-f]+)'$`)
)

// readExpand reads the ids of extended properties, in the form that answers have them.
func readExpand(text string) (ids []string, wrong *problem) {
	m := expanded.FindStringSubmatch(text)
	if m == nil {
		return nil, unknownProperty(text)
	}
	for part := range strings.SplitSeq(m[1], " or ") {
		id := expandedID.FindStringSubmatch(strings.TrimSpace(part))
		if id == nil {
			return nil, &problem{"ErrorInvalidParameter", "PropertyId values '" + part + "' are invalid."}
		}
		ids = append(ids, id[1]+" 0x"+strings.ToLower(id[2]))
	}
	return ids, nil
}
