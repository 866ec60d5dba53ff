package listener

// Placement: few streams, whatever the order in which mailboxes come, and nobody moved for it.

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// uneven are the sizes of so many groupings of uneven size, with so many mailboxes together.
func uneven(groupings, mailboxes int) (sizes []int) {
	weight := 0.0
	for i := range groupings {
		weight += 1 / float64(i+1)
	}
	left := mailboxes
	for i := range groupings {
		n := min(left, max(1, int(float64(mailboxes)/weight/float64(i+1))))
		sizes = append(sizes, n)
		left -= n
	}
	sizes[0] += left
	return sizes
}

// company is mailboxes of several groupings, and where they sit.
type company struct {
	s   *seats
	at  map[*mailbox]grouping
	had map[*mailbox]*account
}

func newCompany(accounts, size int) *company {
	c := &company{at: map[*mailbox]grouping{}, had: map[*mailbox]*account{}}
	var list []*account
	for i := range accounts {
		list = append(list, &account{Account: &Account{Name: fmt.Sprint("account-", i)}})
	}
	c.s = newSeats(list, size, 200)
	return c
}

// come has a mailbox take a seat.
func (c *company) come(t *testing.T, m *mailbox, of grouping) {
	t.Helper()
	a := c.s.take(m, "", of)
	if a == nil {
		t.Fatal("no room, and there is")
	}
	c.at[m], c.had[m] = of, a
}

// seated is how many have a seat.
func (c *company) seated() (n int) {
	for _, load := range c.s.load {
		n += load
	}
	return n
}

// streams is how many streams of 200 the company needs, and how many there are to be at most.
func (c *company) streams() (n, most int) {
	type place struct {
		a  *account
		of grouping
	}
	of, groupings := map[place]int{}, map[grouping]bool{}
	for m, a := range c.had {
		of[place{a, c.at[m]}]++
		groupings[c.at[m]] = true
	}
	for _, mailboxes := range of {
		n += (mailboxes + 199) / 200
	}
	return n, (len(c.had)+199)/200 + len(groupings) + len(c.s.accounts)
}

func TestFewStreamsServeUnevenGroupingsInWhateverOrderTheyCome(t *testing.T) {
	const accounts, size, groupings = 12, 1250, 40
	for _, mailboxes := range []int{400, 3000, 9000, 12_000, 13_500, 15_000} {
		var inOrder []grouping
		for i, n := range uneven(groupings, mailboxes) {
			inOrder = append(inOrder, slices.Repeat([]grouping{{"https://mail.example", fmt.Sprint("site-", i)}}, n)...)
		}
		atRandom := slices.Clone(inOrder)
		dice := rand.New(rand.NewPCG(1, uint64(mailboxes)))
		dice.Shuffle(len(atRandom), func(i, j int) { atRandom[i], atRandom[j] = atRandom[j], atRandom[i] })
		for name, order := range map[string][]grouping{"one grouping after the other": inOrder, "at random": atRandom} {
			c := newCompany(accounts, size)
			for _, of := range order {
				c.come(t, &mailbox{}, of)
			}
			n, most := c.streams()
			if name == "at random" && mailboxes > accounts*size*9/10 { // the last seats are taken as they are
				most += 2 * groupings
			}
			t.Logf("%d mailboxes of %d groupings, %s: %d streams, at most %d", mailboxes, groupings, name, n, most)
			if n > most {
				t.Errorf("%d mailboxes, %s: %d streams, want at most %d", mailboxes, name, n, most)
			}
			for a, load := range c.s.load {
				if load > size {
					t.Errorf("%s has %d mailboxes", a.Name, load)
				}
			}
		}
	}
}

