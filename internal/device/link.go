package device

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/addresses"
	"github.com/hubhop-iot/hubhop/internal/plain"
	"github.com/hubhop-iot/hubhop/telemetry"
)

// link is a session with a hub and the drain that feeds it. The drain may have begun before the hub
// has accepted the session.
type link struct {
	*hub.Link
	drain *telemetry.Drain // nil without telemetry
	ends  time.Time        // what its token says, by the device's clock; zero with a certificate
	duty  atomic.Pointer[duty]
}

// dial makes one attempt. If it may, it sends samples of the outbox together with CONNECT. Then the
// first PUBACK needs no more round trips than the CONNACK.
func (d *Device) dial(ctx context.Context, dialer *hub.Dialer, t failover.Target) (*link, error) {
	l := new(link)
	a := hub.Attempt{Host: t.Host, DeviceID: t.DeviceID, Gateway: d.id.Gateway, Sequential: t.Sequential,
		TLS: d.tlsFor(cmp.Or(d.id.Gateway, t.Host)), Progress: func(p hub.Phase) {
			if p == hub.PhaseTLS {
				t.TLSUp()
			}
		}}
	if t.Early && !d.app.Off.Telemetry {
		a.Early = func(raw *hub.Link) {
			d.equip(l, raw)
			l.drain.Early()
		}
	}
	here, there := time.Now(), d.time.Now()
	raw, err := dialer.Dial(ctx, a)
	if told := d.shared.Timings.Dialled; told != nil {
		told(time.Since(here), err == nil)
	}
	if err != nil {
		d.linkBug(err)
		return nil, err
	}
	d.handshake()
	d.met(raw.Host(), raw.Peer())
	if ends := raw.Expires(); !ends.IsZero() {
		l.ends = there.Add(ends.Sub(here))
	}
	if l.drain == nil && !d.app.Off.Telemetry {
		d.equip(l, raw)
	}
	l.Link = raw
	return l, nil
}

// equip gives a link its drain.
func (d *Device) equip(l *link, raw *hub.Link) {
	options := d.c.Drain
	options.Created, options.Problem = d.time.Made, func(err error) { d.warn(raw.Host(), err.Error()) }
	options.Traffic = &d.traffic
	options.Go = func(work func()) {
		d.spawn("telemetry", func() {
			defer func() {
				if p := recover(); p != nil { // it ends the link, because a drain that has panicked is not used again
					if w := l.duty.Load(); w != nil {
						w.fail(&bug{path: "telemetry", value: plain.Line(fmt.Sprint(p), maxBugText)})
					}
					panic(p)
				}
			}()
			work()
		})
	}
	l.drain = telemetry.NewDrain(d.box, raw, options)
}

// dialContext opens one connection of the device.
func (d *Device) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	by := &addresses.Dialer{Resolve: d.shared.Resolve, Dial: d.shared.DialContext,
		Spawn:   func(f func()) { d.spawn("dialling", f) },
		Contain: func(f func() error) error { return d.run("dialling", f) }}
	if by.Resolve == nil {
		by.Resolve = net.DefaultResolver.LookupNetIP
	}
	if by.Dial == nil {
		by.Dial = d.shared.start().dialer.DialContext
	}
	d.shared.start().heap.Pace(ctx)
	return by.DialContext(ctx, network, addr)
}

// handshake notes that a connection was made.
func (d *Device) handshake() {
	d.shared.start().heap.Handshake(func(f func()) { d.spawn("memory", f) })
}
