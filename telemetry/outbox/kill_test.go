package outbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

const (
	childDir  = "OUTBOX_TEST_CHILD" // the directory that a child process works on
	childRun  = "OUTBOX_TEST_RUN"   // which life of the process it is
	childSync = "OUTBOX_TEST_EVERY" // its SyncEvery
)

// killOptions make for many small segments.
var killOptions = Options{MaxBytes: 4 << 20, Full: Block, Stamp: stampPositions}

// childMain is the process that is going to be killed: four producers and a drainer. On its
// standard output it says what it knows: "A <body>" when Append has promised a body, "S <id>
// <body>" when a record is sent, before it is acknowledged.
func childMain() bool {
	dir, run := os.Getenv(childDir), os.Getenv(childRun)
	if dir == "" {
		return false
	}
	o := killOptions
	o.SyncEvery, _ = time.ParseDuration(os.Getenv(childSync)) // 0 if there is none
	b, err := Open(dir, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(line string) {
		out.Lock()
		defer out.Unlock()
		_, _ = io.WriteString(os.Stdout, line+"\n")
	}
	ctx := context.Background()
	for writer := range 4 {
		go func() {
			for n := 0; ; n++ {
				var ms []message.Message
				for i := range 1 + n%3 {
					ms = append(ms, message.Message{Body: []byte(signed(fmt.Sprintf("%s.%d.%d.%d", run, writer, n, i), 50+n%300))})
				}
				if err := b.Append(ctx, ms...); err != nil {
					say("E " + err.Error())
					return
				}
				var lines []string
				for _, m := range ms {
					lines = append(lines, "A "+string(m.Body))
				}
				say(strings.Join(lines, "\n"))
			}
		}()
	}
	after := uint64(0)
	for turn := 0; ; turn++ {
		records, err := next(ctx, b, after, 16)
		if err != nil {
			say("E " + err.Error())
			return true
		}
		for i, r := range records {
			if !isStamped(r) {
				say(fmt.Sprintf("E %s was stamped with another position than %d: %v", r.ID, r.Pos, r.Created))
			}
			say("S " + r.ID + " " + string(r.Body))
			if (turn+i)%7 != 3 { // some stay in flight
				_ = b.Ack(r.Pos)
			}
		}
		after = records[len(records)-1].Pos
		if turn%20 == 19 {
			after = 0 // another link
		}
	}
}

// signed makes a body that nobody can make up.
func signed(text string, pad int) string {
	s := text + "." + strings.Repeat("x", pad)
	return fmt.Sprintf("%s.%08x", s, crc32.ChecksumIEEE([]byte(s)))
}

func isSigned(s string) bool {
	i := strings.LastIndexByte(s, '.')
	return i > 0 && fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(s[:i]))) == s[i+1:]
}

// A real process is killed at random moments, again and again. Nothing that it promised is lost,
// nothing is made up, and no id ever names two bodies.
func TestKilledProcess(t *testing.T) { killProcess(t, 60, 0) }

// The same when appends are synced now and then: what was written is the system's, whatever happens
// to the process.
func TestKilledProcessRelaxed(t *testing.T) { killProcess(t, 30, 30*time.Millisecond) }

func killProcess(t *testing.T, kills int, every time.Duration) {
	if testing.Short() {
		kills /= 5
	}
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	promised, sent := map[string]bool{}, map[string]string{}
	count := func(line string) {
		kind, rest, _ := strings.Cut(line, " ")
		switch kind {
		case "A":
			promised[rest] = true
		case "S":
			id, body, _ := strings.Cut(rest, " ")
			if old, again := sent[id]; again && old != body {
				t.Fatalf("id %s named %q and names %q", id, old, body)
			}
			sent[id] = body
		default:
			t.Fatalf("the child says %q", line)
		}
	}
	for run := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childRun, run), fmt.Sprintf("%s=%v", childSync, every))
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Mostly it dies in the middle of its work, however long it takes to begin with it, and now
		// and then at any moment.
		after, blind := rnd.IntN(400), rnd.IntN(5) == 0
		var dies *time.Timer
		if blind {
			after, dies = -1, time.AfterFunc(time.Duration(rnd.IntN(100))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		for lines, n := bufio.NewReader(out), 0; ; n++ {
			if n == after {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := lines.ReadString('\n')
			if err != nil {
				break // what is not a whole line was not said
			}
			count(strings.TrimSuffix(line, "\n"))
		}
		if blind {
			dies.Stop()
		}
		_ = cmd.Wait()
		if complaints.Len() > 0 {
			t.Fatalf("life %d: %s", run, complaints.String())
		}
	}
	o := killOptions
	o.Report = func(p Problem) {
		if p.Kind != TornTail {
			t.Errorf("%v: %s", p.Kind, p.Text)
		}
	}
	b := openBox(t, dir, o)
	for b.Stats().Queued > 0 {
		for _, r := range tryNext(t, b, 0, 100) {
			if old, again := sent[r.ID]; again && old != string(r.Body) {
				t.Fatalf("id %s named %q and names %q", r.ID, old, r.Body)
			}
			if r.Gap != "" {
				t.Errorf("gap %s before %s", r.Gap, r.ID)
			}
			if !isStamped(r) {
				t.Errorf("%s was stamped with another position than %d: %v", r.ID, r.Pos, r.Created)
			}
			sent[r.ID] = string(r.Body)
			if err := b.Ack(r.Pos); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeBox(t, b)
	came := map[string]bool{}
	for id, body := range sent {
		if !isSigned(body) {
			t.Errorf("%s is %q, which nobody made", id, body)
		}
		if came[body] {
			t.Errorf("%q came under two ids", body)
		}
		came[body] = true
	}
	for body := range promised {
		if !came[body] {
			t.Errorf("%q was promised and is lost", body)
		}
	}
	far := newConsumer()
	for id, body := range sent {
		far.take(t, Record{ID: id, Message: message.Message{Body: []byte(body)}})
	}
	if missing := far.unaccounted(); len(missing) > 0 {
		t.Errorf("%d seqs are missing", len(missing))
	}
	if len(promised) < 20*kills {
		t.Errorf("only %d messages were promised in %d lives", len(promised), kills)
	}
	t.Logf("%d kills, %d promised, %d came", kills, len(promised), len(came))
}

// A box that a living process holds is refused to another, and free again when that process has
// been killed.
func TestLockEndsWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childRun+"=0")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = out.Read(make([]byte, 1)) // it has it open now
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, Options{})
	if !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	closeBox(t, openBox(t, dir, Options{}))
}
