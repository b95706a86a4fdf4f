package state

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// must fails the test if a Set did not take place.
func must(t *testing.T, s *Store, key, value string, o SetOptions) node.Time {
	t.Helper()
	set, version, err := s.Set(t.Context(), key, []byte(value), o)
	if err != nil || !set {
		t.Fatalf("Set(%s, %s) = %v, %v", key, value, set, err)
	}
	return version
}

// want checks what a key has; "-" is nothing.
func want(t *testing.T, s *Store, key, value string) {
	t.Helper()
	got, ok := s.Get(key)
	text := string(got.Data)
	if !ok {
		text = "-"
	}
	if text != value {
		t.Errorf("%s is %q, want %q", key, text, value)
	}
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// The rules of the protocol, one promise per line; each in memory and on a disk.
func TestRules(t *testing.T) {
	low, high := node.Time{Nanos: 1e9}, node.Time{Nanos: 2e9}
	for _, c := range []struct {
		promise string
		test    func(t *testing.T, s *Store)
	}{
		{"a value is read as it was set", func(t *testing.T, s *Store) {
			want(t, s, "k", "-")
			must(t, s, "k", "\x00\xff", SetOptions{})
			want(t, s, "k", "\x00\xff")
			must(t, s, "k", "", SetOptions{})
			want(t, s, "k", "")
		}},
		{"NX sets an absent key only", func(t *testing.T, s *Store) {
			first := must(t, s, "k", "1", SetOptions{If: IfAbsent})
			set, version, err := s.Set(t.Context(), "k", []byte("1"), SetOptions{If: IfAbsent})
			if set || err != nil || version != first {
				t.Errorf("got %v, %v, %v", set, version, err)
			}
		}},
		{"NEX sets an absent or equal key only", func(t *testing.T, s *Store) {
			must(t, s, "k", "1", SetOptions{If: IfAbsentEqual})
			must(t, s, "k", "1", SetOptions{If: IfAbsentEqual})
			if set, _, err := s.Set(t.Context(), "k", []byte("2"), SetOptions{If: IfAbsentEqual}); set || err != nil {
				t.Errorf("got %v, %v", set, err)
			}
			want(t, s, "k", "1")
		}},
		{"DEL says whether there was a key", func(t *testing.T, s *Store) {
			must(t, s, "k", "1", SetOptions{})
			for _, n := range []int{1, 0} {
				if got, _, err := s.Del(t.Context(), "k", nil, node.Time{}); got != n || err != nil {
					t.Errorf("got %d, %v; want %d", got, err, n)
				}
			}
			want(t, s, "k", "-")
		}},
		{"VDEL deletes an equal value only", func(t *testing.T, s *Store) {
			must(t, s, "k", "1", SetOptions{})
			for _, step := range []struct {
				value string
				n     int
			}{{"2", -1}, {"1", 1}, {"1", 0}} {
				if got, _, err := s.DelIf(t.Context(), "k", []byte(step.value), nil, node.Time{}); got != step.n || err != nil {
					t.Errorf("VDEL %s: %d, %v; want %d", step.value, got, err, step.n)
				}
			}
		}},
		{"versions rise, and are above the time of the request", func(t *testing.T, s *Store) {
			at := node.TimeOf(time.Now().Add(30 * time.Second))
			last := must(t, s, "k", "1", SetOptions{At: at})
			if !at.Before(last) {
				t.Errorf("version %v is not above %v", last, at)
			}
			for range 5 {
				next := must(t, s, "k", "1", SetOptions{})
				if !last.Before(next) {
					t.Errorf("version %v follows %v", next, last)
				}
				last = next
			}
			if v, _ := s.Get("k"); v.Version != last {
				t.Errorf("Get has version %v, want %v", v.Version, last)
			}
		}},
		{"a request from the future is refused", func(t *testing.T, s *Store) {
			_, _, err := s.Set(t.Context(), "k", nil, SetOptions{At: node.TimeOf(time.Now().Add(2 * time.Minute))})
			if !errors.Is(err, ErrFuture) {
				t.Error(err)
			}
		}},
		{"an empty key is refused", func(t *testing.T, s *Store) {
			if _, _, err := s.Set(t.Context(), "", nil, SetOptions{}); !errors.Is(err, ErrKeyLength) {
				t.Error(err)
			}
		}},
		{"a fencing token protects a key from older ones and from none", func(t *testing.T, s *Store) {
			must(t, s, "k", "0", SetOptions{})
			must(t, s, "k", "1", SetOptions{Fence: &low})
			if _, _, err := s.Set(t.Context(), "k", nil, SetOptions{}); !errors.Is(err, ErrNeedFence) {
				t.Error("no token:", err)
			}
			must(t, s, "k", "2", SetOptions{Fence: &low})
			must(t, s, "k", "3", SetOptions{Fence: &high})
			if _, _, err := s.Set(t.Context(), "k", nil, SetOptions{Fence: &low}); !errors.Is(err, ErrLowFence) {
				t.Error("older token:", err)
			}
			if _, _, err := s.Del(t.Context(), "k", &low, node.Time{}); !errors.Is(err, ErrLowFence) {
				t.Error("DEL with an older token:", err)
			}
			if _, _, err := s.DelIf(t.Context(), "k", []byte("3"), nil, node.Time{}); !errors.Is(err, ErrNeedFence) {
				t.Error("VDEL without a token:", err)
			}
			if n, _, err := s.Del(t.Context(), "k", &high, node.Time{}); n != 1 || err != nil {
				t.Error(n, err)
			}
		}},
		{"what does not fit is refused, and costs nothing", func(t *testing.T, s *Store) {
			big := strings.Repeat("x", MaxEntry/2)
			must(t, s, "a", big, SetOptions{})
			must(t, s, "a", big, SetOptions{})
			if _, _, err := s.Set(t.Context(), "b", make([]byte, MaxEntry+1), SetOptions{}); !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
			s.most = MaxEntry
			if _, _, err := s.Set(t.Context(), "b", []byte(big), SetOptions{}); !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
			want(t, s, "b", "-")
			must(t, s, "a", "small", SetOptions{})
			must(t, s, "b", big, SetOptions{})
		}},
		{"watchers of a key learn its changes in order", func(t *testing.T, s *Store) {
			var got []string
			stop := s.Watch("k", func(c Change) { got = append(got, fmt.Sprintf("%s %v", c.Data, c.Deleted)) })
			must(t, s, "k", "1", SetOptions{})
			must(t, s, "other", "1", SetOptions{})
			must(t, s, "k", "2", SetOptions{})
			if _, _, err := s.Del(t.Context(), "k", nil, node.Time{}); err != nil {
				t.Fatal(err)
			}
			stop()
			must(t, s, "k", "3", SetOptions{})
			if w := []string{"1 false", "2 false", " true"}; !slices.Equal(got, w) {
				t.Errorf("got %q, want %q", got, w)
			}
		}},
		{"the revision changes with the value", func(t *testing.T, s *Store) {
			must(t, s, "k", "1", SetOptions{})
			first, _ := s.Get("k")
			again, _ := s.Get("k")
			must(t, s, "k", "1", SetOptions{})
			next, _ := s.Get("k")
			if first.Revision != again.Revision || first.Revision >= next.Revision {
				t.Errorf("revisions %d, %d, %d", first.Revision, again.Revision, next.Revision)
			}
		}},
		{"after Close there is an error", func(t *testing.T, s *Store) {
			must(t, s, "k", "1", SetOptions{})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Set(t.Context(), "k", nil, SetOptions{}); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.promise, func(t *testing.T) {
			t.Run("memory", func(t *testing.T) { c.test(t, NewMemory(Options{})) })
			t.Run("disk", func(t *testing.T) { c.test(t, open(t, t.TempDir())) })
		})
	}
}

func TestValuesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemory(Options{MaxBytes: 400})
		must(t, s, "k", "1", SetOptions{Expires: 10 * time.Second})
		must(t, s, "l", "1", SetOptions{Expires: time.Hour})
		time.Sleep(10*time.Second - time.Nanosecond)
		want(t, s, "k", "1")
		time.Sleep(time.Nanosecond)
		want(t, s, "k", "-")
		must(t, s, "m", "1", SetOptions{If: IfAbsent}) // takes the room of k
		must(t, s, "l", "2", SetOptions{})             // lives for ever now
		time.Sleep(2 * time.Hour)
		want(t, s, "l", "2")
	})
}

