package flow

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// Of the ballast only those pages are in memory that the heap had used before. A process of its own
// tells, because the heap of this one has had other tests.
func TestTheBallastTakesNoMemory(t *testing.T) {
	const alone = "HUBHOP_TEST_BALLAST"
	if os.Getenv(alone) == "" {
		other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheBallastTakesNoMemory$", "-test.v")
		other.Env = append(os.Environ(), alone+"=1")
		out, err := other.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "of the ballast are in memory") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	pages, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pages.Close() }()
	const used, most = 3 << 20, 6 << 20
	func() {
		before := make([]byte, used)
		for i := range before {
			before[i] = 1
		}
		runtime.KeepAlive(before)
	}()
	runtime.GC()
	var b ballast
	b.load()
	size, resident := os.Getpagesize(), 0
	for _, piece := range b {
		for i := 0; i+size <= len(piece); i += size {
			var entry [8]byte // of the kernel's admin-guide/mm/pagemap: bit 63 is that of a page in memory
			at := uintptr(unsafe.Pointer(&piece[i])) / uintptr(size) * 8
			if _, err := pages.ReadAt(entry[:], int64(at)); err != nil {
				t.Fatal(err)
			}
			if binary.NativeEndian.Uint64(entry[:])>>63 == 1 {
				resident += size
			}
		}
	}
	t.Logf("%d bytes of the ballast are in memory, where %d had been in use", resident, used)
	if resident > most {
		t.Errorf("at most %d should be", most)
	}
	runtime.KeepAlive(b)
}
