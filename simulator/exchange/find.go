package exchange

// FindItem: pages, search filters and orders.

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// findItem lists one folder.
func (c *call) findItem(b *markup) *soapFault {
	const message = "FindItemResponseMessage"
	if !c.serves(b, message, "ItemShape", "IndexedPageItemView", "Restriction", "SortOrder", "ParentFolderIds") {
		return nil
	}
	shape, fault := c.x.release.parseShape(c.body.kid(nsMessages, "ItemShape"), true)
	if fault != nil {
		return fault
	}
	if t := c.body.attr("Traversal"); t != "Shallow" {
		if t == "SoftDeleted" || t == "Associated" {
			b.success(message)
			b.raw(`<m:RootFolder IndexedPagingOffset="0" TotalItemsInView="0" IncludesLastItemInRange="true"><t:Items/></m:RootFolder></m:`, message, `>`)
			return nil
		}
		return badRequest(fmt.Sprintf("The 'Traversal' attribute is invalid: the value '%s' is not in the enumeration.", t))
	}
	page, fault := parsePage(c.body.kid(nsMessages, "IndexedPageItemView"))
	if fault != nil {
		return fault
	}
	filter, ok := parseRestriction(c.body.kid(nsMessages, "Restriction"))
	if !ok {
		b.responseError(message, "ErrorUnsupportedPathForQuery", "The property can not be used with this type of restriction.")
		return nil
	}
	order, ok := parseOrder(c.body.kid(nsMessages, "SortOrder"))
	if !ok {
		b.responseError(message, "ErrorUnsupportedPathForSortGroup", "The property can not be used for sorting or grouping.")
		return nil
	}
	if filter != nil && c.x.release.modern {
		page.limit = min(page.limit, maxFiltered)
	}
	folders := c.body.kid(nsMessages, "ParentFolderIds").children()
	if len(folders) == 0 {
		return badRequest("The element 'FindItem' has incomplete content.")
	}
	for _, f := range folders {
		kind, code, text := c.folder(f)
		if code != "" {
			b.responseError(message, code, text)
			continue
		}
		items, total, next := c.list(kind, filter, order, page)
		b.success(message)
		b.raw(`<m:RootFolder IndexedPagingOffset="`, strconv.Itoa(next), `" TotalItemsInView="`, strconv.Itoa(total),
			`" IncludesLastItemInRange="`, strconv.FormatBool(next >= total), `"><t:Items>`)
		for _, it := range items {
			v := view{c: c, box: c.box, it: it, shape: shape, find: true}
			v.write(b)
		}
		b.raw(`</t:Items></m:RootFolder></m:`, message, `>`)
	}
	return nil
}

// serves refuses a request with an element that this simulator would have to ignore: its answer would look right and be wrong.
func (c *call) serves(b *markup, message string, elements ...string) bool {
	for _, k := range c.body.kids {
		if !slices.Contains(elements, k.name) {
			b.responseError(message, "ErrorInvalidOperation", "This simulator does not serve "+k.name+" of "+c.operation+".")
			return false
		}
	}
	return true
}

// page is an IndexedPageItemView or IndexedPageFolderView.
type page struct {
	offset, limit int
	fromEnd       bool
}

func parsePage(n *node) (page, *soapFault) {
	p := page{limit: maxFind}
	if n == nil {
		return p, nil
	}
	var err error
	if p.offset, err = strconv.Atoi(n.attr("Offset")); err != nil || p.offset < 0 {
		return p, badRequest("The 'Offset' attribute is invalid.")
	}
	if s := n.attr("MaxEntriesReturned"); s != "" {
		limit, err := strconv.Atoi(s)
		if err != nil || limit < 1 {
			return p, &soapFault{code: "ErrorInvalidPagingMaxRows", text: "Paging max rows must be greater than zero."}
		}
		p.limit = min(limit, maxFind)
	}
	switch n.attr("BasePoint") {
	case "Beginning":
	case "End":
		p.fromEnd = true
	default:
		return p, badRequest("The 'BasePoint' attribute is invalid.")
	}
	return p, nil
}

// of is the part of so many items that a page has, and where the next one begins.
func (p page) of(total int) (from, to, next int) {
	if p.fromEnd {
		to = max(total-p.offset, 0)
		from = max(to-p.limit, 0)
		return from, to, min(p.offset+to-from, total)
	}
	from = min(p.offset, total)
	to = min(from+p.limit, total)
	return from, to, to
}

// list returns a page of a folder, how many items it could have shown, and where the next page begins.
func (c *call) list(kind folderKind, filter func(*item) bool, order []sortKey, p page) (items []*item, total, next int) {
	c.x.mu.Lock()
	all := c.box.folders[kind].items
	plain := filter == nil && len(order) == 1 && order[0].byReceived && !p.fromEnd
	if !plain {
		all = slices.Clone(all)
	}
	if plain { // the common case: no copy of the folder
		total = len(all)
		from, to, next := p.of(total)
		items = make([]*item, 0, to-from)
		for i := from; i < to; i++ {
			if order[0].descending {
				items = append(items, all[total-1-i])
			} else {
				items = append(items, all[i])
			}
		}
		c.x.mu.Unlock()
		return items, total, next
	}
	c.x.mu.Unlock()
	if filter != nil {
		all = slices.DeleteFunc(all, func(it *item) bool { return !filter(it) })
	}
	slices.SortStableFunc(all, func(a, b *item) int {
		for _, k := range order {
			n := k.compare(a, b)
			if k.descending {
				n = -n
			}
			if n != 0 {
				return n
			}
		}
		return 0
	})
	from, to, next := p.of(len(all))
	return all[from:to], len(all), next
}

