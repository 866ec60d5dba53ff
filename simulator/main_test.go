package simulator

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir, missing := schema(); missing == "" {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}
