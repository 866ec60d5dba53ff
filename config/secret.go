package config

import (
	"fmt"
	"io"
)

// Secret is a value that must not be seen. However it is printed, it shows as ***; string(s) is its value.
type Secret string

const hidden = "***"

// String hides the value.
func (Secret) String() string { return hidden }

// GoString hides the value from %#v.
func (Secret) GoString() string { return hidden }

// Format hides the value from every verb of fmt, %x and %d among them.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalJSON hides the value.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalYAML hides the value.
func (Secret) MarshalYAML() (any, error) { return hidden, nil }
