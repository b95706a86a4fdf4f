package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

func readAll[T any](t testing.TB, items iter.Seq2[T, error]) (all []T) {
	t.Helper()
	for item, err := range items {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, item)
	}
	return all
}

// TestReadQueue: what is read beside the box is what the box would hand out after a restart, in
// both directions.
func TestReadQueue(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{MaxBytes: 64 << 10})
	for n := range 40 { // several segments
		m := message.Message{Body: []byte(strings.Repeat("x", 100) + body(n)), ContentType: "text/plain", Properties: map[string]string{"n": fmt.Sprint(n)}}
		if err := b.Append(context.Background(), m); err != nil {
			t.Fatal(err)
		}
	}
	r := queued(t, b)
	ackAll(t, b, r[:2])
	ackAll(t, b, r[5:6])
	ackAll(t, b, r[30:])
	for _, i := range []int{3, 8, 9, 20} {
		if err := b.Quarantine(r[i].Pos, errors.New("poison")); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := Inspect(dir); err != nil || l.Segments < 3 {
		t.Fatalf("%+v, %v: this test is about several segments", l, err)
	}
	open := readAll(t, ReadQueue(dir))
	newest := readAll(t, ReadQueueNewest(dir))
	closeBox(t, b)
	closed := readAll(t, ReadQueue(dir))
	b = openBox(t, dir, Options{MaxBytes: 64 << 10})
	want := queued(t, b)
	closeBox(t, b)
	if len(want) < 20 {
		t.Fatalf("%d records queued", len(want))
	}
	slices.Reverse(newest)
	for name, got := range map[string][]Record{"open": open, "closed": closed, "newest first": newest} {
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Errorf("%s:\n%s\nwant\n%s", name, g, w)
		}
	}
	gaps := 0
	for _, x := range want {
		if x.Gap != "" {
			gaps++
		}
	}
	equal(t, "gaps", gaps, 3)
}

// TestReadQueueStops: a reader may stop after any record.
func TestReadQueueStops(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	appendBodies(t, b, bodies(1, 5)...)
	closeBox(t, b)
	for _, in := range []iter.Seq2[Record, error]{ReadQueue(dir), ReadQueueNewest(dir)} {
		for n := 1; n <= 5; n++ {
			seen := 0
			for _, err := range in {
				if err != nil {
					t.Fatal(err)
				}
				if seen++; seen == n {
					break
				}
			}
			equal(t, "seen", seen, n)
		}
	}
}

// TestReadQueueBesideARunningBox: while messages come, go and are dropped, readers see no error, no
// record that never was, and none twice.
func TestReadQueueBesideARunningBox(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{MaxBytes: 32 << 10})
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var writing, others sync.WaitGroup
	for range 2 {
		writing.Go(func() {
			for n := range 500 {
				appendBodies(t, b, signed(body(n), n%300))
			}
		})
	}
	others.Go(func() {
		for after := uint64(0); ; {
			r, err := next(ctx, b, after, 7)
			if err != nil {
				return
			}
			after = r[len(r)-1].Pos
			for _, x := range r[:len(r)/2] {
				if err := b.Ack(x.Pos); err != nil {
					t.Error(err)
				}
			}
		}
	})
	looks := 0
	others.Go(func() {
		for ; ctx.Err() == nil; looks++ {
			in := ReadQueue(dir)
			if looks%2 == 1 {
				in = ReadQueueNewest(dir)
			}
			var before uint64
			for r, err := range in {
				if err != nil {
					t.Error(err)
					return
				}
				if before != 0 && (r.Pos > before) != (looks%2 == 0) || r.Pos == before || !isSigned(string(r.Body)) {
					t.Errorf("place %d behind %d, %q", r.Pos, before, r.Body)
				}
				before = r.Pos
			}
		}
	})
	writing.Wait()
	stop()
	others.Wait()
	if looks < 5 {
		t.Errorf("%d looks only", looks)
	}
	closeBox(t, b)
}

// TestReadQueueOfATornTail cuts the file at every byte of its last message, and behind each cut
// puts what a write under way may have left: readers see whole messages only, and change nothing.
func TestReadQueueOfATornTail(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	made := time.Now() // one for all: how long a frame is depends on it
	for n := range 3 {
		if err := b.Append(context.Background(), message.Message{Body: []byte(body(n + 1)), Created: made}); err != nil {
			t.Fatal(err)
		}
	}
	closeBox(t, b)
	name := filepath.Join(dir, segName(1))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	frame := int(cost(encode(&message.Message{Body: []byte(body(3)), Created: made})))
	for cut := range frame {
		for _, rest := range []string{"", "\x00\x00\x00", string(whole[format.FramesStart : format.FramesStart+10])} {
			torn := string(whole[:len(whole)-frame+cut]) + rest
			if strings.HasPrefix(torn, string(whole)) {
				continue // what came behind the cut happens to be what was cut off
			}
			if err := os.WriteFile(name, []byte(torn), 0o600); err != nil {
				t.Fatal(err)
			}
			equalAll(t, fmt.Sprint("cut ", cut), bodiesOf(readAll(t, ReadQueue(dir))), bodies(1, 2))
			newest := bodiesOf(readAll(t, ReadQueueNewest(dir)))
			slices.Reverse(newest)
			equalAll(t, fmt.Sprint("newest first, cut ", cut), newest, bodies(1, 2))
			after, err := os.ReadFile(name)
			if err != nil || string(after) != torn {
				t.Fatalf("the file was changed: %v", err)
			}
		}
	}
}

