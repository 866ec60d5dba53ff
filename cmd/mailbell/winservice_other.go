//go:build !windows

package main

import (
	"context"
	"errors"
	"io"
)

const onWindows = false

// serviceDo is for Windows.
func serviceDo(context.Context, string, serviceOptions, io.Writer) error {
	return errors.ErrUnsupported
}
