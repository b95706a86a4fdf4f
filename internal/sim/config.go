package sim

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// The layouts of a simulator: how its endpoints are spread over addresses and ports.
const (
	// LayoutLoopback gives every endpoint a loopback address of its own with the standard ports, so
	// that official SDKs work over every transport: DPS on the base address, hub i on base+i, MQTT
	// on 8883, HTTPS on 443 or 8443.
	LayoutLoopback = "loopback"
	// LayoutPorts puts everything on the base address with free ports; the assigned hub is then
	// "host:port".
	LayoutPorts = "ports"
)

// These values of Config.C2DBeforeSubscription say what happens to a cloud-to-device message that
// is older than the device's subscription.
const (
	EarlyC2DDeliver = "deliver" // the device gets it
	EarlyC2DReject  = "reject"  // it is dead-lettered, and its sender is told Rejected
)

// Config says what cloud to build. Start from [DefaultConfig]: most zero values stand for the
// default, but a zero RetryAfter, SASGrace and AutoApprove mean what they say.
type Config struct {
	Hubs        int    // number of IoT Hubs, 1 to 26; 0 means 2
	Layout      string // LayoutLoopback or LayoutPorts; "" means loopback on Linux, else ports
	BaseAddress string // IPv4 address of DPS, hub i is at base+i in LayoutLoopback; "" means 127.0.0.1
	HTTPSPort   int    // LayoutLoopback only; 0 means 443 where it can be bound, else 8443
	ControlAddr string // the control API; "" means 127.0.0.1:8090; if the port is taken a free one is used
	// Advertise is the host, a name or an IPv4 address, that clients are told in place of
	// BaseAddress: in assignedHub, in certificates and in sim.json. It is for clients that reach
	// this machine by another name, as from other containers. It needs LayoutPorts, because it is
	// one host; BaseAddress may then be 0.0.0.0. "" means BaseAddress.
	Advertise string
	ListenAny bool // allow addresses other machines can reach; without it every listener must be on loopback

	RetryAfter       time.Duration          // what DPS asks clients to wait, whole seconds; 0 is sent as 0
	RetryAfterAbsent bool                   // leave retry-after out altogether
	Polls            int                    // how many polls are answered 202 before the answer proper
	RetryAfterFirst  bool                   // MQTT: retry-after comes before $rid in the topic
	Allocation       string                 // AllocateStatic and its kin; "" means static
	HubWeights       []int                  // AllocateHashed: 1 to 1000 for each hub; those left out have 1
	Webhook          string                 // AllocateCustom: the URL that DPS asks, in the form of Azure's custom allocation
	Reprovision      string                 // ReprovisionMigrate and its kin; "" means migrate
	MalformedDPS     string                 // MalformedRefuse or MalformedClose; "" means refuse
	DPSLimits        provisioning.DPSLimits // answered 429 when exceeded; the zero value limits nothing
	AutoApprove      bool                   // false: a new device waits for Approve, DPS answers failed 400209 until then
	Move             string                 // MoveDisable or MoveDelete; "" means disable
	DisabledRefusal  byte                   // CONNACK code for a disabled identity, 3 or 5; 0 means 3
	// C2DBeforeSubscription is EarlyC2DDeliver or EarlyC2DReject; "" means deliver. It affects only
	// MQTT.
	C2DBeforeSubscription string
	SASGrace              time.Duration // how long after its expiry a token still serves at a hub

	IDScope           string                    // "" means 0ne00000SIM
	GroupKey          string                    // base64; "" draws 64 random bytes
	SecondaryGroupKey string                    // base64; "" draws 64 random bytes
	Enrollments       []provisioning.Enrollment // individual enrollments, beside the group that every device may use
	// EnrollmentDocuments are further enrollments and groups in the form of the DPS service API.
	// Hubs may be given by name.
	EnrollmentDocuments []json.RawMessage

	ConnectProxy string // address of an HTTP CONNECT proxy that leads Azure's names here; "" means none

	Template []byte // device templates of IoT Central: a DTDL interface or a list of them; nil means none

	LedgerKeep      int           // messages whose bodies are kept; 0 means 200,000
	LedgerKeepBytes int64         // bytes of bodies and properties kept; 0 means 256 MB
	ClockOffset     time.Duration // how far the cloud's clock is ahead of this machine's: certificates, tokens, HTTP dates

	// StateDir is a directory that outlives the process, made if missing: the same cloud comes back
	// from it, with its keys, devices, twins, messages and ledger, even if the process was killed.
	// "" keeps everything in memory.
	StateDir string

	ledgerSegment, ledgerCounts int64 // sizes of the ledger's files, see ledger.Options; tests make them small

	Page http.Handler // what the control API serves to browsers at / and below /page/; nil means nothing

	Listen func(network, addr string) (net.Listener, error) // nil means net.Listen
	Hooks  http.RoundTripper                                // how webhooks are called; nil means over the network
	Logger zerolog.Logger                                   // the zero value is silent
}

