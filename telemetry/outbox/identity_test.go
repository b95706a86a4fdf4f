package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk/memdisk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
)

func TestIdentityMatches(t *testing.T) {
	dps := func(scope, device string) Identity { return Identity{IDScope: scope, Device: device} }
	hubs := func(device string, hubs ...string) Identity { return Identity{Device: device, Hubs: hubs} }
	for _, v := range []struct {
		a, b Identity
		want bool
	}{
		{dps("0ne1", "d"), dps("0ne1", "d"), true},
		{dps("0ne1", "d"), dps("0NE1", "D"), true},
		{dps("0ne1", "d"), dps("0ne2", "d"), false},
		{dps("0ne1", "d"), dps("0ne1", "e"), false},
		{dps("0ne1", "d"), hubs("d", "a"), false},
		{hubs("d", "a"), hubs("d", "a"), true},
		{hubs("d", "a"), hubs("d", "A"), true},
		{hubs("d", "a"), hubs("D", "a"), false},
		{hubs("d", "a"), hubs("d", "b"), false},
		{hubs("d", "a", "b"), hubs("d", "b", "c"), true},
		{hubs("d"), hubs("d"), false},
	} {
		equal(t, fmt.Sprintf("%v and %v", v.a, v.b), v.a.Matches(v.b), v.want)
		equal(t, fmt.Sprintf("%v and %v", v.b, v.a), v.b.Matches(v.a), v.want)
		back, err := format.ReadIdentity(v.a.AppendTo(nil))
		if err != nil || fmt.Sprint(*back) != fmt.Sprint(v.a) {
			t.Errorf("read back: %v, %v", back, err)
		}
	}
}

// TestAnotherPlaceIsRefused: messages for one place do not go to another, unless SendHere says so,
// and ids go on without a gap.
func TestAnotherPlaceIsRefused(t *testing.T) {
	disk := memdisk.New()
	one, two := Identity{IDScope: "0ne1", Device: "d"}, Identity{IDScope: "0ne2", Device: "d"}
	open := func(id Identity, here bool) *Box {
		return openBox(t, "/box", Options{FS: disk, For: id, SendHere: here})
	}
	b := open(Identity{}, false)
	appendBodies(t, b, "from before there were identities")
	closeBox(t, b)
	b = open(one, false) // the first one that it is started for
	appendBodies(t, b, "1")
	closeBox(t, b)
	for range 2 {
		before := disk.Calls
		_, err := Open("/box", Options{FS: disk, For: two})
		if !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), "2 messages wait for device d in ID scope 0ne1, and this is device d in ID scope 0ne2") {
			t.Errorf("got %v", err)
		}
		equal(t, "calls that change something", disk.Calls, before)
	}
	b = open(one, false)
	closeBox(t, b)
	b = open(two, true)
	r := queued(t, b)
	equal(t, "messages", len(r), 2)
	closeBox(t, b)
	if _, err := Open("/box", Options{FS: disk, For: one}); !errors.Is(err, ErrOther) {
		t.Errorf("it is of the second one now: %v", err)
	}
	b = open(two, false)
	ackAll(t, b, queued(t, b))
	closeBox(t, b)
	b = open(one, false) // nothing waits: it may go anywhere
	appendBodies(t, b, "3")
	r = queued(t, b)
	if _, seq := splitID(t, r[0].ID); seq != 3 || r[0].Gap != "" {
		t.Errorf("%s, gap %q", r[0].ID, r[0].Gap)
	}
	closeBox(t, b)
	if _, err := Open("/box", Options{FS: disk, For: two}); !errors.Is(err, ErrOther) {
		t.Errorf("got %v", err)
	}
}

// TestHubsOfAConnectionString: while messages wait, every hub that was listed is accepted.
func TestHubsOfAConnectionString(t *testing.T) {
	disk := memdisk.New()
	at := func(hubs ...string) Identity { return Identity{Device: "d", Hubs: hubs} }
	b := openBox(t, "/box", Options{FS: disk, For: at("a", "b")})
	appendBodies(t, b, "1")
	closeBox(t, b)
	for _, id := range []Identity{at("b"), at("a"), at("c", "b"), at("c")} {
		closeBox(t, openBox(t, "/box", Options{FS: disk, For: id}))
	}
	if _, err := Open("/box", Options{FS: disk, For: at("x")}); !errors.Is(err, ErrOther) {
		t.Errorf("got %v", err)
	}
	b = openBox(t, "/box", Options{FS: disk, For: at("c")})
	ackAll(t, b, queued(t, b))
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk, For: at("c")})
	appendBodies(t, b, "2")
	closeBox(t, b)
	if _, err := Open("/box", Options{FS: disk, For: at("a")}); !errors.Is(err, ErrOther) {
		t.Errorf("nothing waited for a any more: %v", err)
	}
}

