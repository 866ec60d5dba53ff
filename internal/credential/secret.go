package credential

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a value that must not be seen: a password, a key, a token. However it is printed, logged or encoded, it shows as ***;
// string(s) is its value.
type Secret string

// Hidden is how a secret shows.
const Hidden = "***"

// String hides the value.
func (Secret) String() string { return Hidden }

// GoString hides the value from %#v.
func (Secret) GoString() string { return Hidden }

// Format hides the value from every verb of fmt, %x and %d among them.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Hidden) }

// MarshalText hides the value.
func (Secret) MarshalText() ([]byte, error) { return []byte(Hidden), nil }

// MarshalJSON hides the value.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + Hidden + `"`), nil }

// MarshalYAML hides the value.
func (Secret) MarshalYAML() (any, error) { return Hidden, nil }

// LogValue hides the value from log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(Hidden) }
