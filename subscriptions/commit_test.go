package subscriptions

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

func TestACommitIsBoundedHoweverManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		began, free := make(chan struct{}), make(chan struct{})
		c := newCommitter(func(batch []int) []error {
			if len(sizes) == 0 {
				close(began)
				<-free // the first commit takes its time, and all the others come meanwhile
			}
			sizes = append(sizes, len(batch))
			return nil
		})
		var all sync.WaitGroup
		write := func() {
			all.Go(func() {
				if err := c.write(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		}
		write()
		<-began
		for range 2000 {
			write()
		}
		synctest.Wait()
		close(free)
		all.Wait()
		c.close()
		written := 0
		for _, n := range sizes {
			written += n
		}
		if written != 2001 || sizes[0] != 1 || slices.Max(sizes) != 512 {
			t.Errorf("%d changes in commits of %v: what waits goes together, and no more than 512", written, sizes)
		}
	})
}

func TestEachChangeOfACommitHasItsOwnError(t *testing.T) {
	bad := errors.New("the second is bad")
	synctest.Test(t, func(t *testing.T) {
		first := true
		began, free := make(chan struct{}), make(chan struct{})
		c := newCommitter(func(batch []int) []error {
			if first {
				first = false
				close(began)
				<-free
				return nil
			}
			errs := make([]error, len(batch))
			for i, change := range batch {
				if change == 2 {
					errs[i] = bad
				}
			}
			return errs
		})
		defer c.close()
		var all sync.WaitGroup
		all.Go(func() { _ = c.write(t.Context(), 0) })
		<-began
		for i, want := range []error{1: nil, 2: bad, 3: nil} {
			all.Go(func() {
				if err := c.write(t.Context(), i); !errors.Is(err, want) {
					t.Errorf("change %d: %v, want %v", i, err, want)
				}
			})
		}
		synctest.Wait()
		close(free)
		all.Wait()
	})
}

func TestABadChangeDoesNotFailThoseThatAreCommittedWithIt(t *testing.T) {
	s, err := OpenEmbedded(filepath.Join(t.TempDir(), "mailbell.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good, bad := &Record{ID: "good", Addresses: []string{"a@b.example"}}, &Record{ID: strings.Repeat("x", 1<<16)} // longer than a key of the file can be
	var batch [][]entryPut
	for _, r := range []*Record{good, bad, {ID: "other", Addresses: good.Addresses}} {
		puts, err := new(Embedded).encode(Change{Put: []*Record{r}})
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, puts)
	}
	if errs := s.commit(batch); len(errs) != 3 || errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("errors %v, want one for the second alone", errs)
	}
	if all, err := s.Load(t.Context()); err != nil || len(all.Records) != 2 {
		t.Errorf("%d records, %v", len(all.Records), err)
	}
}

// A little finds room on a full disk where a record does not.
func TestAProbeWritesAsMuchAsWasNotTakenTheLastTime(t *testing.T) {
	s, err := OpenEmbedded(filepath.Join(t.TempDir(), "mailbell.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	probed := func() int {
		t.Helper()
		if err := s.try(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := 0
		_ = s.db.View(func(tx *bbolt.Tx) error { n = len(tx.Bucket(bucketMeta).Get(keyProbe)); return nil })
		return n
	}
	if n := probed(); n != 1 {
		t.Errorf("a probe of %d bytes", n)
	}
	tooLong := Change{Put: []*Record{{ID: strings.Repeat("x", 1<<16), Addresses: []string{"a@b.example"}}}}
	if err := s.Write(t.Context(), tooLong); err == nil {
		t.Fatal("it was written")
	}
	if n := probed(); n < 1<<16 {
		t.Errorf("a probe of %d bytes after a write of more was not taken", n)
	}
	if n := probed(); n != 1 {
		t.Errorf("a probe of %d bytes after one that was taken", n)
	}
	if err := s.Write(t.Context(), Change{}); err != nil {
		t.Error(err)
	}
	s.refused.Store(1 << 40)
	if n := probed(); n != maxProbe+copied {
		t.Errorf("a probe of %d bytes", n)
	}
}

// While enrolments are refused for want of room, the state takes no writes, also where a record that is there finds room to change. The limit
// of the size of a file stands for the end of the disk.
func TestAStateWithoutRoomForAnEnrolmentTakesNoWrites(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mailbell.db")
	s, err := OpenEmbedded(file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(l syscall.Rlimit) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	limit(syscall.Rlimit{Cur: uint64(info.Size()), Max: before.Max})
	defer limit(before)
	enrol := func(i int) error {
		return s.Write(t.Context(), Change{Put: []*Record{{ID: strconv.Itoa(i), Addresses: []string{strings.Repeat("x", 3000) + "@b.example"}}}})
	}
	n := 0
	for err = enrol(n); err == nil && n < 1000; err = enrol(n) {
		n++
	}
	if err == nil || n == 0 {
		t.Fatalf("enrolment %d: %v", n, err)
	}
	for range 3 {
		if err := s.try(t.Context()); err == nil {
			t.Error("a probe is taken while enrolments are refused")
		}
		if err := s.committer.write(t.Context(), []entryPut{{bucket: bucketMeta, key: keyProbe, value: []byte("a little")}}); err != nil {
			t.Fatal(err)
		}
	}
	limit(before)
	if err := errors.Join(s.try(t.Context()), enrol(n)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestWhatIsQueuedWhenTheStoreClosesIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written []int
		began, free := make(chan struct{}), make(chan struct{})
		c := newCommitter(func(batch []int) []error {
			if len(written) == 0 {
				close(began)
				<-free
			}
			written = append(written, batch...)
			return nil
		})
		errs := make(chan error, 2)
		go func() { errs <- c.write(t.Context(), 1) }()
		<-began
		go func() { errs <- c.write(t.Context(), 2) }()
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			c.close()
			close(closed)
		}()
		synctest.Wait()
		if err := c.open(); err == nil {
			t.Error("a store that is being closed is open")
		}
		if err := c.write(t.Context(), 3); !errors.Is(err, errClosed) {
			t.Errorf("a change after the end: %v", err)
		}
		close(free)
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		<-closed
		if !slices.Equal(written, []int{1, 2}) {
			t.Errorf("written is %v", written)
		}
	})
}

// A Redis that was frozen left 125 of 200 enrolments without an answer.
func TestAWaitForACommitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var written []int
		c := newCommitter(func(batch []int) []error {
			<-free
			written = append(written, batch...)
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				if err := c.write(ctx, i); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("change %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the answers came after %v", took)
		}
		close(free)
		c.close()
		if len(written) != 200 {
			t.Errorf("%d of 200 changes were written: what is queued is committed", len(written))
		}
	})
}

func TestWhoHasGoneIsNotQueued(t *testing.T) {
	c := newCommitter(func([]int) []error {
		t.Error("it was committed")
		return nil
	})
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.write(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhoWaitsForRoomInTheQueueGoesWhenHeWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		c := newCommitter(func([]int) []error {
			<-free
			return nil
		})
		var all sync.WaitGroup
		for range 1 + maxCommit { // one is under way, the rest fill the queue
			all.Go(func() { _ = c.write(t.Context(), 0) })
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- c.write(ctx, 1) }()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go func() { left <- c.write(t.Context(), 1) }()
		synctest.Wait()
		all.Go(c.close)
		if err := <-left; !errors.Is(err, errClosed) {
			t.Errorf("one that waits for room while the store closes: %v", err)
		}
		close(free)
		all.Wait()
	})
}
