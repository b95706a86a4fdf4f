package sim

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/simtest"
)

const childDir = "HUBHOP_SIM_TEST_CHILD" // makes the test binary a simulator with its state in this directory

// childMain is a simulator that is going to be killed.
func childMain(dir string) {
	c := DefaultConfig()
	c.Layout, c.ControlAddr, c.StateDir, c.LedgerKeep = LayoutPorts, "127.0.0.1:0", filepath.Join(dir, "state"), 1_000_000
	s, err := New(c)
	if err == nil {
		err = errors.Join(s.Start(), s.WriteFiles(dir))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
	os.Exit(0)
}

// simProcess is a simulator in a process of its own.
type simProcess struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	info Info
	pool *x509.CertPool
}

func startSimProcess(t *testing.T, dir string) *simProcess {
	t.Helper()
	p := &simProcess{t: t, dir: dir, cmd: exec.Command(os.Args[0]), pool: x509.NewCertPool()}
	p.cmd.Env = append(os.Environ(), childDir+"="+dir)
	p.cmd.Stderr = os.Stderr
	_, err := p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(p.kill)
	ready := make([]byte, 6)
	if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("%s%s", ready, rest)
	}
	text, err := os.ReadFile(filepath.Join(dir, "sim.json"))
	must(t, err)
	must(t, json.Unmarshal(text, &p.info))
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	must(t, err)
	p.pool.AppendCertsFromPEM(ca)
	return p
}

// kill is kill -9.
func (p *simProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *simProcess) ledger(device string) (l Ledger) {
	p.t.Helper()
	res, err := http.Get(p.info.Control + "/api/ledger?messages=1&device=" + device)
	must(p.t, err)
	must(p.t, errors.Join(json.NewDecoder(res.Body).Decode(&l), res.Body.Close()))
	http.DefaultClient.CloseIdleConnections()
	return l
}

// createDevice makes an identity in the first hub.
func (p *simProcess) createDevice(id string, key []byte) {
	p.t.Helper()
	name, policy, owner := connectionParts(p.t, p.info.Hubs[0].ConnectionString)
	body := fmt.Sprintf(`{"deviceId":%q,"authentication":{"type":"sas","symmetricKey":{"primaryKey":%q,"secondaryKey":%[2]q}}}`,
		id, base64.StdEncoding.EncodeToString(key))
	req, err := http.NewRequest(http.MethodPut, "https://"+p.info.Hubs[0].HTTPS+"/devices/"+id+"?api-version=2021-04-12", strings.NewReader(body))
	must(p.t, err)
	req.Header.Set("Authorization", sasFor(owner, name, time.Now().Add(time.Hour), policy))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, DisableKeepAlives: true}}
	res, err := client.Do(req)
	must(p.t, err)
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		p.t.Fatalf("%d %s", res.StatusCode, text)
	}
}

// publisher sends numbered messages in windows, and again what was not acknowledged.
type publisher struct {
	id    string
	key   []byte
	acked uint64 // all up to this one
}

// run publishes until the connection ends; each acknowledged window is counted.
func (d *publisher) run(p *simProcess, count func(int)) error {
	host := p.info.Hubs[0].Host
	raw, err := net.Dial("tcp", p.info.Hubs[0].MQTT)
	if err != nil {
		return err
	}
	name, _, _ := net.SplitHostPort(p.info.Hubs[0].MQTT)
	conn := tls.Client(raw, &tls.Config{RootCAs: p.pool, ServerName: name})
	defer func() { _ = conn.Close() }()
	o := connectOptions{id: d.id, user: host + "/" + d.id + "/?api-version=2021-04-12", keepAlive: 60, password: sasFor(d.key, host+"/devices/"+d.id, time.Now().Add(time.Hour), "")}
	if _, err := conn.Write(connectBytes(o)); err != nil {
		return err
	}
	connack := make([]byte, 4)
	if _, err := io.ReadFull(conn, connack); err != nil {
		return err
	}
	if connack[3] != 0 {
		return fmt.Errorf("CONNACK %d", connack[3])
	}
	const window = 50
	for {
		var out []byte
		for n := range uint64(window) {
			topic := fmt.Sprintf("devices/%s/messages/events/%%24.mid=%016x-%d", d.id, len(d.id), d.acked+1+n)
			out = append(out, publishBytes(topic, `{"temp":21.5}`, 1, uint16(n+1))...)
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
		for n := range window {
			puback := make([]byte, 4)
			if _, err := io.ReadFull(conn, puback); err != nil {
				return err
			}
			if !bytes.Equal(puback, []byte{0x40, 2, 0, byte(n + 1)}) {
				return fmt.Errorf("%x is not the PUBACK of %d", puback, n+1)
			}
			d.acked++
			count(1)
		}
	}
}

// A real process is killed at random moments, again and again. Afterwards every message that it
// acknowledged is in the ledger, and the counts are those of the messages.
func TestKilledSimulatorLosesNothingItAcknowledged(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 3
	}
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	devices := []*publisher{{id: "a"}, {id: "bb"}, {id: "ccc"}}
	for life := range kills {
		p := startSimProcess(t, dir)
		for _, d := range devices {
			if life == 0 {
				d.key = []byte("the key of device " + d.id)
				p.createDevice(d.id, d.key)
			}
			d.check(p)
		}
		var wg sync.WaitGroup
		var total atomic.Int64
		limit := rnd.Int64N(4000)
		for _, d := range devices {
			wg.Go(func() {
				err := d.run(p, func(n int) {
					if total.Add(int64(n)) == limit+1 { // in the middle of something, whatever it is
						_ = p.cmd.Process.Kill()
					}
				})
				if total.Load() <= limit {
					t.Error(err)
					_ = p.cmd.Process.Kill()
				}
			})
		}
		wg.Wait()
		p.kill()
	}
	p := startSimProcess(t, dir)
	for _, d := range devices {
		d.check(p)
	}
}

// check holds the ledger to what the device knows.
func (d *publisher) check(p *simProcess) {
	p.t.Helper()
	l := p.ledger(d.id)
	seen := simtest.Counts{}
	for _, m := range l.Messages {
		seen.Enter(m.Mid)
	}
	for seq := range d.acked {
		if mid := fmt.Sprintf("%016x-%d", len(d.id), seq+1); !seen.Seen[mid] {
			p.t.Fatalf("%s: %s was acknowledged and is lost, of %d", d.id, mid, d.acked)
		}
	}
	if l.Truncated || l.Received != seen.Received || l.Duplicates != seen.Duplicates || l.Reordered != seen.Reordered || l.Missing != seen.Missing() || l.Distinct != int64(len(seen.Seen)) || l.Hubs["hub-a"] != l.Received {
		p.t.Fatalf("%s: the ledger counts %d, %d distinct, %d twice, %d late; its messages say %+v", d.id, l.Received, l.Distinct, l.Duplicates, l.Reordered, seen.Received)
	}
}
