package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
)

// Every call of the disk, in every path of the outbox, fails with every errno that says nothing
// about the data, and with one that does: once, for 10 s, and for ever. Intact messages are never
// lost, nothing loops, Stats and Report tell of the fault, and when the disk is well again every
// stored message is handed out.

// passingErrnos are the errnos that say nothing about the data.
var passingErrnos = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOENT, syscall.EACCES, syscall.EINTR, syscall.EAGAIN, syscall.EROFS, syscall.ENOSPC,
	syscall.EPERM, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ESTALE, syscall.ETIMEDOUT, syscall.EDQUOT, syscall.EBUSY, syscall.EIO,
}

// sweep is one run: a life in which a call fails, what it promised, and what came out in the end.
type sweep struct {
	t     *testing.T
	disk  *memdisk.FS
	got   reports
	b     *Box
	safe  map[string]bool // bodies that Append has promised
	came  map[string]string
	n     int
	gap   string // of what was set aside
	fails bool   // a call has failed

	mu     sync.Mutex
	calls  []string
	fault  int // the call that begins to fail
	errno  syscall.Errno
	length time.Duration // 0: that call alone
	wait   time.Duration // how long somebody reads while a fault lasts that does not end
	start  time.Time
	tries  int // calls that failed
}

// deny is asked before each call.
func (s *sweep) deny(op, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, op+" "+name)
	n := len(s.calls) - 1
	if s.fault < 0 || n < s.fault || s.fails && (s.length == 0 || time.Since(s.start) >= s.length) {
		return nil
	}
	if !s.fails {
		s.fails, s.start = true, time.Now()
	}
	what, _, _ := strings.Cut(s.calls[s.fault], " ")
	if n != s.fault && op != what {
		return nil // that call fails, and the others do not
	}
	s.tries++
	return s.errno
}

func (s *sweep) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = -1
}

func (s *sweep) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fails
}

func (s *sweep) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

func (s *sweep) lasted() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.start)
}

// open opens the box. Open may return only errors that need a person, as long as the fault lasts.
func (s *sweep) open() {
	s.t.Helper()
	o := Options{FS: s.disk, MaxBytes: 256 << 10, Report: s.got.add, For: Identity{IDScope: "0ne", Device: "d"}}
	for {
		b, err := Open("/box", o)
		if err == nil {
			s.b = b
			return
		}
		if !needsPerson(err) || !s.failed() {
			s.t.Fatalf("Open: %v", err)
		}
		if time.Sleep(time.Second); s.length > time.Minute {
			s.heal() // the person does
		}
	}
}

func (s *sweep) append(n int) {
	s.t.Helper()
	var ms []message.Message
	var made []string
	for range n {
		s.n++
		text := fmt.Sprintf("%d %s", s.n, strings.Repeat(".", 900))
		ms, made = append(ms, message.Message{Body: []byte(text)}), append(made, text)
	}
	if err := s.b.Append(context.Background(), ms...); err != nil {
		s.t.Fatal(err)
	}
	for _, text := range made {
		s.safe[text] = true
	}
}

// drain reads and acknowledges the records that come within a while.
func (s *sweep) drain(d time.Duration, most int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for after := uint64(0); most > 0; {
		r, err := next(ctx, s.b, after, min(most, 5))
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				s.t.Fatal(err)
			}
			return
		}
		for _, x := range r {
			if old, again := s.came[x.ID]; again && old != string(x.Body) {
				s.t.Fatalf("id %s names two messages", x.ID)
			}
			if x.Gap != "" && x.Gap != s.gap {
				s.t.Fatalf("%s tells of the gap %s", x.ID, x.Gap)
			}
			s.came[x.ID] = string(x.Body)
			if err := s.b.Ack(x.Pos); err != nil {
				s.t.Fatal(err)
			}
		}
		after, most = r[len(r)-1].Pos, most-len(r)
	}
}

