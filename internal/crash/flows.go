package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// flows is a trial of data flows: numbered messages go through mosquitto, two graphs, the outbox
// and the simulator, while the device and the broker are killed, hubs die, and the disk is full.
type flows struct {
	*trial
	broker program
	relay  *relay // between broker and device
	gen    generator
	book   *flowBook
	disk   *smallDisk // nil: strace makes the disk full

	brokerDir string

	moved   int // failovers that were caused
	filled  int // times that the disk was full
	longest time.Duration
}

// deed is what happens to a trial of flows.
type deed byte

const (
	killTheDevice deed = iota
	killTheBroker
	moveTheDevice
	fillTheDisk
)

const (
	flowSources = 4

	// ahead is how many messages may be between the generator and the cloud, and how many mosquitto
	// may have sent without having read an acknowledgement: it reads one only between two writes of
	// its file. After a kill of hubhop mosquitto 2.0 sends all of those again, whatever the receive
	// maximum is. So what it sends again is bounded by twice this: those, and as many that waited
	// behind them.
	ahead = 1000
)

func newFlows(t *trial) *flows {
	last := (uint64(t.messages) + perWindow - 1) / perWindow * perWindow
	s := stream{sources: flowSources, last: last, base: time.Now().Add(-time.Duration(last/perWindow+48) * window).Truncate(window)}
	return &flows{trial: t, book: newFlowBook(s), gen: generator{stream: s, rate: t.rate, ahead: ahead, next: 1}}
}

// play is the whole run. Its error says why there is no verdict, or which program did not do what
// it must. Then the verdict has what was found until then.
func (f *flows) play(ctx context.Context) (drill.Verdict, error) {
	f.say("%d messages of %d sources at %d a second, through mosquitto, two graphs and the outbox to the simulator; SEED=%d, in %s", f.gen.last, flowSources,
		f.rate, f.seed, f.dir)
	life, cancel := context.WithCancel(ctx)
	end, err := f.setUp(life)
	defer func() {
		cancel() // a program that was started again lives as long
		end()
	}()
	if err == nil {
		err = f.strike(life)
	}
	if err == nil {
		err = f.finish(life)
	}
	if err != nil {
		return f.book.Found(), err
	}
	return f.judge(life)
}

// setUp starts everything but the generator. Before end is called, ctx must have ended.
func (f *flows) setUp(ctx context.Context) (end func(), err error) {
	var ends []func()
	end = func() {
		for i := range ends {
			ends[len(ends)-1-i]()
		}
	}
	broker, err := freeAddress(ctx)
	if err != nil {
		return end, err
	}
	if f.relay, err = newRelay(ctx, f.gen.stream, broker, f.ackEarly); err != nil {
		return end, err
	}
	for _, dir := range []string{"device", "broker", "flows"} {
		if err := os.MkdirAll(f.path(dir), 0o700); err != nil {
			return end, err
		}
	}
	f.brokerDir = f.path("broker")
	if f.disk, err = newSmallDisk(ctx, f.path("device"), diskSize); err != nil {
		f.disk = nil
		f.say("there is no tmpfs of our own, because no namespace is allowed (%v): strace makes the disk full", err)
	} else {
		ends = append(ends, f.disk.close)
		f.say("the device's state is on a tmpfs of %d MiB in a mount namespace", diskSize>>20)
		// What a killed process has written stays written, synced or not. So the broker, which
		// syncs its whole file at every change, may do that in memory.
		memory, err := newSmallDisk(ctx, f.brokerDir, brokerSize)
		if err != nil {
			return end, err
		}
		ends = append(ends, memory.close)
		f.brokerDir = memory.path
	}
	f.gen.unread = f.relay.unread
	if err := writeFlows(f.dir, f.brokerDir, broker, f.relay.address()); err != nil {
		return end, err
	}
	f.gen.address = broker
	path, err := mosquitto()
	if err != nil {
		return end, err
	}
	f.broker = program{name: "broker", path: path, home: f.dir, args: []string{"-c", f.brokerDir + "/mosquitto.conf"}}
	ends = append(ends, func() {
		f.gen.end()
		for _, p := range []*program{&f.device, &f.broker, &f.sim} {
			if p.ended != nil {
				<-p.ended
			}
		}
	})
	if err := f.startBroker(ctx); err != nil {
		return end, err
	}
	if err := f.startSim(ctx); err != nil {
		return end, err
	}
	if err := f.readyDevice(); err != nil {
		return end, err
	}
	f.device.args = append(f.device.args, "--telemetry-source", "none", "--flows", f.path("flows"), "--state-dir", f.state(), "--outbox-max-bytes", "32MiB")
	return end, f.device.start(ctx, nil)
}

// state is the device's directory.
func (f *flows) state() string {
	if f.disk != nil {
		return f.disk.path
	}
	return f.path("device")
}

// mosquitto finds the broker, which Debian has in a directory that is not in everybody's PATH.
func mosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("mosquitto is not installed: apt-get install -y --no-install-recommends mosquitto")
}

