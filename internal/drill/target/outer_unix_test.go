//go:build unix

package target

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// TestNothingOfAnExternalProgramIsLeftBehind: a shell ends at once when it is asked to, and so do
// programs that start others and go away. What they have started gets its time to end, and is
// killed if it does not. The output is a file, as with a report.
func TestNothingOfAnExternalProgramIsLeftBehind(t *testing.T) {
	for _, x := range []struct {
		name, line string
		grace      time.Duration
		want       string // of what the last program says before it is gone
	}{
		{"a child that does not end", `(trap "" TERM; echo up; exec sleep 600) & wait`, 100 * time.Millisecond, "up\n"},
		{"a child that still has work", `sh -c 'trap "echo bye; exit" TERM; echo up; while :; do sleep 0.01; done' & wait`, 0, "up\nbye\n"},
		{"a shell that goes away", `(trap "" TERM; echo up; : >"$MARK"; exec sleep 600) & while ! [ -e "$MARK" ]; do sleep 0.01; done`, time.Millisecond, "up\n"},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := t.TempDir()
			fifo := filepath.Join(dir, "fifo")
			ok(t, "fifo", syscall.Mkfifo(fifo, 0o600))
			log, err := os.Create(filepath.Join(dir, "log"))
			ok(t, "log", err)
			defer func() { _ = log.Close() }()
			o := &Outer{Args: []string{"sh", "-c", "exec 3>&1 >" + fifo + "; " + x.line}, Environ: append(os.Environ(), "MARK="+filepath.Join(dir, "mark")), Output: log, grace: x.grace}
			p, err := o.party(drill.Plan{}, Site{Identity: deviceNamed("x")})
			ok(t, "party", err)
			p.Start()
			f, err := os.Open(fifo)
			ok(t, "open", err)
			defer func() { _ = f.Close() }()
			up := make([]byte, 3)
			_, err = io.ReadFull(f, up)
			ok(t, "up", err)
			if !strings.HasSuffix(x.line, "wait") {
				<-p.(*outer).run.ended // by itself
			}
			p.Stop()
			<-p.(*outer).run.ended
			rest, err := io.ReadAll(f) // ends when nobody is left who could write
			ok(t, "read", err)
			if got := string(up) + string(rest); !strings.HasPrefix(got, x.want) {
				t.Errorf("it says %q", got)
			}
		})
	}
}
