package setup

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestLinesAreReadWithoutTheirEnds(t *testing.T) {
	r := Lines(strings.NewReader("one\r\ntwo \n\nlast"))
	for _, want := range []string{"one", "two ", "", "last"} {
		if got, err := r.Line(t.Context()); err != nil || got != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	if _, err := r.Secret(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end the error is %v", err)
	}
}

func TestALineHasABound(t *testing.T) {
	longest := strings.Repeat("x", maxLine-1)
	if got, err := Lines(strings.NewReader(longest + "\n")).Line(t.Context()); err != nil || got != longest {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := Lines(strings.NewReader(longest + "xx\n")).Line(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("the error is %v", err)
	}
}
