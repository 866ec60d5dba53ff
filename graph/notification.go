package graph

// What Graph posts to a callback: change notifications and lifecycle notifications, several in one post, some perhaps of others.

import (
	"encoding/json"
	"errors"
	"io"
	"time"
)

const (
	// MaxNotifications bounds a post. A notification has less than a kilobyte, with content a few.
	MaxNotifications = 4 << 20
	// maxItems bounds the notifications of one post: of 4 MiB they would be shorter than any that says something.
	maxItems = 10_000
	// maxTokens bounds the validation tokens of one post: one for each app and tenant in it.
	maxTokens = 100
)

// The lifecycle notifications.
const (
	ReauthorizationRequired = "reauthorizationRequired" // the subscription needs a new access token, or it tells nothing more
	SubscriptionRemoved     = "subscriptionRemoved"     // a new one is needed
	Missed                  = "missed"                  // notifications were lost
)

// Post is what was posted. Nothing in it is to be believed before it is compared with what is known.
type Post struct {
	Notifications []Notification
	Tokens        []string // validation tokens: with content only
}

// Notification is one change notification or lifecycle notification.
type Notification struct {
	Subscription string
	ClientState  string    // the secret that the subscription was made with
	Expires      time.Time // of the subscription; zero: it does not say
	Tenant       string
	Change       string     // created; empty: a lifecycle notification
	Lifecycle    string     // one of the above, or one to come; empty: a change
	Item         string     // the id of the message
	Content      *Encrypted // the message; nil: it is to be read
}

// Encrypted is a message in a notification.
type Encrypted struct {
	Data          string `json:"data"`
	DataSignature string `json:"dataSignature"`
	DataKey       string `json:"dataKey"`
	CertificateID string `json:"encryptionCertificateId"`
	Thumbprint    string `json:"encryptionCertificateThumbprint"`
}

// notification is one element of value.
type notification struct {
	Subscription string `json:"subscriptionId"`
	ClientState  string `json:"clientState"`
	Expires      string `json:"subscriptionExpirationDateTime"`
	Tenant       string `json:"tenantId"`
	Change       string `json:"changeType"`
	Lifecycle    string `json:"lifecycleEvent"`
	Data         struct {
		ID string `json:"id"`
	} `json:"resourceData"`
	Content *Encrypted `json:"encryptedContent"`
}

var errPost = errors.New("it is not a post of Microsoft Graph")

// ParseNotifications reads a post, up to MaxNotifications of it. It passes over what it does not know, and any notification that is not
// what it should be: the others count.
func ParseNotifications(r io.Reader) (Post, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxNotifications+1))
	switch {
	case err != nil:
		return Post{}, err
	case len(body) > MaxNotifications:
		return Post{}, errors.New("the post is too large")
	}
	var whole struct {
		Value  []json.RawMessage `json:"value"`
		Tokens json.RawMessage   `json:"validationTokens"`
	}
	if json.Unmarshal(body, &whole) != nil { // its error may quote what it parses
		return Post{}, errPost
	}
	if len(whole.Value) > maxItems {
		return Post{}, errors.New("the post has too many notifications")
	}
	post := Post{Notifications: make([]Notification, 0, len(whole.Value))}
	for _, raw := range whole.Value {
		var n notification
		if json.Unmarshal(raw, &n) != nil || n.Subscription == "" && n.ClientState == "" {
			continue
		}
		post.Notifications = append(post.Notifications, Notification{
			Subscription: n.Subscription, ClientState: n.ClientState, Expires: parseTime(n.Expires), Tenant: n.Tenant,
			Change: n.Change, Lifecycle: n.Lifecycle, Item: n.Data.ID, Content: n.Content,
		})
	}
	if json.Unmarshal(whole.Tokens, &post.Tokens) != nil || len(post.Tokens) > maxTokens {
		post.Tokens = nil
	}
	return post, nil
}
