package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// window is how many messages one sender has in flight; they are written in batches.
const (
	window    = 1000
	batchSize = 100
)

// senders are the numbers of connections that throughput is measured with.
var senders = []int{16, 1}

// target is a server as clients see it.
type target struct {
	*process
	addr string
	tls  *tls.Config
	sim  *simInfo // nil where any device may connect
}

func newTarget(p *process, addr, caFile string) (*target, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		p.stop()
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	host, _, err := net.SplitHostPort(addr)
	return &target{process: p, addr: addr, tls: &tls.Config{RootCAs: pool, ServerName: host}}, err
}

// idleFigures are what many silent connections cost.
type idleFigures struct {
	devices       int
	before, after int64 // RSS
	took          time.Duration
}

func (f idleFigures) perConnection() float64 { return float64(f.after-f.before) / float64(f.devices) }
func (f idleFigures) connectRate() int       { return int(float64(f.devices) / f.took.Seconds()) }

// measureIdle compares the server's memory before it knows any device with its memory when all are
// connected.
func (c contestant) measureIdle(dir string, o options) (f idleFigures, err error) {
	t, err := c.start(dir)
	if err != nil {
		return f, err
	}
	defer t.stop()
	f.devices = o.devices
	if f.before, err = t.memory("VmRSS"); err != nil {
		return f, err
	}
	ids := make([]string, o.devices)
	for i := range ids {
		ids[i] = fmt.Sprintf("device-%05d", i)
	}
	if err := t.provision(ids); err != nil {
		return f, err
	}
	conns := make([]net.Conn, len(ids))
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	began := time.Now()
	err = inParallel(len(ids), 16, func(i int) (err error) {
		conns[i], err = t.connect(ids[i])
		if err != nil {
			return err
		}
		if _, err = conns[i].Write(subscribe(ids[i])); err != nil {
			return err
		}
		return expect(conns[i], []byte{0x90, 6, 0, 1, 1, 1, 1, 1})
	})
	f.took = time.Since(began)
	if err != nil {
		return f, err
	}
	_ = pause(o.settle, nil) // the server gives back what the handshakes took, and has nothing to tell when it has done so
	if f.after, err = t.memory("VmRSS"); err != nil {
		return f, err
	}
	err = inParallel(len(conns), 16, func(i int) (err error) { // a server that had dropped some would look cheaper than it is
		if _, err = conns[i].Write([]byte{0xc0, 0}); err == nil { // PINGREQ
			err = expect(conns[i], []byte{0xd0, 0})
		}
		if err != nil {
			err = fmt.Errorf("%s was not connected any more when memory was read: %w", ids[i], err)
		}
		return err
	})
	return f, err
}

// speedFigures are what a server takes in.
type speedFigures struct {
	perSecond int
	peak      int64 // RSS
}

// measureSpeed counts the messages that are acknowledged while n connections send as fast as they
// can.
func (c contestant) measureSpeed(dir string, n int, o options) (f speedFigures, err error) {
	t, err := c.start(dir)
	if err != nil {
		return f, err
	}
	defer t.stop()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("device-%05d", i)
	}
	if err := t.provision(ids); err != nil {
		return f, err
	}
	var acked atomic.Int64
	var over atomic.Bool
	var jobs sync.WaitGroup
	failures := make(chan error, n)
	conns := make([]net.Conn, n)
	for i, id := range ids {
		if conns[i], err = t.connect(id); err != nil {
			return f, err
		}
		defer func() { _ = conns[i].Close() }()
	}
	for i, id := range ids {
		jobs.Go(func() {
			if err := send(conns[i], id, &acked, &over); err != nil {
				failures <- err
			}
		})
	}
	if err := pause(o.duration/4, failures); err != nil { // until all are at full speed
		return f, err
	}
	began, from := time.Now(), acked.Load()
	if err := pause(o.duration, failures); err != nil {
		return f, err
	}
	took, to := time.Since(began), acked.Load()
	over.Store(true)
	jobs.Wait()
	select {
	case err := <-failures:
		return f, err
	default:
	}
	f.perSecond = int(float64(to-from) / took.Seconds())
	f.peak, err = t.memory("VmHWM")
	return f, err
}

// pause lets senders work for a while, or until one of them fails.
func pause(d time.Duration, failures <-chan error) error {
	select {
	case err := <-failures:
		return err
	case <-time.After(d):
		return nil
	}
}