func TestARestartKeepsValuesVersionsFencesAndExpiry(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	fence := node.Time{Nanos: 5e9, Counter: 3, Node: "n"}
	must(t, s, "gone", "1", SetOptions{})
	must(t, s, "soon", "1", SetOptions{Expires: time.Nanosecond})
	must(t, s, "later", "1", SetOptions{Expires: time.Hour})
	must(t, s, "fenced", "1", SetOptions{Fence: &fence})
	version := must(t, s, "k", "1", SetOptions{At: node.TimeOf(time.Now().Add(50 * time.Second))})
	if _, _, err := s.Del(t.Context(), "gone", nil, node.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	want(t, s, "gone", "-")
	want(t, s, "soon", "-")
	want(t, s, "later", "1")
	if v, _ := s.Get("k"); v.Version != version {
		t.Errorf("version %v, want %v", v.Version, version)
	}
	if _, _, err := s.Set(t.Context(), "fenced", nil, SetOptions{}); !errors.Is(err, ErrNeedFence) {
		t.Error(err)
	}
	if next := must(t, s, "k", "2", SetOptions{}); !version.Before(next) {
		t.Errorf("after the restart version %v follows %v", next, version)
	}
}

// TestWhatAGuestMakesUpHarmsNoOther: modules give times, tokens and lifetimes of their own.
func TestWhatAGuestMakesUpHarmsNoOther(t *testing.T) {
	s := open(t, t.TempDir())
	at := node.TimeOf(time.Now().Add(30 * time.Second))
	at.Counter = math.MaxUint64
	if version := must(t, s, "k", "1", SetOptions{At: at}); !at.Before(version) {
		t.Errorf("version %v is not above %v", version, at)
	}
	must(t, s, "long", "1", SetOptions{Expires: math.MaxInt64})
	want(t, s, "long", "1")
	fence := node.Time{Nanos: 1, Node: strings.Repeat("x", MaxEntry)}
	if _, _, err := s.Set(t.Context(), "k", nil, SetOptions{Fence: &fence}); !errors.Is(err, ErrQuota) {
		t.Errorf("a fencing token of a megabyte: %v", err)
	}
	fence.Node = fence.Node[:MaxEntry/2]
	before := s.bytes
	must(t, s, "fenced", "1", SetOptions{Fence: &fence})
	if s.bytes-before < MaxEntry/2 {
		t.Errorf("the token counts %d bytes", s.bytes-before)
	}
}

// TestAValueIsTheCallersAgainAfterItsContext: a change that is given up while the disk is away
// takes place later as it was asked for, although the caller has used its memory for something
// else.
func TestAValueIsTheCallersAgainAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		s := openSmall(t, disk, "the start")
		disk.SetFault(func(int, string, string) error { return memdisk.ErrIO })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		value := []byte("asked for")
		if set, version, err := s.Set(ctx, "k", value, SetOptions{}); set || version != (node.Time{}) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Set: %v, %v, %v", set, version, err)
		}
		copy(value, "something")
		disk.SetFault(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		want(t, s, "k", "asked for")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestALogThatCannotBeReadIsNoEmptyOne: a store without its values would let go of them for good.
func TestALogThatCannotBeReadIsNoEmptyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		s := openSmall(t, disk, "the start")
		for i := range 20 {
			must(t, s, fmt.Sprint("k", i), strings.Repeat("x", 20), SetOptions{})
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for fail := range 40 {
			reads := 0
			disk.SetDeny(func(op, _ string) error {
				if op == "read" {
					if reads++; reads > fail {
						return memdisk.ErrIO
					}
				}
				return nil
			})
			s, err := Open("/store", small(disk))
			disk.SetDeny(nil)
			if err != nil {
				continue
			}
			for i := range 20 {
				want(t, s, fmt.Sprint("k", i), strings.Repeat("x", 20))
			}
			if err := s.Close(); err != nil || t.Failed() {
				t.Fatalf("the disk fails after %d reads: %v", fail, err)
			}
		}
	})
}