func TestFewStreamsServeThemAfterManyHaveLeftAndCome(t *testing.T) {
	const groupings, mailboxes = 40, 13_500
	c := newCompany(12, 1250)
	var all []grouping
	for i, n := range uneven(groupings, mailboxes) {
		all = append(all, slices.Repeat([]grouping{{"https://mail.example", fmt.Sprint("site-", i)}}, n)...)
	}
	dice := rand.New(rand.NewPCG(2, 2))
	dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, of := range all {
		c.come(t, &mailbox{}, of)
	}
	for range 20 {
		var back []grouping
		for _, m := range slices.Collect(maps.Keys(c.had)) {
			if dice.IntN(4) > 0 {
				continue
			}
			back = append(back, c.at[m])
			c.s.leave(m)
			delete(c.had, m)
			delete(c.at, m)
		}
		kept := maps.Clone(c.had)
		for _, of := range back {
			c.come(t, &mailbox{}, of)
		}
		for m, a := range kept {
			if c.had[m] != a || c.s.take(m, "", c.at[m]) != a {
				t.Fatal("a mailbox that stayed was moved")
			}
		}
	}
	n, most := c.streams()
	t.Logf("%d streams, at most %d", n, most)
	if n > most {
		t.Errorf("%d streams, want at most %d", n, most)
	}
	for m := range c.had {
		c.s.leave(m)
	}
	if len(c.s.crowds) > 0 || c.seated() > 0 {
		t.Errorf("all have left, and %d seats and %d groupings are remembered", c.seated(), len(c.s.crowds))
	}
}

func TestAMailboxThatMovesToAnotherGroupingSitsWithIt(t *testing.T) {
	c := newCompany(2, 10)
	a, b := grouping{group: "a"}, grouping{group: "b"}
	first := &mailbox{}
	c.come(t, first, a)
	for range 5 {
		c.come(t, &mailbox{}, b)
	}
	if c.s.take(first, c.had[first].Name, b) != c.had[first] && c.s.crowds[b].load[first.room.account] != 6 {
		t.Error("it sits alone")
	}
	if c.s.crowds[a] != nil || c.seated() != 6 {
		t.Errorf("%v", c.s.crowds)
	}
}

func TestSeatsOfTheLastRunAreNotGivenToOthers(t *testing.T) {
	c := newCompany(1, 2)
	kept := []*mailbox{{}, {}}
	for _, m := range kept {
		if c.s.keep(m, "account-0", grouping{}) == nil {
			t.Fatal("no seat")
		}
	}
	if c.s.keep(&mailbox{}, "account-0", grouping{}) != nil || c.s.keep(&mailbox{}, "account-9", grouping{}) != nil {
		t.Error("a seat that is none")
	}
	if c.s.take(&mailbox{}, "", grouping{}) != nil {
		t.Error("a seat that is another's")
	}
	if c.s.take(kept[1], "account-0", grouping{}) == nil {
		t.Error("its own seat is refused")
	}
}

func TestLittleRoomIsSaidFromFourFifthsOnAndTheNextWaitsWhereThereIsNone(t *testing.T) {
	const accounts, size = MaxAccounts, 1250
	c := newCompany(accounts, size)
	load := func() Load {
		l := Load{Exchange: "hq", Places: accounts * size, Waiting: c.s.queue()}
		for _, a := range c.s.accounts {
			l.Accounts = append(l.Accounts, AccountLoad{Mailboxes: c.s.taken(a)})
		}
		return l
	}
	var first *mailbox
	for i := range accounts * size {
		m := &mailbox{}
		if first == nil {
			first = m
		}
		c.come(t, m, grouping{})
		code := ""
		if f := load().Scarce(); f != nil {
			code = f.Code
		}
		want := ""
		switch n := i + 1; {
		case n == accounts*size:
			want = codeNoCapacity
		case n >= accounts*size*lowRoom/100:
			want = codeLow
		}
		if code != want {
			t.Fatalf("with %d mailboxes: %q, want %q", i+1, code, want)
		}
	}
	next := &mailbox{}
	if c.s.take(next, "", grouping{}) != nil || load().Waiting != 1 {
		t.Error("mailbox 15,001 has a place")
	}
	if c.s.leave(first) != next || load().Waiting != 0 || c.s.take(next, "", grouping{}) == nil {
		t.Error("it has none though there is room")
	}
}