// TestIdentityFileIsDamaged: a damaged file is told and kept, and does not stop sending. A file of
// a newer version is refused.
func TestIdentityFileIsDamaged(t *testing.T) {
	id := Identity{IDScope: "0ne1", Device: "d"}
	for name, text := range map[string]string{
		"empty": "", "short": "hubhop", "flipped": strings.Replace(string(id.AppendTo(nil)), "0ne1", "0ne2", 1),
		"long": strings.Repeat("x", 2*format.MaxIdentity), "no JSON": "hubhop outbox identity 1 00000000 ",
	} {
		disk := memdisk.New()
		b := openBox(t, "/box", Options{FS: disk, For: id})
		appendBodies(t, b, "1")
		closeBox(t, b)
		disk.Edit("/box/"+identityName, func([]byte) []byte { return []byte(text) })
		var got reports
		b = openBox(t, "/box", Options{FS: disk, For: Identity{IDScope: "0ne3", Device: "d"}, Report: got.add})
		equal(t, name+": reported", got.count(Corrupt), 1)
		equal(t, name+": left", len(queued(t, b)), 1)
		closeBox(t, b)
		if kept := disk.File("/box/" + identityName + badSuffix); kept == nil || string(kept.Data) != text {
			t.Errorf("%s: it was not kept", name)
		}
		if _, err := Open("/box", Options{FS: disk, For: id}); !errors.Is(err, ErrOther) {
			t.Errorf("%s: the new one counts: %v", name, err)
		}
		disk.Edit("/box/"+identityName, func([]byte) []byte { return []byte("hubhop outbox identity 2 what ever") })
		if _, err := Open("/box", Options{FS: disk, For: id}); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestNoRoomForAnIdentity: messages stay in memory until the identity can be written.
func TestNoRoomForAnIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memdisk.New()
		closeBox(t, openBox(t, "/box", Options{FS: disk, For: Identity{IDScope: "0ne1", Device: "d"}}))
		disk.SetDeny(func(_, name string) error {
			if strings.HasPrefix(name, identityName+".") {
				return syscall.ENOSPC
			}
			return nil
		})
		id := Identity{IDScope: "0ne2", Device: "d"}
		b := openBox(t, "/box", Options{FS: disk, For: id})
		appendBodies(t, b, "1")
		equal(t, "degraded", b.Stats().Degraded, true)
		disk.SetDeny(nil)
		time.Sleep(retryEvery)
		appendBodies(t, b, "2")
		equal(t, "degraded", b.Stats().Degraded, false)
		closeBox(t, b)
		equal(t, "the file", string(disk.File("/box/"+identityName).Data), string(id.AppendTo(nil)))
	})
}

func TestDiscard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "box")
	if _, err := DiscardIn(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("one was made")
	}
	b := openBox(t, dir, Options{MaxBytes: 64 << 10})
	for n := 1; n <= 40; n++ {
		appendBodies(t, b, strings.Repeat(".", 200))
	}
	ackAll(t, b, queued(t, b)[:5])
	if _, err := DiscardIn(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("in use: %v", err)
	}
	closeBox(t, b)
	n, err := DiscardIn(dir)
	if n != 35 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err = DiscardIn(dir); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	b = openBox(t, dir, Options{MaxBytes: 64 << 10, For: Identity{IDScope: "0ne", Device: "d"}})
	appendBodies(t, b, "new")
	r := queued(t, b)
	if _, seq := splitID(t, r[0].ID); len(r) != 1 || seq != 41 || r[0].Gap != "6-40" {
		t.Errorf("%v, gap %s", idsOf(r), r[0].Gap)
	}
	closeBox(t, b)
	if l, err := Inspect(dir); err != nil || l.For != "device d in ID scope 0ne" {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestDiscardOnAFullDisk throws nothing away.
func TestDiscardOnAFullDisk(t *testing.T) {
	disk := memdisk.New()
	b := openBox(t, "/box", Options{FS: disk})
	appendBodies(t, b, "1")
	closeBox(t, b)
	disk.SetFault(allFail)
	b = openBox(t, "/box", Options{FS: disk})
	if n, err := b.Discard(); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d, %v", n, err)
	}
	disk.SetFault(nil)
	closeBox(t, b)
	b = openBox(t, "/box", Options{FS: disk})
	equal(t, "left", len(queued(t, b)), 1)
	closeBox(t, b)
}