// send is a bare client. It writes batches of messages, each with an id of its own, and has up to
// window of them unacknowledged.
func send(conn net.Conn, id string, acked *atomic.Int64, over *atomic.Bool) error {
	room := make(chan struct{}, window/batchSize)
	done := make(chan error, 1)
	sent := make(chan int, 1)
	go func() { // reads the PUBACKs
		acks := make([]byte, 16<<10)
		held, count, total := 0, 0, -1
		for total < 0 || count < total {
			n, err := conn.Read(acks[held:])
			if err != nil {
				done <- err
				return
			}
			n += held
			for at := 0; at+4 <= n; at += 4 {
				if acks[at] != 0x40 || acks[at+1] != 2 {
					done <- fmt.Errorf("got %x, want PUBACKs", acks[at:at+4])
					return
				}
				if count++; count%batchSize == 0 {
					acked.Add(batchSize)
					<-room
				}
			}
			held = copy(acks, acks[n&^3:n])
			select {
			case total = <-sent:
			default:
			}
		}
		done <- nil
	}()
	const mid = "0123456789abcdef-1000000000"
	topic := "devices/" + id + "/messages/events/%24.mid=" + mid + "&%24.ct=application%2Fjson&%24.ce=utf-8"
	var batch []byte
	var seqs, pids []int // where the numbers lie
	for range batchSize {
		body := `{"temperature":21.5,"humidity":40.25,"pressure":1013.2,"location":{"lat":52.5,"lon":13.4},"status":"ok","uptime":123456}`
		at := len(batch)
		batch = append(batch, publish(topic, body)...)
		seqs = append(seqs, at+bytes.Index(batch[at:], []byte(mid))+len(mid)-9)
		pids = append(pids, at+bytes.Index(batch[at:], []byte(body))-2)
	}
	total := 0
	for !over.Load() {
		for i := range batchSize {
			total++
			for n, k := total, 8; k >= 0; k-- {
				batch[seqs[i]+k] = byte('0' + n%10)
				n /= 10
			}
			binary.BigEndian.PutUint16(batch[pids[i]:], uint16(1+total%60_000))
		}
		select {
		case room <- struct{}{}:
		case err := <-done:
			return err
		}
		if _, err := conn.Write(batch); err != nil {
			return err
		}
	}
	sent <- total
	if _, err := conn.Write([]byte{0xc0, 0}); err != nil { // wakes the reader if everything was acknowledged
		return err
	}
	if err := <-done; err != nil && !strings.Contains(err.Error(), "d000") {
		return err
	}
	return nil
}

// connect opens one device's connection.
func (t *target) connect(id string) (net.Conn, error) {
	conn, err := tls.Dial("tcp", t.addr, t.tls)
	if err != nil {
		return nil, err
	}
	user, password := t.addr+"/"+id+"/?api-version=2021-04-12", "any"
	if t.sim != nil {
		host := t.sim.Hubs[0].Host
		user, password = host+"/"+id+"/?api-version=2021-04-12", t.sim.token(id, host+"/devices/"+id, "")
	}
	if _, err = conn.Write(connectPacket(id, user, password)); err == nil {
		err = expect(conn, []byte{0x20, 2, 0, 0})
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func expect(conn net.Conn, want []byte) error {
	got := make([]byte, len(want))
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %x, want %x", got, want)
	}
	return nil
}

// provision registers devices with DPS, over HTTPS.
func (t *target) provision(ids []string) error {
	if t.sim == nil {
		return nil
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: t.tls, MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	return inParallel(len(ids), 8, func(i int) error {
		at := "https://" + t.sim.DPS.HTTPS + "/" + t.sim.IDScope + "/registrations/" + ids[i]
		token := t.sim.token(ids[i], t.sim.IDScope+"/registrations/"+ids[i], "&skn=registration")
		answer, err := do(client, http.MethodPut, at+"/register?api-version=2019-03-31", token, `{"registrationId":"`+ids[i]+`"}`)
		for err == nil && answer.Status == "assigning" {
			answer, err = do(client, http.MethodGet, at+"/operations/"+answer.OperationID+"?api-version=2019-03-31", token, "")
		}
		if err == nil && answer.Status != "assigned" {
			err = fmt.Errorf("DPS answers %q for %s", answer.Status, ids[i])
		}
		return err
	})
}

type registration struct{ Status, OperationID string }

func do(client *http.Client, method, url, token, body string) (r registration, err error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return r, err
	}
	request.Header.Set("Authorization", token)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return r, err
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

func (s *simInfo) token(id, resource, suffix string) string {
	group, _ := base64.StdEncoding.DecodeString(s.GroupKey)
	sr, se := url.QueryEscape(resource), time.Now().Add(time.Hour).Unix()
	sig := base64.StdEncoding.EncodeToString(sign(sign(group, id), fmt.Sprintf("%s\n%d", sr, se)))
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d%s", sr, url.QueryEscape(sig), se, suffix)
}

func sign(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// inParallel calls f for 0 to n-1 from several goroutines and returns the first failure.
func inParallel(n, workers int, f func(i int) error) error {
	var next atomic.Int64
	var jobs sync.WaitGroup
	failures := make(chan error, workers)
	for range workers {
		jobs.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	jobs.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func packet(first byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	b := []byte{first}
	for n := len(body); ; n >>= 7 {
		if n < 128 {
			return append(append(b, byte(n)), body...)
		}
		b = append(b, byte(n)|0x80)
	}
}

func connectPacket(id, user, password string) []byte {
	return packet(0x10, text("MQTT"), []byte{4, 0xc0, 0, 240}, text(id), text(user), text(password))
}

func subscribe(id string) []byte {
	parts := [][]byte{{0, 1}}
	for _, f := range []string{"devices/" + id + "/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"} {
		parts = append(parts, text(f), []byte{1})
	}
	return packet(0x82, parts...)
}

func publish(topic, body string) []byte {
	return packet(0x32, text(topic), []byte{0, 1}, []byte(body))
}

// packets calls f for each packet that comes, with its first byte and its body, which begins with
// the packet identifier if the packet has one.
func packets(r *bufio.Reader, f func(first byte, body []byte) error) error {
	var body []byte
	for {
		first, err := r.ReadByte()
		if err != nil {
			return err
		}
		n, err := binary.ReadUvarint(r) // the same code as MQTT's length
		if err != nil {
			return err
		}
		if n > 1<<20 {
			return errors.New("packet too large")
		}
		if uint64(cap(body)) < n {
			body = make([]byte, n)
		}
		body = body[:n]
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		if err := f(first, body); err != nil {
			return err
		}
	}
}