// freeAddress returns an address at which nobody listens.
func freeAddress(ctx context.Context) (string, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startBroker starts the broker, and waits until it listens.
func (f *flows) startBroker(ctx context.Context) error {
	if err := f.broker.start(ctx, nil); err != nil {
		return err
	}
	limit := time.Now().Add(f.recovery)
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", f.gen.address)
		if err == nil {
			return conn.Close()
		}
		if err := f.broker.running(); err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("mosquitto does not listen within %v: %w", f.recovery, err)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// strike begins to publish when both graphs have subscribed, and lets everything happen that the
// seed has decided on.
func (f *flows) strike(ctx context.Context) error {
	if err := f.subscribed(ctx); err != nil {
		return err
	}
	f.gen.start(ctx)
	r := rand.New(rand.NewPCG(f.seed, 0))
	deeds := make([]deed, 0, f.kills+f.brokerKills+f.moves+f.disks)
	for d, n := range []int{killTheDevice: f.kills, killTheBroker: f.brokerKills, moveTheDevice: f.moves, fillTheDisk: f.disks} {
		for range n {
			deeds = append(deeds, deed(d))
		}
	}
	r.Shuffle(len(deeds), func(i, j int) { deeds[i], deeds[j] = deeds[j], deeds[i] })
	for i, d := range deeds {
		from := f.gen.last * uint64(i+1) / uint64(len(deeds)+2)
		if err := f.until(ctx, fmt.Sprintf("event %d", i), func() bool { most, _ := f.gen.published(); return most >= from }); err != nil {
			return err
		}
		if err := f.follow(ctx, time.Duration(r.IntN(300))*time.Millisecond, never); err != nil {
			return err
		}
		text, err := f.act(ctx, d, r)
		if err != nil {
			return err
		}
		most, again := f.gen.published()
		f.say("%4d %s. %d published, %d of them again; %d mapped and %d windows arrived", i, text, most, again, f.book.distinct, f.book.closed)
		if f.book.Failed() {
			return errStopped
		}
	}
	return nil
}

// subscribed waits until the broker's file has the sessions of both graphs: a message that is
// published before that is nobody's.
func (f *flows) subscribed(ctx context.Context) error {
	began := time.Now()
	for time.Since(began) < f.recovery {
		n := 0
		for _, graph := range graphs {
			if _, err := os.Stat(f.state() + "/" + deviceID + "/flows/graphs/" + graph + "/samples.subscriptions.json"); err == nil {
				n++
			}
		}
		if n == 2 {
			return nil
		}
		if err := errors.Join(f.device.running(), f.broker.running()); err != nil {
			return err
		}
		pause(ctx, 20*time.Millisecond)
	}
	return fmt.Errorf("the graphs have not subscribed within %v", f.recovery)
}

// act lets one thing happen.
func (f *flows) act(ctx context.Context, d deed, r *rand.Rand) (what string, err error) {
	wait := time.Duration(r.IntN(400)) * time.Millisecond
	switch d {
	case killTheDevice:
		if err := f.device.kill(); err != nil {
			return "", err
		}
		pause(ctx, wait)
		return fmt.Sprintf("hubhop is killed, and started again after %v", wait), f.device.start(ctx, nil)
	case killTheBroker:
		return "mosquitto is killed", f.killBroker(ctx)
	case moveTheDevice:
		f.moved++
		return moveAway(ctx, &f.cloud, deviceID, r.IntN(1000))
	default:
		f.filled++
		return f.full(ctx, time.Second+5*wait)
	}
}

// killBroker kills the broker, and publishes again what had not arrived downstream before: the
// broker does not write its file before it acknowledges.
func (f *flows) killBroker(ctx context.Context) error {
	if err := f.read(ctx); err != nil {
		return err
	}
	downstream := f.book.downstream()
	if err := f.broker.kill(); err != nil {
		return err
	}
	f.gen.end()
	f.gen.back(downstream)
	if err := f.startBroker(ctx); err != nil {
		return err
	}
	f.gen.start(ctx)
	return nil
}

// full lets the disk be full for a while.
func (f *flows) full(ctx context.Context, d time.Duration) (what string, err error) {
	if f.disk == nil {
		b := burst{call: call{name: "pwrite64,fsync,fdatasync,ftruncate,mkdirat,renameat"}, errno: "ENOSPC", when: "1+1", lasts: d}
		in, err := inject(ctx, b, f.device.cmd.Process.Pid, f.path("trace"))
		if err != nil {
			return "", err
		}
		err = f.follow(ctx, d, never)
		failed, endErr := in.end()
		return fmt.Sprintf("the disk was full for %v, and %d calls failed", d, failed), errors.Join(err, endErr)
	}
	bytes, free, err := f.disk.fill()
	if err != nil {
		return "", err
	}
	before := f.book.distinct
	err = f.follow(ctx, d, never)
	return fmt.Sprintf("the disk was full for %v, by %d MiB; %d messages arrived meanwhile", d, bytes>>20, f.book.distinct-before), errors.Join(err, free())
}

// follow reads what arrives until enough returns true, or for d.
func (f *flows) follow(ctx context.Context, d time.Duration, enough func() bool) error {
	return f.watch(ctx, pollEvery, d, enough, func(ctx context.Context) error { return errors.Join(f.broker.running(), f.read(ctx)) })
}

// until reads what arrives until enough returns true. It fails when nothing new arrives for too
// long.
func (f *flows) until(ctx context.Context, what string, enough func() bool) error {
	for !enough() {
		before, began := f.book.distinct+f.book.closed, time.Now()
		if err := f.follow(ctx, f.recovery, func() bool { return enough() || f.book.distinct+f.book.closed > before }); err != nil {
			return err
		}
		if f.book.distinct+f.book.closed == before && !enough() {
			return fmt.Errorf("before %s nothing new has arrived for %v: %d mapped messages and %d windows have", what, f.recovery, f.book.distinct, f.book.closed)
		}
		f.longest = max(f.longest, time.Since(began))
	}
	return nil
}

// read takes in what has arrived since the last time.
func (f *flows) read(ctx context.Context) error {
	l, err := f.behind(ctx, f.book.received)
	if err != nil {
		return err
	}
	for _, m := range l.Messages {
		f.book.Add(m)
	}
	f.gen.seen(f.book.downstream())
	return nil
}

// finish heals the hubs, waits until all has arrived, and ends the device in order.
func (f *flows) finish(ctx context.Context) error {
	if err := drill.Heal(ctx, &f.cloud); err != nil {
		return err
	}
	if err := f.until(ctx, "the end", f.book.complete); err != nil {
		f.say("%v", err) // the verdict names what is missing
	}
	if err := f.device.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	limit := time.NewTimer(f.recovery)
	defer limit.Stop()
	select {
	case <-f.device.ended:
	case <-limit.C:
		return fmt.Errorf("the device has not ended within %v of a signal", f.recovery)
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.device.err != nil {
		return fmt.Errorf("the device ended with %w", f.device.err)
	}
	return f.read(ctx)
}

// allowed is how much may have come again. What arrives again as another message of the outbox is
// what the broker has sent again, no more: hubhop itself repeats nothing. The broker sends again
// what it knows no acknowledgement of, after a kill of hubhop or of itself. At a kill of hubhop the
// journal of the windows is played again from the last checkpoint on.
func (f *flows) allowed() allowance {
	kills, broker := int64(f.device.kills), int64(f.broker.kills)
	const journalPerKill = 2 << 20 // bytes: what waits for a checkpoint while one waits for its outputs
	const record = 150             // bytes, at least
	_, published := f.gen.published()
	toMapped, _ := f.relay.again(mappedGraph)
	toWindows, _ := f.relay.again(windowsGraph)
	return allowance{
		resent:   int64(f.window) * (kills + int64(f.moved) + 1),
		broker:   2*ahead*(kills+broker) + published,
		toMapped: toMapped, toWindows: toWindows,
		replayed: kills * journalPerKill / record / perWindow,
	}
}

// judge compares all lists, once the device has ended.
func (f *flows) judge(ctx context.Context) (drill.Verdict, error) {
	dir := f.state() + "/" + deviceID + "/outbox"
	if err := f.book.Holds(dir); err != nil {
		return f.book.Found(), err
	}
	may := f.allowed()
	v := f.book.Conclude(may)
	b := f.book
	most, again := f.gen.published()
	f.say("%d messages through %d kills of hubhop, %d of mosquitto, %d failovers (%d moves seen) and %d times a full disk, in %v", min(most, b.last), f.device.kills,
		f.broker.kills, f.moved, b.moves, f.filled, time.Since(f.began).Round(time.Second))
	f.say("%d of %d mapped messages and %d of %d windows arrived; %d messages were published again", b.distinct, b.last-b.last/dropEvery, b.closed,
		len(b.windows), again)
	for graph, repeated := range [...]int64{mappedGraph: b.again, windowsGraph: b.doubled} {
		all, own := f.relay.again(graph)
		f.say("%s: mosquitto sent %d messages again (at most %d for each of %d kills, and %d published again), %d of them although hubhop had acknowledged them; "+
			"%d of these %d count twice, and hubhop may add none", graphs[graph], all, 2*ahead, f.device.kills+f.broker.kills, again, own, repeated, all)
	}
	f.say("again under the same id: %d messages by the link (at most %d, its window of %d for each kill and failover), %d windows from the journal (at most %d)",
		b.resent, may.resent, f.window, b.replayed, may.replayed)
	f.say("%d windows behind the last hold repetitions alone", b.leftovers)
	f.say("the longest time without anything new: %v", f.longest.Round(10*time.Millisecond))
	return v, nil
}
