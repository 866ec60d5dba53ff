package exchange

// GetFolder, FindFolder and ResolveNames.

import (
	"strconv"
	"strings"
)

// folder finds the folder of a FolderId or DistinguishedFolderId element; code is the error's, if there is one.
func (c *call) folder(n *node) (kind folderKind, code, text string) {
	const notFound = "The specified folder could not be found in the store."
	switch n.name {
	case "DistinguishedFolderId":
		kind, ok := distinguishedFolder(n.attr("Id"))
		if owner := normal(n.at("Mailbox", "EmailAddress").value()); owner != "" && owner != c.address() {
			return 0, "ErrorAccessDenied", "Access is denied. Check credentials and try again."
		}
		if c.box == nil {
			return 0, "ErrorMissingEmailAddress", "When making a request as an account that does not have a mailbox, you must specify the mailbox primary SMTP address for any distinguished folder Ids."
		}
		if !ok {
			return 0, "ErrorFolderNotFound", notFound
		}
		return kind, "", ""
	case "FolderId":
		box, kind, ok := parseFolderID(n.attr("Id"))
		switch {
		case !ok:
			return 0, "ErrorInvalidIdMalformed", "Id is malformed."
		case c.box == nil || box != c.box.guid:
			return 0, "ErrorFolderNotFound", notFound
		}
		return kind, "", ""
	}
	return 0, "ErrorInvalidIdMalformed", "Id is malformed."
}

// folderURIs are the properties of a folder in the order of the schema; "" stands for the extended ones.
var folderURIs = []string{"folder:ParentFolderId", "folder:FolderClass", "folder:DisplayName", "folder:TotalCount", "folder:ChildFolderCount", "",
	"folder:EffectiveRights", "folder:DistinguishedFolderId", "folder:UnreadCount"}

// The extended properties of a folder that this server has: PR_LOCAL_COMMIT_TIME_MAX and PR_DELETED_COUNT_TOTAL.
const (
	commitTimeMax = "0x670a"
	deletedTotal  = "0x670b"
)

// folderShape is which properties a request wants.
type folderShape struct {
	want     map[string]bool
	extended []string // property tags
}

func (r release) parseFolderShape(n *node) (folderShape, *soapFault) {
	s := folderShape{want: map[string]bool{}}
	switch n.at("BaseShape").value() {
	case "IdOnly":
	case "Default":
		for _, uri := range []string{"folder:DisplayName", "folder:TotalCount", "folder:ChildFolderCount", "folder:UnreadCount"} {
			s.want[uri] = true
		}
	case "AllProperties":
		for _, uri := range folderURIs {
			s.want[uri] = r.knows(uri)
		}
	default:
		return s, badRequest("The 'BaseShape' element is invalid.")
	}
	for _, k := range n.at("AdditionalProperties").children() {
		switch k.name {
		case "FieldURI":
			if !fieldURI.MatchString(k.attr("FieldURI")) {
				return s, badRequest("The 'FieldURI' attribute is invalid.")
			}
			if !r.knows(k.attr("FieldURI")) {
				return s, unknownProperty(k.attr("FieldURI"))
			}
			s.want[k.attr("FieldURI")] = true
		case "ExtendedFieldURI":
			s.extended = append(s.extended, strings.ToLower(k.attr("PropertyTag")))
		}
	}
	return s, nil
}

func (c *call) writeFolder(b *markup, kind folderKind, s folderShape) {
	row := folderTable[kind]
	g := c.box.guid
	c.x.mu.Lock()
	f := c.box.folders[kind]
	c.x.mu.Unlock()
	b.raw(`<t:Folder>`)
	b.id("FolderId", folderID(g, kind), changeKey(g, 0))
	for _, uri := range folderURIs {
		if uri != "" && !s.want[uri] {
			continue
		}
		switch uri {
		case "folder:ParentFolderId":
			b.id("ParentFolderId", folderID(g, row.parent), changeKey(g, 0))
		case "folder:FolderClass":
			if row.class != "" {
				b.element("t:FolderClass", row.class)
			}
		case "folder:DisplayName":
			b.element("t:DisplayName", row.name)
		case "folder:TotalCount":
			b.element("t:TotalCount", strconv.Itoa(len(f.items)))
		case "folder:ChildFolderCount":
			b.element("t:ChildFolderCount", strconv.Itoa(row.children))
		case "":
			for _, tag := range s.extended {
				switch {
				case tag == commitTimeMax && !f.changed.IsZero():
					b.raw(`<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag="0x670a" PropertyType="SystemTime"/><t:Value>`, c.x.wire(f.changed), `</t:Value></t:ExtendedProperty>`)
				case tag == deletedTotal:
					b.raw(`<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag="0x670b" PropertyType="Integer"/><t:Value>`, strconv.Itoa(f.deleted), `</t:Value></t:ExtendedProperty>`)
				}
			}
		case "folder:EffectiveRights":
			b.raw(effectiveRights)
		case "folder:DistinguishedFolderId":
			b.element("t:DistinguishedFolderId", row.distinguished)
		case "folder:UnreadCount":
			b.element("t:UnreadCount", strconv.Itoa(f.unread))
		}
	}
	b.raw(`</t:Folder>`)
}

