package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/quick"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// diskLedger opens a ledger with small files.
func diskLedger(t testing.TB, dir string, c Options) *Ledger {
	t.Helper()
	l := newLedger(c)
	if err := l.openDisk(newDisk(dir, Options{SegmentBytes: 2 << 10, CountsBytes: 8 << 10})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// roomy keeps everything.
var roomy = Options{Keep: 200_000, KeepBytes: 256 << 20}

// all is what the ledger says of a device, with the messages after so many.
func (l *Ledger) all(device string, after int64) Report {
	r, kept := l.Read(device, after)
	r.Messages = kept.Messages()
	return r
}

func ledgerText(l *Ledger, device string) string {
	return string(azure.EncodeJSON(l.all(device, 0)))
}

// After any number of deaths, at any place, the ledger says what one says that never died.
func TestLedgerSaysTheSameAfterAnyNumberOfDeaths(t *testing.T) {
	check := func(seed uint64) bool {
		rnd := rand.New(rand.NewPCG(seed, 7))
		conf := Options{Keep: 1 + rnd.IntN(60), KeepBytes: int64(200 + rnd.IntN(4000))}
		dir := t.TempDir()
		l := diskLedger(t, dir, conf)
		for range 2 + rnd.IntN(6) {
			var origins []*Origin
			for _, device := range []string{"a", "b"} {
				origins = append(origins, &Origin{Hub: "hub-" + string(rune('a'+rnd.IntN(2))), Device: device, AuthType: "sas", Generation: "7", ModelID: "dtmi:x;1"})
			}
			for range rnd.IntN(150) {
				from := origins[rnd.IntN(2)]
				var b *Batch
				for range 1 + rnd.IntN(4) {
					mid := fmt.Sprintf("%016x-%d", rnd.IntN(2), 1+rnd.IntN(500))
					if rnd.IntN(5) == 0 {
						mid = fmt.Sprintf("foreign%d", rnd.IntN(100))
					}
					b = l.Collect(b, Arrival{Bag: []byte("%24.mid=" + mid), Body: []byte(strings.Repeat("x", rnd.IntN(100))), Dup: rnd.IntN(9) == 0, Retain: rnd.IntN(9) == 0, Will: rnd.IntN(9) == 0})
				}
				simtest.Must(t, l.Commit(from, b))
				if rnd.IntN(400) == 0 {
					simtest.Must(t, l.Reset())
				}
			}
			again := diskLedger(t, dir, conf) // the old one simply stops, as a killed process does
			for _, device := range []string{"a", "b", ""} {
				if was, is := ledgerText(l, device), ledgerText(again, device); was != is {
					t.Logf("seed %d, device %q: was\n%s\nis\n%s", seed, device, was, is)
					return false
				}
			}
			simtest.Must(t, l.Close())
			l = again
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 60}); err != nil {
		t.Error(err)
	}
}

// The directory does not grow with what was received, and a restart does not read all that was
// received.
func TestLedgerFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := diskLedger(t, dir, Options{Keep: 10, KeepBytes: 1 << 20})
	from := &Origin{Hub: "hub-a", Device: "d"}
	for seq := range 5000 {
		simtest.Must(t, l.Enter(from, Arrival{Bag: fmt.Appendf(nil, "%%24.mid=0123456789abcdef-%d", seq+1), Body: make([]byte, 100)}))
	}
	var size int64
	files, err := os.ReadDir(dir)
	simtest.Must(t, err)
	for _, f := range files {
		info, err := f.Info()
		simtest.Must(t, err)
		size += info.Size()
	}
	if size > 16<<10 || l.disk.uncounted() > 12<<10 {
		t.Errorf("%d bytes in %d files for 10 messages, %d of them uncounted", size, len(files), l.disk.uncounted())
	}
	if r := diskLedger(t, dir, Options{Keep: 10, KeepBytes: 1 << 20}).all("d", 0); r.Received != 5000 || r.Distinct != 5000 || len(r.Messages) != 10 || !r.Truncated {
		t.Errorf("%d %d %d", r.Received, r.Distinct, len(r.Messages))
	}
	simtest.Must(t, l.Reset())
	if files, err = os.ReadDir(dir); len(files) != 2 {
		t.Errorf("%v are left after a reset, %v", files, err)
	}
}

// A killed process leaves some beginning of what it was writing. All messages before that are read.
func TestLedgerIsReadWhereverItWasTorn(t *testing.T) {
	dir := t.TempDir()
	l := diskLedger(t, dir, roomy)
	from := &Origin{Hub: "hub-a", Device: "d"}
	var ends []int64 // of the file after each message
	for seq := range 4 {
		simtest.Must(t, l.Enter(from, Arrival{Bag: fmt.Appendf(nil, "%%24.mid=0123456789abcdef-%d", seq+1), Body: []byte("hello")}))
		ends = append(ends, l.disk.file.Size())
	}
	data, err := os.ReadFile(l.disk.path(1))
	simtest.Must(t, err)
	for cut := range len(data) + 1 {
		torn := t.TempDir()
		path := filepath.Join(torn, filepath.Base(l.disk.path(1)))
		simtest.Must(t, os.WriteFile(path, data[:cut], 0o600))
		want := int64(0)
		for _, end := range ends {
			if end <= int64(cut) {
				want++
			}
		}
		again := diskLedger(t, torn, roomy)
		if r := again.all("d", 0); r.Received != want || len(r.Messages) != int(want) {
			t.Fatalf("cut at %d: %d received, want %d", cut, r.Received, want)
		}
		simtest.Must(t, again.Enter(&Origin{Hub: "hub-a", Device: "d"}, Arrival{Bag: []byte("%24.mid=0123456789abcdef-4")}))
		again = diskLedger(t, torn, roomy)
		if r := again.all("d", 0); r.Received != want+1 || r.Duplicates != max(0, want-3) || r.Reordered != 0 {
			t.Fatalf("cut at %d and gone on: %+v", cut, r)
		}
	}
	for i := range data {
		bad := t.TempDir()
		flipped := append([]byte{}, data...)
		flipped[i] ^= 0x10
		simtest.Must(t, os.WriteFile(filepath.Join(bad, "ledger-00000001.log"), flipped, 0o600))
		if err := newLedger(roomy).openDisk(newDisk(bad, Options{})); err == nil || !strings.Contains(err.Error(), "ledger-00000001.log") {
			t.Fatalf("byte %d is wrong: %v", i, err)
		}
	}
}

func TestMissingOrShortLedgerFileIsTold(t *testing.T) {
	dir := t.TempDir()
	l := diskLedger(t, dir, roomy)
	from := &Origin{Hub: "hub-a", Device: "d"}
	for len(l.disk.segments) < 8 {
		simtest.Must(t, l.Enter(from, Arrival{Bag: []byte("a=b"), Body: make([]byte, 300)}))
	}
	for _, name := range []string{"ledger-00000003.log", "ledger.counts"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		simtest.Must(t, err)
		simtest.Must(t, os.Truncate(path, int64(len(data)-1)))
		if err := newLedger(roomy).openDisk(newDisk(dir, Options{})); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is short: %v", name, err)
		}
		if name != "ledger.counts" {
			simtest.Must(t, os.Remove(path))
			if err := newLedger(roomy).openDisk(newDisk(dir, Options{})); err == nil || !strings.Contains(err.Error(), name+" is missing") {
				t.Errorf("%s is missing: %v", name, err)
			}
		}
		simtest.Must(t, os.WriteFile(path, data, 0o600))
	}
	if r := diskLedger(t, dir, roomy).Sum(""); r.Received != l.Sum("").Received {
		t.Errorf("%+v", r)
	}
}