// TestReadQueueOfDamage: a flipped bit costs its message, and files that are gone cost theirs;
// nothing else.
func TestReadQueueOfDamage(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, Options{})
	appendBodies(t, b, bodies(1, 3)...)
	closeBox(t, b)
	name := filepath.Join(dir, segName(1))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	frame := (len(whole) - format.FramesStart) / 3
	for at := format.FramesStart + frame; at < format.FramesStart+2*frame; at++ {
		flipped := slices.Clone(whole)
		flipped[at] ^= 1
		if err := os.WriteFile(name, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		equalAll(t, fmt.Sprint("byte ", at), bodiesOf(readAll(t, ReadQueue(dir))), []string{body(1), body(3)})
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	equal(t, "of no file", len(readAll(t, ReadQueue(dir))), 0)
	l, err := Inspect(dir)
	if err != nil || l.Queued != 0 || l.LastSeq != 3 {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestLookingDoesNotLock: an outbox can be opened while others ask who holds it.
func TestLookingDoesNotLock(t *testing.T) {
	dir := t.TempDir()
	closeBox(t, openBox(t, dir, Options{}))
	ctx, stop := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			disk.IsHeld(dir)
		}
	})
	for range 100 {
		closeBox(t, openBox(t, dir, Options{}))
	}
	stop()
	looking.Wait()
}

// TestReadQuarantine: messages and damaged bytes, over the change of files, and past lines that are
// not whole.
func TestReadQuarantine(t *testing.T) {
	dir := t.TempDir()
	equal(t, "without a file", len(readAll(t, ReadQuarantine(dir))), 0)
	b := openBox(t, dir, Options{})
	made := time.Now().UTC().Truncate(time.Millisecond)
	m := message.Message{Body: []byte("\xff body"), Created: made, ContentType: "x/y", ContentEncoding: "z", Component: "c", Properties: map[string]string{"": "v"}}
	if err := b.Append(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	appendBodies(t, b, body(2))
	r := queued(t, b)
	if err := b.Quarantine(r[0].Pos, errors.New("it has no name")); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, ReadQuarantine(dir))
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	q := got[0]
	back := message.Message{Body: q.Body, Created: *q.Created, ContentType: q.ContentType, ContentEncoding: q.ContentEncoding, Component: q.Component, Properties: q.Properties}
	equal(t, "the message", fmt.Sprintf("%+v", back), fmt.Sprintf("%+v", m))
	equal(t, "id", q.ID, r[0].ID)
	equal(t, "why", q.Why, "it has no name")

	name := filepath.Join(dir, quarantineName)
	line, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range line[:len(line)-2] { // a process that died in it, and one that is at work in it
		if err := os.WriteFile(name, line[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		equal(t, "of a cut line", len(readAll(t, ReadQuarantine(dir))), 0)
	}
	torn := append(slices.Clone(line), append(line[:20:20], '\n')...)
	if err := os.WriteFile(name, append(torn, `{"lost":"0123456789abcdef-1..2","why":"damage","raw":"AAAA"}`...), 0o600); err != nil {
		t.Fatal(err)
	}
	got = readAll(t, ReadQuarantine(dir))
	if len(got) != 2 || got[0].ID != r[0].ID || got[1].Lost != "0123456789abcdef-1..2" || len(got[1].Raw) != 3 {
		t.Errorf("%+v", got)
	}

	// A line that no outbox has written, for it is longer than any: what stands behind it is read.
	if err := os.WriteFile(name, slices.Concat(bytes.Repeat([]byte("x"), maxAside+1), []byte("\n"), line), 0o600); err != nil {
		t.Fatal(err)
	}
	if got = readAll(t, ReadQuarantine(dir)); len(got) != 1 || got[0].ID != r[0].ID {
		t.Errorf("behind a line too long: %+v", got)
	}

	// The file is full: it changes its name, and is read first.
	if err := os.WriteFile(name, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, quarantineMax); err != nil {
		t.Fatal(err)
	}
	if err := b.Quarantine(r[1].Pos, errors.New("another")); err != nil {
		t.Fatal(err)
	}
	got = readAll(t, ReadQuarantine(dir))
	if len(got) < 2 || got[0].ID != r[0].ID || got[len(got)-1].ID != r[1].ID {
		t.Errorf("%+v", got)
	}
	closeBox(t, b)
}

func TestSplit(t *testing.T) {
	for id, ok := range map[string]bool{
		"0123456789abcdef-1": true, "0123456789abcdef-18446744073709551615": false, "0123456789abcdef-0": false, "0123456789abcdef-01": false,
		"0123456789ABCDEF-1": false, "123456789abcdef-1": false, "0123456789abcdef": false, "": false, "0123456789abcdef-1-2": false, "x": false,
		"0123456789abcdef--1": false, "0123456789abcdef-+1": false,
	} {
		if _, _, got := SplitID(id); got != ok {
			t.Errorf("id %q: %v", id, got)
		}
	}
	for gap, ok := range map[string]bool{"1-1": true, "3-7": true, "7-3": false, "0-1": false, "": false, "1": false, "1-2-3": false, "-1": false} {
		if _, _, got := SplitGap(gap); got != ok {
			t.Errorf("gap %q: %v", gap, got)
		}
	}
}