func (c *call) getFolder(b *markup) *soapFault {
	const message = "GetFolderResponseMessage"
	shape, fault := c.x.release.parseFolderShape(c.body.kid(nsMessages, "FolderShape"))
	if fault != nil {
		return fault
	}
	ids := c.body.kid(nsMessages, "FolderIds").children()
	if len(ids) == 0 || len(ids) > maxItems {
		return badRequest("The element 'GetFolder' has incomplete content.")
	}
	for _, n := range ids {
		kind, code, text := c.folder(n)
		if code != "" {
			b.responseError(message, code, text)
			continue
		}
		b.success(message)
		b.raw(`<m:Folders>`)
		c.writeFolder(b, kind, shape)
		b.raw(`</m:Folders></m:`, message, `>`)
	}
	return nil
}

func (c *call) findFolder(b *markup) *soapFault {
	const message = "FindFolderResponseMessage"
	if !c.serves(b, message, "FolderShape", "IndexedPageFolderView", "ParentFolderIds") {
		return nil
	}
	shape, fault := c.x.release.parseFolderShape(c.body.kid(nsMessages, "FolderShape"))
	if fault != nil {
		return fault
	}
	page, fault := parsePage(c.body.kid(nsMessages, "IndexedPageFolderView"))
	if fault != nil {
		return fault
	}
	deep := c.body.attr("Traversal") == "Deep"
	parents := c.body.kid(nsMessages, "ParentFolderIds").children()
	if len(parents) == 0 {
		return badRequest("The element 'FindFolder' has incomplete content.")
	}
	for _, n := range parents {
		parent, code, text := c.folder(n)
		if code != "" {
			b.responseError(message, code, text)
			continue
		}
		var found []folderKind
		for kind := range folderKinds {
			direct := folderTable[kind].parent == parent && kind != parent
			if direct || deep && parent == rootFolder && kind != rootFolder {
				found = append(found, kind)
			}
		}
		if c.body.attr("Traversal") == "SoftDeleted" {
			found = nil
		}
		from, to, next := page.of(len(found))
		b.success(message)
		b.raw(`<m:RootFolder IndexedPagingOffset="`, strconv.Itoa(next), `" TotalItemsInView="`, strconv.Itoa(len(found)),
			`" IncludesLastItemInRange="`, strconv.FormatBool(next >= len(found)), `"><t:Folders>`)
		for _, kind := range found[from:to] {
			c.writeFolder(b, kind, shape)
		}
		b.raw(`</t:Folders></m:RootFolder></m:`, message, `>`)
	}
	return nil
}

// resolveNames finds mailboxes by the beginning of their address.
func (c *call) resolveNames(b *markup) *soapFault {
	const (
		message  = "ResolveNamesResponseMessage"
		maxFound = 100
	)
	entry := normal(c.body.kid(nsMessages, "UnresolvedEntry").value())
	if entry == "" {
		return badRequest("The element 'ResolveNames' has incomplete content.")
	}
	entry = strings.TrimPrefix(entry, "smtp:")
	var found []string
	c.x.mu.Lock()
	if box := c.x.find(entry); box != nil {
		found = append(found, box.address)
	} else {
		for address := range c.x.boxes {
			if strings.HasPrefix(address, entry) && len(found) < maxFound {
				found = append(found, address)
			}
		}
	}
	c.x.mu.Unlock()
	if len(found) == 0 {
		b.responseError(message, "ErrorNameResolutionNoResults", "No results were found.")
		return nil
	}
	total := strconv.Itoa(len(found))
	b.success(message)
	b.raw(`<m:ResolutionSet TotalItemsInView="`, total, `" IncludesLastItemInRange="true">`)
	for _, address := range found {
		local, _, _ := strings.Cut(address, "@")
		b.raw(`<t:Resolution><t:Mailbox>`)
		b.element("t:Name", local)
		b.element("t:EmailAddress", address)
		b.raw(`<t:RoutingType>SMTP</t:RoutingType><t:MailboxType>Mailbox</t:MailboxType></t:Mailbox></t:Resolution>`)
	}
	b.raw(`</m:ResolutionSet></m:`, message, `>`)
	return nil
}