// TestAStoreThatIsFullSweepsOnceInACommit, however many requests it has.
func TestAStoreThatIsFullSweepsOnceInACommit(t *testing.T) {
	s := NewMemory(Options{MaxBytes: 1000})
	must(t, s, "k", strings.Repeat("x", 800), SetOptions{})
	p := pending{store: s, now: time.Now(), changed: map[string]*entry{}, bytes: s.bytes}
	for range 3 {
		r := &request{kind: opSet, key: "l", value: []byte("1")}
		if p.decide(r); !errors.Is(r.err, ErrQuota) {
			t.Error(r.err)
		}
		s.entries["dead"] = &entry{expires: 1} // a sweep would delete it
	}
	if len(p.changes) > 0 {
		t.Error("there was another sweep")
	}
}

// A log that is rewritten again and again stays bounded, and a restart after any of it has what a
// plain map has.
func TestTheLogIsRewrittenWhenItOutgrowsTheValues(t *testing.T) {
	dir, r, model := t.TempDir(), rand.New(rand.NewPCG(1, 2)), map[string]string{}
	s := open(t, dir)
	rewritten := false
	for i := range 900 {
		key := fmt.Sprint("k", r.IntN(50))
		if r.IntN(4) == 0 {
			if _, _, err := s.Del(t.Context(), key, nil, node.Time{}); err != nil {
				t.Fatal(err)
			}
			delete(model, key)
		} else {
			value := strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(50_000))
			must(t, s, key, value, SetOptions{})
			model[key] = value
		}
		if i%300 == 299 {
			rewritten = rewritten || s.log.Stats().Acked > 0
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			for key := range 50 {
				value, ok := model[fmt.Sprint("k", key)]
				if !ok {
					value = "-"
				}
				if got, _ := s.Get(fmt.Sprint("k", key)); ok && string(got.Data) != value {
					t.Fatalf("k%d has %d bytes, want %d", key, len(got.Data), len(value))
				} else if !ok {
					want(t, s, fmt.Sprint("k", key), "-")
				}
			}
		}
	}
	if got := s.log.Stats().QueuedBytes; got > 2*s.bytes+spare+4<<20 {
		t.Errorf("the log has %d bytes for values of %d", got, s.bytes)
	}
	if !rewritten {
		t.Error("the log was never rewritten")
	}
}

