package exchange

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		dir, missing := schema()
		if missing == "" {
			if wrong, err := sent.invalid(dir); err != nil || wrong != "" {
				fmt.Fprintf(os.Stderr, "--- FAIL: messages that are not valid against the EWS schema:\n%s%v\n", wrong, err)
				code = 1
			}
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}
