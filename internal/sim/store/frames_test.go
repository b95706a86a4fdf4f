package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

// threeFrames is a file of three frames and where each of them ends.
func threeFrames() (data []byte, ends []int, payloads []string) {
	data = kindState.Line()
	payloads = []string{"one", "", strings.Repeat("three ", 20)}
	for _, p := range payloads {
		ends = append(ends, len(data))
		data = AppendFrame(data, []byte(p))
	}
	return data, append(ends, len(data)), payloads
}

func scanned(data []byte) (payloads []string, good int, err error) {
	good, err = scan(data, kindState, func(_ int, p []byte) error {
		payloads = append(payloads, string(p))
		return nil
	})
	return payloads, good, err
}

func TestFramesAreReadWhereverTheFileWasTorn(t *testing.T) {
	data, ends, want := threeFrames()
	for cut := range len(data) + 1 {
		whole := 0
		for whole+1 < len(ends) && ends[whole+1] <= cut {
			whole++
		}
		good := 0
		if cut >= ends[0] {
			good = ends[whole]
		}
		got, at, err := scanned(data[:cut])
		if err != nil || at != good || strings.Join(got, "|") != strings.Join(want[:whole], "|") {
			t.Fatalf("cut at %d: %q up to %d, %v; want %d frames up to %d", cut, got, at, err, whole, good)
		}
		if cut == good { // room that was never filled
			if got, at, err := scanned(append(bytes.Clone(data[:cut]), make([]byte, 100)...)); err != nil || at != good || len(got) != whole {
				t.Fatalf("zeros from %d: %q up to %d, %v", cut, got, at, err)
			}
		}
	}
}

func TestFramesReportEveryFlippedBit(t *testing.T) {
	data, _, _ := threeFrames()
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, _, err := scanned(bad); err == nil {
				t.Fatalf("bit %d of byte %d is silently accepted", bit, i)
			}
		}
	}
}

func TestFileOfAnotherVersionIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for text, want := range map[string]string{
		"hubhop sim state 2\nsomething else": "has format version 2, this hubhop knows none above 1: run the newer one",
		"hubhop sim state 0\n":               "is damaged at byte 0: it does not begin with \"hubhop sim state 1\"",
		"hello":                              "restore it from a copy, or start with another state directory",
	} {
		simtest.Must(t, os.WriteFile(path, []byte(text), 0o600))
		_, _, err := Read(path, kindState, func(int, []byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFileGoesOnWhenThereIsRoomAgain(t *testing.T) {
	for _, cutFails := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "f")
		f, err := Create(path, kindState)
		simtest.Must(t, err)
		simtest.Must(t, f.Append(AppendFrame(nil, []byte("one"))))
		disk := simtest.NewFullDisk(7)
		disk.FailCuts(cutFails)
		f.Wrap(disk.Over)
		if err := f.Append(AppendFrame(nil, []byte("two"))); !errors.Is(err, simtest.ErrFull) {
			t.Fatal(err)
		}
		disk.MakeRoom(1000) // there is room again
		disk.FailCuts(false)
		err = f.Append(AppendFrame(nil, []byte("three")))
		if cutFails != (err != nil) {
			t.Fatal(err)
		}
		simtest.Must(t, f.Close())
		data, err := os.ReadFile(path)
		simtest.Must(t, err)
		got, good, err := scanned(data)
		if want := map[bool]string{false: "one three", true: "one"}[cutFails]; err != nil || strings.Join(got, " ") != want || !cutFails && good != len(data) {
			t.Errorf("%q %d %v", got, good, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	data, ends, _ := threeFrames()
	f.Add(data)
	f.Add(data[:ends[2]+5])
	f.Add([]byte("hubhop sim state 9\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		payloads, good, err := scanned(data)
		if good < 0 || good > len(data) {
			t.Fatal(good)
		}
		if err != nil || good == 0 {
			return
		}
		again := kindState.Line()
		for _, p := range payloads {
			again = AppendFrame(again, []byte(p))
		}
		if !bytes.Equal(again, data[:good]) {
			t.Fatalf("%q was read as %q", data[:good], again)
		}
	})
}