func TestMessageThatCannotBeWrittenDoesNotCount(t *testing.T) {
	dir := t.TempDir()
	l := diskLedger(t, dir, roomy)
	from := &Origin{Hub: "hub-a", Device: "d"}
	simtest.Must(t, l.Enter(from, Arrival{Bag: []byte("n=1")}))
	disk := simtest.NewFullDisk(20)
	l.disk.file.Wrap(disk.Over)
	if err := l.Enter(from, Arrival{Bag: []byte("n=2")}); !errors.Is(err, simtest.ErrFull) {
		t.Fatal(err)
	}
	if r := l.all("d", 0); r.Received != 1 || l.Total() != 1 {
		t.Errorf("what was refused counts: %+v", r)
	}
	disk.MakeRoom(1 << 20)
	simtest.Must(t, l.Enter(from, Arrival{Bag: []byte("n=3")}))
	if was, is := ledgerText(l, "d"), ledgerText(diskLedger(t, dir, roomy), "d"); was != is {
		t.Errorf("was\n%s\nis\n%s", was, is)
	}
}

func FuzzLedgerFiles(f *testing.F) {
	a := account{received: 3, hubs: map[string]int64{"hub-a": 3}, streams: map[string]*stream{"0123456789abcdef": {ranges: []span{{1, 2}}}},
		foreign: map[[16]byte]struct{}{{1}: {}}}
	f.Add(append([]byte{frameTotals}, 1, 1, 1), true)
	f.Add(a.encode(store.AppendText([]byte{frameAccount}, "d")), true)
	f.Add((&Origin{ref: 1, Hub: "hub-a", Device: "d"}).encode(), false)
	b := &Batch{}
	b.add(Arrival{Bag: []byte("%24.mid=x"), Body: []byte("{}"), Dup: true})
	f.Add(b.buf[store.FrameHead:], false)
	f.Fuzz(func(t *testing.T, payload []byte, counts bool) { // the payload of a frame with the right checksum
		dir := t.TempDir()
		name, kind := "ledger-00000001.log", kindLedger
		if counts {
			name, kind = "ledger.counts", kindCounts
		}
		payload = append([]byte{}, payload...)
		file := kind.Line()
		switch {
		case len(payload) > 0 && payload[0] == frameAccount:
			file = store.AppendFrame(file, []byte{frameTotals, 1, 1, 1})
		case len(payload) > 13 && payload[0] == frameMessages:
			binary.LittleEndian.PutUint32(payload[9:], 1)
			file = store.AppendFrame(file, (&Origin{ref: 1, Hub: "hub-a", Device: "d"}).encode())
		}
		simtest.Must(t, os.WriteFile(filepath.Join(dir, name), store.AppendFrame(file, payload), 0o600))
		l := newLedger(roomy)
		if l.openDisk(newDisk(dir, Options{})) == nil {
			_ = l.all("", 0)
			simtest.Must(t, l.Enter(&Origin{Hub: "h", Device: "d"}, Arrival{Bag: []byte("%24.mid=0123456789abcdef-4")}))
			simtest.Must(t, l.Close())
		}
	})
}

// A restart finds a million messages of a hundred devices.
func BenchmarkLedgerRestart(b *testing.B) {
	dir := b.TempDir()
	l := newLedger(roomy)
	if err := l.openDisk(newDisk(dir, Options{})); err != nil {
		b.Fatal(err)
	}
	var origins []*Origin
	for n := range 100 {
		id := fmt.Sprintf("device-%d", n)
		origins = append(origins, &Origin{Hub: "hub-a", Device: id, AuthType: "sas"})
	}
	for n := range 1_000_000 {
		bag := fmt.Appendf(nil, "%%24.mid=%016x-%d&%%24.ct=application%%2Fjson&%%24.ce=utf-8", n%100, n/100+1)
		if err := l.Enter(origins[n%100], Arrival{Bag: bag, Body: make([]byte, 120)}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		again := newLedger(roomy)
		if err := again.openDisk(newDisk(dir, Options{})); err != nil {
			b.Fatal(err)
		}
		if r := again.Sum(""); r.Received != 1_000_000 || r.Duplicates != 0 || again.count != again.keep {
			b.Fatalf("%+v, %d kept", r, again.count)
		}
		_ = again.Close()
	}
	_ = l.Close()
}