// DefaultConfig is the cloud that `hubhop sim` starts without flags.
func DefaultConfig() Config {
	return Config{
		RetryAfter:  3 * time.Second,
		AutoApprove: true,
		SASGrace:    5 * time.Minute,
		Logger:      zerolog.Nop(),
	}.withDefaults()
}

func (c Config) withDefaults() Config {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	layout := LayoutPorts // 127.0.0.2 and its kin are routable without set-up on Linux only
	if runtime.GOOS == "linux" {
		layout = LayoutLoopback
	}
	set(&c.Layout, layout)
	set(&c.BaseAddress, "127.0.0.1")
	set(&c.ControlAddr, "127.0.0.1:8090")
	set(&c.Allocation, provisioning.AllocateStatic)
	set(&c.Move, provisioning.MoveDisable)
	set(&c.Reprovision, provisioning.ReprovisionMigrate)
	set(&c.MalformedDPS, provisioning.MalformedRefuse)
	set(&c.C2DBeforeSubscription, EarlyC2DDeliver)
	set(&c.IDScope, "0ne00000SIM")
	if c.Hubs == 0 {
		c.Hubs = 2
	}
	if c.DisabledRefusal == 0 {
		c.DisabledRefusal = wire.ConnackUnavailable
	}
	if c.LedgerKeep == 0 {
		c.LedgerKeep = 200_000
	}
	if c.LedgerKeepBytes == 0 {
		c.LedgerKeepBytes = 256 << 20
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	return c
}

// onLoopbackOnly is where every listener passes, whatever address was computed or configured for
// it.
func onLoopbackOnly(listen func(network, addr string) (net.Listener, error)) func(network, addr string) (net.Listener, error) {
	return func(network, addr string) (net.Listener, error) {
		if host, _, err := net.SplitHostPort(addr); err != nil || !isLoopbackHost(host) {
			return nil, fmt.Errorf("listen %s: not a loopback address: listening there must be asked for with --listen-any", addr)
		}
		return listen(network, addr)
	}
}

// validate reports every fault of the configuration at once.
func (c Config) validate() error {
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("sim: "+format, args...))
		}
	}
	oneOf := func(name, got string, allowed ...string) {
		require(slices.Contains(allowed, got), "%s is %q, must be one of %q", name, got, allowed)
	}
	require(c.Hubs >= 1 && c.Hubs <= 26, "%d hubs, must be 1 to 26", c.Hubs)
	oneOf("layout", c.Layout, LayoutLoopback, LayoutPorts)
	oneOf("move", c.Move, provisioning.MoveDisable, provisioning.MoveDelete)
	oneOf("allocation", c.Allocation, provisioning.AllocateStatic, provisioning.AllocateHashed, provisioning.AllocateGeoLatency, provisioning.AllocateCustom)
	oneOf("reprovision", c.Reprovision, provisioning.ReprovisionMigrate, provisioning.ReprovisionReset, provisioning.ReprovisionNever)
	oneOf("malformed DPS user name", c.MalformedDPS, provisioning.MalformedRefuse, provisioning.MalformedClose)
	oneOf("C2D before subscription", c.C2DBeforeSubscription, EarlyC2DDeliver, EarlyC2DReject)
	require(c.Allocation != provisioning.AllocateCustom || c.Webhook != "", "a custom allocation needs a webhook")
	require(c.Webhook == "" || provisioning.ValidWebhook(c.Webhook), "webhook is %q, must be an http or https URL", c.Webhook)
	require(len(c.HubWeights) == 0 || len(c.HubWeights) <= c.Hubs, "%d hub weights for %d hubs", len(c.HubWeights), c.Hubs)
	for _, w := range c.HubWeights {
		require(w >= 1 && w <= 1000, "a hub's weight is %d, must be 1 to 1000", w)
	}
	require(c.DPSLimits.RegistrationsPerMinute >= 0 && c.DPSLimits.PollsPer10s >= 0, "a limit of DPS is negative")
	require(c.DisabledRefusal == wire.ConnackUnavailable || c.DisabledRefusal == wire.ConnackNotAuthorized,
		"disabled refusal is %d, must be CONNACK 3 or 5", c.DisabledRefusal)
	require(c.RetryAfter >= 0 && c.RetryAfter%time.Second == 0, "retry-after is %v, must be whole seconds", c.RetryAfter)
	require(c.Polls >= 0, "%d polls, must not be negative", c.Polls)
	require(c.SASGrace >= 0, "SAS grace is %v, must not be negative", c.SASGrace)
	require(c.LedgerKeep > 0 && c.LedgerKeepBytes > 0, "the ledger must keep something")
	require(c.HTTPSPort >= 0 && c.HTTPSPort <= 65535, "HTTPS port is %d", c.HTTPSPort)
	require(azure.ValidRegistrationID(c.IDScope), "ID scope is %q", c.IDScope)
	for _, key := range []string{c.GroupKey, c.SecondaryGroupKey} {
		_, err := base64.StdEncoding.DecodeString(key)
		require(err == nil, "a group key is not base64")
	}
	base, err := netip.ParseAddr(c.BaseAddress)
	require(err == nil && base.Is4() && (!base.IsUnspecified() || c.Advertise != ""), "base address is %q, must be an IPv4 address devices can dial", c.BaseAddress)
	require(c.Advertise == "" || validHost(c.Advertise), "the advertised host is %.80q, must be a host name or an IPv4 address, without a port", c.Advertise)
	require(c.Advertise == "" || c.Layout == LayoutPorts, "one advertised host needs layout %s: in layout %s every hub has an address of its own",
		LayoutPorts, c.Layout)
	if err == nil && base.Is4() && c.Hubs >= 1 && c.Hubs <= 26 {
		for i := range c.Hubs + 1 {
			a := c.address(i)
			require(a.IsLoopback() || c.ListenAny, "%s is not a loopback address: listening there must be asked for with --listen-any", a)
		}
	}
	for name, addr := range map[string]string{"control": c.ControlAddr, "CONNECT proxy": c.ConnectProxy} {
		if addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(addr)
		require(err == nil, "%s address is %q, must be host:port", name, addr)
		require(err != nil || c.ListenAny || isLoopbackHost(host),
			"%s address %s is not on loopback: listening there must be asked for with --listen-any", name, addr)
	}
	return errors.Join(errs...)
}