// sortKey is one FieldOrder.
type sortKey struct {
	compare    func(a, b *item) int
	descending bool
	byReceived bool
}

func byReceived(a, b *item) int { return a.received.Compare(b.received) }

func parseOrder(n *node) (keys []sortKey, ok bool) {
	if len(n.children()) == 0 {
		return []sortKey{{compare: byReceived, descending: true, byReceived: true}}, true
	}
	for _, f := range n.kids {
		k := sortKey{descending: f.attr("Order") == "Descending"}
		switch f.at("FieldURI").attr("FieldURI") {
		case "item:DateTimeReceived":
			k.compare, k.byReceived = byReceived, true
		case "item:DateTimeSent":
			k.compare = func(a, b *item) int { return a.sent().Compare(b.sent()) }
		case "item:DateTimeCreated", "item:LastModifiedTime":
			k.compare = func(a, b *item) int { return a.created.Compare(b.created) }
		case "item:Subject":
			k.compare = func(a, b *item) int {
				return strings.Compare(strings.ToLower(a.msg.subject), strings.ToLower(b.msg.subject))
			}
		case "item:Size":
			k.compare = func(a, b *item) int { return len(a.msg.raw) - len(b.msg.raw) }
		default:
			return nil, false
		}
		keys = append(keys, k)
	}
	return keys, true
}

// parseRestriction reads a search filter; nil for none. It knows comparisons of a few properties, and And, Or, Not.
func parseRestriction(n *node) (filter func(*item) bool, ok bool) {
	if n == nil {
		return nil, true
	}
	if len(n.kids) != 1 {
		return nil, false
	}
	return parseFilter(n.kids[0])
}

func parseFilter(n *node) (func(*item) bool, bool) {
	var inner []func(*item) bool
	switch n.name {
	case "And", "Or", "Not":
		for _, k := range n.kids {
			f, ok := parseFilter(k)
			if !ok {
				return nil, false
			}
			inner = append(inner, f)
		}
		if len(inner) == 0 {
			return nil, false
		}
		return func(it *item) bool {
			switch n.name {
			case "Not":
				return !inner[0](it)
			case "Or":
				return slices.ContainsFunc(inner, func(f func(*item) bool) bool { return f(it) })
			}
			return !slices.ContainsFunc(inner, func(f func(*item) bool) bool { return !f(it) })
		}, true
	}
	uri := n.at("FieldURI").attr("FieldURI")
	value := n.at("FieldURIOrConstant", "Constant").attr("Value")
	if n.name == "Contains" {
		value = strings.ToLower(n.at("Constant").attr("Value"))
		mode := n.attr("ContainmentMode")
		if !slices.Contains([]string{"FullString", "Prefixed", "Substring"}, mode) {
			return nil, false
		}
		return func(it *item) bool {
			s := strings.ToLower(textOf(uri, it))
			switch mode {
			case "FullString":
				return s == value
			case "Prefixed":
				return strings.HasPrefix(s, value)
			}
			return strings.Contains(s, value)
		}, uri != "" && textOf(uri, nil) != ""
	}
	compare, ok := comparison(uri, value)
	if !ok {
		return nil, false
	}
	test, ok := map[string]func(int) bool{
		"IsEqualTo":              func(n int) bool { return n == 0 },
		"IsNotEqualTo":           func(n int) bool { return n != 0 },
		"IsGreaterThan":          func(n int) bool { return n > 0 },
		"IsGreaterThanOrEqualTo": func(n int) bool { return n >= 0 },
		"IsLessThan":             func(n int) bool { return n < 0 },
		"IsLessThanOrEqualTo":    func(n int) bool { return n <= 0 },
	}[n.name]
	return func(it *item) bool { return test(compare(it)) }, ok
}

// textOf is a property that can be searched as text; of a nil item, something if there is such a property.
func textOf(uri string, it *item) string {
	m := &message{subject: "-", class: "-", internetID: "-"}
	if it != nil {
		m = it.msg
	}
	switch uri {
	case "item:Subject":
		return m.subject
	case "item:ItemClass":
		return m.class
	case "message:InternetMessageId":
		return m.internetID
	}
	return ""
}

func comparison(uri, value string) (func(*item) int, bool) {
	switch uri {
	case "item:DateTimeReceived", "item:DateTimeSent", "item:DateTimeCreated":
		t, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return nil, false
		}
		return func(it *item) int {
			switch uri {
			case "item:DateTimeSent":
				return it.sent().Compare(t)
			case "item:DateTimeCreated":
				return it.created.Compare(t)
			}
			return it.received.Compare(t)
		}, true
	case "message:IsRead":
		want := value == "true" || value == "1"
		return func(it *item) int {
			if it.read == want {
				return 0
			}
			return 1
		}, true
	case "item:Subject", "item:ItemClass", "message:InternetMessageId":
		return func(it *item) int { return strings.Compare(textOf(uri, it), value) }, true
	}
	return nil, false
}