// live uses every call of the disk: a backlog of several segments, their end, acknowledgements, a
// message that is set aside, a restart.
func (s *sweep) live() {
	s.open()
	for range 4 {
		s.append(4)
	}
	s.drain(20*time.Millisecond, 9)
	s.reopen()
	s.append(3)
	s.drain(20*time.Millisecond, 6)
	s.quarantine()
	time.Sleep(1500 * time.Millisecond) // acknowledgements are synced, segments deleted
	s.append(6)
	s.drain(20*time.Millisecond, 3)
	time.Sleep(12 * time.Second)
	s.append(4)
	s.drain(20*time.Millisecond, 5)
	time.Sleep(1500 * time.Millisecond)
	for range 2 { // it rests, and is woken
		s.drain(20*time.Millisecond, 100)
		time.Sleep(3 * time.Second)
		s.append(2)
	}
	s.drain(20*time.Millisecond, 1)
	time.Sleep(1500 * time.Millisecond)
}

func (s *sweep) quarantine() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	r, err := next(ctx, s.b, 0, 1)
	if err != nil {
		return
	}
	if err := s.b.Quarantine(r[0].Pos, errors.New("poison")); err != nil {
		s.t.Fatal(err)
	}
	delete(s.safe, string(r[0].Body))
	s.came["poison"] = string(r[0].Body)
	_, seq := splitID(s.t, r[0].ID)
	s.gap = fmt.Sprintf("%d-%d", seq, seq)
}

func (s *sweep) reopen() {
	s.t.Helper()
	degraded := s.b.Stats().Degraded
	if err := s.b.Close(); err != nil && !s.failed() {
		s.t.Fatal(err)
	} else if degraded && err != nil { // what was in memory is lost, and Close says so
		for _, text := range slices.Collect(maps.Keys(s.safe)) {
			s.safe[text] = false
		}
	}
	s.open()
}

// settle runs the box after the fault.
func (s *sweep) settle() {
	s.t.Helper()
	s.got.mu.Lock()
	told := len(s.got.all) > 0
	s.got.mu.Unlock()
	s.mu.Lock()
	fault, calls := max(s.fault, 0), slices.Clone(s.calls)
	s.mu.Unlock()
	if st := s.b.Stats(); s.failed() && s.length > time.Minute && !told && s.count() > 3 {
		s.t.Errorf("%d calls failed, and nobody was told: %+v", s.count(), st)
	}
	if s.length > time.Minute {
		s.drain(s.wait, 1<<20) // for hours, if need be
		s.append(1)
		s.drain(s.wait, 1<<20)
	}
	if most := 200 + int(s.lasted()/time.Second); s.failed() && s.count() > most {
		s.t.Errorf("%d calls failed in %v: somebody does not wait", s.count(), s.lasted())
	}
	s.heal()
	time.Sleep(11 * time.Second)
	s.drain(20*time.Millisecond, 1<<20)
	s.reopen() // with nothing written since the fault: what it has left behind must not count
	s.append(1)
	s.drain(time.Minute, 1<<20)
	time.Sleep(10 * time.Second)
	if st := s.b.Stats(); st.Queued > 0 || st.Degraded || st.Unreadable || st.AcksNotSaved || st.Err != nil {
		s.t.Errorf("on a disk that is well again: %+v", st)
	}
	aside := s.poison()
	closeBox(s.t, s.b)
	defer func() {
		if s.t.Failed() {
			s.t.Logf("call %d, %s, failed with %v for %v, %d times", fault, calls[fault], s.errno, s.length, s.count())
			for _, p := range s.got.all {
				s.t.Logf("reported: %v %s (%v)", p.Kind, p.Text, p.Err)
			}
		}
	}()
	arrived := map[string]bool{}
	for _, text := range s.came {
		arrived[text] = true
	}
	for text, sure := range s.safe {
		if sure && !arrived[text] {
			s.t.Errorf("%.9q was promised and never came", text)
		}
	}
	for _, hole := range holes(s.t, s.came, s.gap) {
		s.t.Errorf("%s never came, and no gap tells of it", hole)
	}
	if text := s.came["poison"]; text != "" && !aside[text] {
		s.t.Errorf("what was to be set aside is not there")
	}
	for _, p := range s.got.all {
		if p.Kind == Corrupt || p.Kind == Missing && p.Messages > 0 || p.Kind == Dropped || p.Kind == TornTail {
			s.t.Errorf("reported: %v %s (%v)", p.Kind, p.Text, p.Err)
		}
	}
	for name := range s.disk.Names {
		if strings.HasSuffix(name, badSuffix) {
			s.t.Errorf("%s was set aside", name)
		}
	}
}

