//go:build !linux

package systemd

import "errors"

// monotonic is for Linux: there is no systemd elsewhere.
func monotonic() (int64, error) { return 0, errors.ErrUnsupported }