func TestManyWritersShareCommits(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	var sum sync.Map
	for i := range 64 {
		wg.Go(func() {
			for range 50 {
				for { // a counter by compare and set, as modules count: lock, add, unlock
					set, version, err := s.Set(t.Context(), "lock", fmt.Append(nil, i), SetOptions{If: IfAbsent})
					if err != nil {
						t.Error(err)
						return
					}
					if !set {
						continue
					}
					v, _ := s.Get("n")
					var n int
					_, _ = fmt.Sscan(string(v.Data), &n)
					if _, _, err := s.Set(t.Context(), "n", fmt.Append(nil, n+1), SetOptions{Fence: &version}); err != nil {
						t.Error(err)
					}
					if got, _, err := s.DelIf(t.Context(), "lock", fmt.Append(nil, i), nil, node.Time{}); got != 1 || err != nil {
						t.Error(got, err)
					}
					sum.Store(i, true)
					break
				}
			}
		})
		if i == 7 {
			break // eight writers are enough to meet each other
		}
	}
	wg.Wait()
	want(t, s, "n", "400")
}

func TestARequestGivesUpWithItsContext(t *testing.T) {
	s := NewMemory(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		set, _, err := s.Set(ctx, "k", nil, SetOptions{})
		if err == nil && !set || err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, %v", set, err)
		}
	}
}

func TestForeignBytesInTheLogAreAnError(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, {9, 1, 0}, {1, 1, 0, 200}, {1, 1, 2, 1, 'k'}, []byte("{}")} {
		if _, err := parseChange(b); !errors.Is(err, errForm) {
			t.Errorf("%v: %v", b, err)
		}
	}
}

func FuzzParseChange(f *testing.F) {
	fence := node.Time{Nanos: 1, Counter: 2, Node: "x"}
	c := change{kind: opSet, key: "k", data: []byte("v"), version: node.Time{Nanos: 7, Node: "n"}, fence: &fence, expires: 3}
	f.Add(c.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChange(b)
		if err != nil {
			return
		}
		again, err := parseChange(c.append(nil))
		if err != nil || again.key != c.key || string(again.data) != string(c.data) || again.version != c.version || again.expires != c.expires {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	s := NewMemory(Options{})
	_, _, _ = s.Set(b.Context(), "k", []byte("v"), SetOptions{})
	for b.Loop() {
		s.Get("k")
	}
}

func BenchmarkDurableSet(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	value := make([]byte, 100)
	b.SetParallelism(64)
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			if _, _, err := s.Set(context.Background(), fmt.Sprint("k", i%1000), value, SetOptions{}); err != nil {
				b.Error(err)
			}
		}
	})
}
