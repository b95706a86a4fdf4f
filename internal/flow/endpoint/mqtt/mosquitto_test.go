package mqtt

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
)

// mosquitto is a broker as a process of its own, on loopback ports.
type mosquitto struct {
	t    testing.TB
	dir  string
	conf string
	cmd  *exec.Cmd

	mu  sync.Mutex
	log []string
}

// needMosquitto skips a test where mosquitto is not installed. In CI that is a failure.
func needMosquitto(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const next = "mosquitto is not installed: apt-get install -y --no-install-recommends mosquitto"
	if os.Getenv("CI") == "true" {
		t.Fatal(next)
	}
	t.Skip(next)
	return ""
}

// freePort returns a port of the loopback address that nobody listens at.
func freePort(t testing.TB) int {
	t.Helper()
	port, err := endtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// newMosquitto starts a broker with the given configuration beside what every one has.
func newMosquitto(t testing.TB, conf string) *mosquitto {
	t.Helper()
	b := &mosquitto{t: t, dir: t.TempDir()}
	b.conf = filepath.Join(b.dir, "mosquitto.conf")
	text := "per_listener_settings false\nset_tcp_nodelay true\nmax_queued_messages 0\n" +
		"persistence true\npersistence_location " + b.dir + "/\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information\n" + conf
	if os.Getuid() == 0 {
		text += "user root\n"
	}
	if err := os.WriteFile(b.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *mosquitto) start() {
	b.t.Helper()
	b.cmd = exec.Command(needMosquitto(b.t), "-c", b.conf)
	out, err := b.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd.Stdout = b.cmd.Stderr
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	up := make(chan struct{})
	go func() {
		running := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			b.mu.Lock()
			if b.log = append(b.log, lines.Text()); len(b.log) > 500 {
				b.log = b.log[250:]
			}
			b.mu.Unlock()
			if !running && strings.Contains(lines.Text(), "running") {
				running = true
				close(up)
			}
		}
		if !running {
			close(up)
		}
	}()
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		b.t.Fatal("mosquitto does not start")
	}
}

// stop ends the broker in order: it writes its queues to the disk.
func (b *mosquitto) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(os.Interrupt)
	_ = b.cmd.Wait()
	b.cmd = nil
	if b.t.Failed() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Log(strings.Join(b.log[max(0, len(b.log)-30):], "\n"))
	}
}

// plain is a configuration with one listener without TLS for everybody.
func plainListener(port int) string {
	return fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n", port)
}

// mosquittoPassword returns the text of a password file.
func mosquittoPassword(t testing.TB, dir, name, word string) string {
	t.Helper()
	path := filepath.Join(dir, "made")
	endtest.WriteFile(t, path, name+":"+word+"\n")
	if out, err := exec.Command("mosquitto_passwd", "-U", path).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
