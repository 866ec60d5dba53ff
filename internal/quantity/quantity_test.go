package quantity

import "testing"

func TestOneIsNotSeveral(t *testing.T) {
	for n, want := range map[int]string{0: "0 mailboxes", 1: "1 mailbox", 2: "2 mailboxes", 1001: "1001 mailboxes"} {
		if got := Of(n, "mailbox", "mailboxes"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