func (c Config) ledgerOptions(kept *store.Store) ledger.Options {
	return ledger.Options{
		Keep: c.LedgerKeep, KeepBytes: c.LedgerKeepBytes, Ahead: c.ClockOffset,
		Store: kept, Log: c.Logger, SegmentBytes: c.ledgerSegment, CountsBytes: c.ledgerCounts,
	}
}

// address is where host number i lives: 0 is DPS, i is hub i.
func (c Config) address(i int) netip.Addr {
	a := netip.MustParseAddr(c.BaseAddress)
	if c.Layout == LayoutPorts {
		return a
	}
	for range i {
		a = a.Next()
	}
	return a
}

// certified returns what the certificate of host number i holds: names, localhost, the addresses
// that clients dial, and the advertised host.
func (c Config) certified(i int, names ...string) (dns []string, addresses []netip.Addr) {
	dns = append(slices.Clone(names), "localhost")
	addresses = []netip.Addr{c.address(i)}
	if c.address(i).IsUnspecified() {
		addresses[0] = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if told, err := netip.ParseAddr(c.Advertise); err == nil {
		addresses = append(addresses, told)
	} else if c.Advertise != "" {
		dns = append(dns, c.Advertise)
	}
	return dns, addresses
}

// told returns the address that clients are told for host number i.
func (c Config) told(i int) string {
	if c.Advertise != "" {
		return c.Advertise
	}
	return c.address(i).String()
}

// validHost reports whether host is an IPv4 address, or a name of letters, digits, dashes and dots.
func validHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Is4() && !a.IsUnspecified()
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(host) <= 253
}

// isLoopbackHost reports whether a listener on host can only be reached from this machine. A name
// other than localhost could mean anything, so it counts as foreign.
func isLoopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