// holes are the ids that a consumer must take for lost: numbers of an outbox id below the greatest
// that came, which did not come and are not in the gap of what was set aside.
func holes(t *testing.T, came map[string]string, gap string) (missing []string) {
	t.Helper()
	seqs := map[string]map[uint64]bool{}
	for id := range came {
		if id == "poison" {
			continue
		}
		box, seq := splitID(t, id)
		if seqs[box] == nil {
			seqs[box] = map[uint64]bool{}
		}
		seqs[box][seq] = true
	}
	for box, have := range seqs {
		for seq := range slices.Max(slices.Collect(maps.Keys(have))) {
			if seq > 0 && !have[seq] && gap != fmt.Sprintf("%d-%d", seq, seq) {
				missing = append(missing, fmt.Sprintf("%s-%d", box, seq))
			}
		}
	}
	slices.Sort(missing)
	return missing
}

// poison returns the content of the quarantine.
func (s *sweep) poison() map[string]bool {
	all := map[string]bool{}
	if f := s.disk.File("/box/" + quarantineName); f != nil {
		for q := range entries(strings.NewReader(string(f.Data))) {
			all[string(q.Body)] = true
		}
	}
	return all
}

func runSweep(t *testing.T, fault int, errno syscall.Errno, length time.Duration) (calls []string) {
	synctest.Test(t, func(t *testing.T) {
		s := &sweep{t: t, disk: memdisk.New(), safe: map[string]bool{}, came: map[string]string{}, fault: fault, errno: errno, length: length, wait: 2 * doubtFor}
		if fault%50 == 0 {
			s.wait = 3 * time.Hour
		}
		s.disk.Deny = s.deny
		s.live()
		s.settle()
		s.mu.Lock()
		defer s.mu.Unlock()
		calls = s.calls
	})
	return calls
}

const forEver = 1000 * time.Hour

func TestEveryCallFailsWithEveryErrno(t *testing.T) {
	t.Parallel()
	clean := runSweep(t, -1, 0, 0)
	kinds := map[string]int{}
	for _, call := range clean {
		kinds[call]++
	}
	for _, op := range []string{"mkdir", "lock", "list", "open", "create", "read", "write", "sync", "size", "stat", "truncate", "rename", "remove", "syncdir"} {
		if !slices.ContainsFunc(clean, func(c string) bool { return strings.HasPrefix(c, op+" ") }) {
			t.Errorf("the run has no %s", op)
		}
	}
	seen := map[string]int{}
	runs := 0
	for i, call := range clean {
		seen[call]++
		// The same call on the same file again and again is tried the first times, the last time,
		// and now and then.
		if n := seen[call]; n > 2 && n < kinds[call] && n%7 != 0 {
			continue
		}
		for j, errno := range passingErrnos {
			for k, length := range []time.Duration{0, 10 * time.Second, forEver} {
				if *moreSeeds == 1 && (i+j+k)%sweepShare != 0 {
					continue
				}
				if errno == syscall.EIO && length == forEver {
					continue // damage is believed in the end, see TestDamageIsBelievedInTheEnd
				}
				runs++
				runSweep(t, i, errno, length)
				if t.Failed() {
					t.Fatalf("call %d, %s, fails with %v for %v", i, call, errno, length)
				}
			}
		}
	}
	t.Logf("%d calls, %d runs", len(clean), runs)
}

// sweepShare is the part of all runs that a usual test makes: 1 in sweepShare. Each call gets
// several errnos, and each errno many calls.
const sweepShare = 17
