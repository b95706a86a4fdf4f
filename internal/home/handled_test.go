package home

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/virtual"
)

func TestHandledList(t *testing.T) {
	place, err := opened(virtual.Dir(t), "dev-1")
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	path := place.Path(HandledFile)
	h := OpenHandled(place)
	now := time.Now()
	for i := range 3000 {
		h.Add(fmt.Sprint("key ", i), now.Add(time.Duration(i)*time.Second))
	}
	if wrong := place.Trouble(); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	h.Close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"key":"to`) // torn by a crash
	_ = f.Close()
	h = OpenHandled(place)
	defer h.Close()
	if !h.Has("key 2999") || h.Has("key 100") || len(h.Keys()) > handledMax {
		t.Errorf("%d remembered", len(h.Keys()))
	}
	if info, _ := os.Stat(path); info.Size() > 200_000 {
		t.Errorf("the file has %d bytes", info.Size())
	}
	if a, b := HandledKey("h", "m", []byte("1")), HandledKey("h", "m", []byte("2")); a == b {
		t.Error("two bodies, one key")
	}
}

// TestHandledKeys: a key is read back as it was written, for any characters of an id.
func TestHandledKeys(t *testing.T) {
	h, err := opened(virtual.Dir(t), "dev-1")
	must(t, err)
	defer h.Close()
	l := OpenHandled(h)
	var keys []string
	for _, mid := range []string{"plain", "\xff\xfe", "a\nb", "\u2028", "\x00", "{\"key\":", strings.Repeat("m", 100_000), strings.Repeat("\xff", 3000)} {
		key := HandledKey("hub-a", mid, []byte("1"))
		keys = append(keys, key)
		l.Add(key, time.Now())
	}
	l.Close()
	l = OpenHandled(h)
	defer l.Close()
	for _, key := range keys {
		if !l.Has(key) {
			t.Errorf("%.100q is forgotten", key)
		}
	}
	if len(l.Keys()) != len(keys) {
		t.Errorf("%d of %d", len(l.Keys()), len(keys))
	}
}

// TestHandledListInPart: if some lines of the list make no sense, the file is kept aside and its
// other lines count.
func TestHandledListInPart(t *testing.T) {
	var told []string
	h := New(RealDisk, t.TempDir(), "dev-1", func(text string) { told = append(told, text) })
	must(t, h.Open())
	defer h.Close()
	l := OpenHandled(h)
	for i := range 3 {
		l.Add(fmt.Sprint("hub-a m", i), time.Now())
	}
	l.Close()
	b, err := os.ReadFile(h.Path(HandledFile))
	must(t, err)
	bent := bytes.Replace(b, []byte("m1"), []byte("m9"), 1)
	bent = append(bent, strings.Repeat("x", 100_000)+"\n"...) // longer than a scanner takes
	bent = append(bent, lineOf("hub-a m3", time.Now())...)
	must(t, os.WriteFile(h.Path(HandledFile), bent, 0o600))
	l = OpenHandled(h)
	defer l.Close()
	for _, key := range []string{"hub-a m0", "hub-a m2", "hub-a m3"} {
		if !l.Has(key) {
			t.Errorf("%s is forgotten", key)
		}
	}
	if l.Has("hub-a m9") || l.Has("hub-a m1") {
		t.Errorf("%v", l.Keys())
	}
	if kept, err := os.ReadFile(h.Path(HandledFile + Doubtful)); err != nil || !bytes.Equal(kept, bent) {
		t.Errorf("%d bytes are kept of %d: %v", len(kept), len(bent), err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "2 of its lines") {
		t.Errorf("%q", told)
	}
}

// TestHandledListOutlivesItsFile: whatever becomes of the file before the first message comes, the
// message is remembered on the disk.
func TestHandledListOutlivesItsFile(t *testing.T) {
	for name, spoil := range map[string]func(*Home) error{
		"the directory is removed": func(h *Home) error { return os.RemoveAll(h.Path("")) },
		"the file is removed":      func(h *Home) error { return os.Remove(h.Path(HandledFile)) },
		"the file is torn":         func(h *Home) error { return os.WriteFile(h.Path(HandledFile), []byte(`{"key":"to`), 0o600) },
		"the file is a link": func(h *Home) error {
			_ = os.Remove(h.Path(HandledFile))
			return os.Symlink(h.Path("other"), h.Path(HandledFile))
		},
	} {
		t.Run(name, func(t *testing.T) {
			place, err := opened(virtual.Dir(t), "dev-1")
			must(t, err)
			defer func() { place.Close() }()
			l := OpenHandled(place)
			must(t, spoil(place))
			l.Add("key", time.Now())
			l.Close()
			if trouble := place.Trouble(); len(trouble) > 0 {
				t.Error(trouble)
			}
			l = OpenHandled(place)
			defer l.Close()
			if !l.Has("key") {
				t.Error("the message is forgotten")
			}
			if _, err := os.Lstat(place.Path("other")); err == nil {
				t.Error("a file that a link names was written")
			}
		})
	}
}
