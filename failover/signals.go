package failover

import "fmt"

// Signal is something that happened to a device, as far as it matters for what to do next.
type Signal uint8

// The signals of a hub, then those of DPS.
const (
	Unknown           Signal = iota // an error that no other signal stands for
	LinkClosed                      // the hub closed a link in order (FIN)
	LinkReset                       // the link was reset, or a write on it failed
	LinkSilent                      // the watchdog found the link dead
	LinkUnacked                     // the hub lives, but withheld a PUBACK up to the final limit
	TokenRenewal                    // planned: the token is to be replaced
	TokenExpired                    // the link ended after its SAS token had expired
	LinkContested                   // three links or more in a row were closed in order soon after they were up
	DialRefused                     // TCP refused
	DialReset                       // TCP or TLS was reset or closed
	DialSilent                      // TCP or TLS: no answer
	NameNotFound                    // NXDOMAIN
	NetworkDown                     // no route, no DNS server: the trouble is on this side
	TLSFailed                       // the certificate was refused, or another error of TLS
	ClockOff                        // a certificate is not valid at this machine's time
	ClockSet                        // the same, or CONNACK 5 of a pinned hub; the right time is known since
	ClosedEarly                     // closed between TLS and CONNACK
	ConnackSilent                   // no CONNACK
	Connack3                        // server unavailable; also for a disabled identity: moved or blocked
	Connack5                        // not authorised: token, key, clock, deleted, moved
	ConnackOther                    // CONNACK 1, 2, 4 or unknown
	SubscribeRefused                // SUBACK 0x80
	HubProtocol                     // the hub broke the protocol
	NothingHeard                    // the hedge delay passed and the attempt has not even TLS
	ConnackPending                  // TLS is up, CONNACK is not, for 5 s
	DPSUnreachable                  // DPS: refused, no name, no route
	DPSSilent                       // DPS: connected, or not, but no answer
	DPSDropped                      // DPS closed the connection in the middle of a registration
	DPSEarly                        // DPS closed before CONNACK, after everything was sent in one write
	DPSThrottled                    // 429
	DPSError                        // 5xx
	DPSUnauthorized                 // 401, 403
	DPSBlocked                      // 400209: waiting for approval, or blocked by an operator
	DPSDisabled                     // the enrollment is disabled
	DPSNotFound                     // 404: not enrolled
	DPSFailed                       // any other failed registration, as of the allocation
	DPSBadRequest                   // any other 4xx
	DPSConflict                     // 409: two registrations of one id
	DPSLostOperation                // 404202 while polling
	DPSStuck                        // assigning for ever
	DPSTLS                          // the certificate of DPS was refused
	DPSClock                        // the certificate of DPS is not valid at this machine's time
	DPSClockSet                     // the same, or a refusal of the token; the right time is known since
	DPSRefusedConnect               // CONNACK other than 0 from DPS
	DPSNonsense                     // the answer has an impossible name, or is not of DPS's form
	DPSRefusedBefore                // at the start: DPS has refused the device for over a minute
	AssignedOther                   // DPS named another hub than the one in use
	AssignedDialling                // DPS named the hub that is being dialled
	AssignedFailing                 // DPS named the hub that has just failed
	AssignedContested               // DPS stands by the hub that soon closes each link
	Stopping                        // this side is going down
	signals
)

// Proof says how a device proves its identity, and to whom, so that a hint names only settings that
// the device has. The zero value is a key, for DPS and its hubs.
type Proof struct {
	Certificate bool // a certificate proves it, not a key
	OneHub      bool // a connection string names the hub, and there is no DPS
}

// signalTable says everything about a signal but what to do about it, which is in [Rules].
var signalTable = [signals]struct {
	name        string
	endsLink    bool               // it is the end of a link that was at work
	needsPerson bool               // waiting does not help
	hint        func(Proof) string // what a person can do; nil: the device deals with it alone
}{
	Unknown:          {name: "unknown error"},
	LinkClosed:       {name: "link closed", endsLink: true},
	LinkReset:        {name: "link reset", endsLink: true},
	LinkSilent:       {name: "link silent", endsLink: true},
	LinkUnacked:      {name: "PUBACK withheld", endsLink: true},
	TokenRenewal:     {name: "token renewal", endsLink: true},
	TokenExpired:     {name: "token expired", endsLink: true},
	LinkContested:    {name: "link closed again and again", endsLink: true, hint: always(stopOther)},
	DialRefused:      {name: "connection refused"},
	DialReset:        {name: "connection reset"},
	DialSilent:       {name: "no answer"},
	NameNotFound:     {name: "name not found"},
	NetworkDown:      {name: "network down"},
	TLSFailed:        {name: "TLS failed", hint: always(giveCA)},
	ClockOff:         {name: "clock off", needsPerson: true, hint: always(setClock)},
	ClockSet:         {name: "clock was off"},
	ClosedEarly:      {name: "closed before CONNACK"},
	ConnackSilent:    {name: "no CONNACK"},
	Connack3:         {name: "CONNACK 3"},
	Connack5:         {name: "CONNACK 5", hint: checkIdentity},
	ConnackOther:     {name: "CONNACK 1, 2 or 4"},
	SubscribeRefused: {name: "subscription refused"},
	HubProtocol:      {name: "protocol violation"},
	NothingHeard:     {name: "nothing heard yet"},
	ConnackPending:   {name: "CONNACK pending"},
	DPSUnreachable:   {name: "DPS unreachable", hint: always(checkNetwork)},
	DPSSilent:        {name: "DPS silent", hint: always(checkNetwork)},
	DPSDropped:       {name: "DPS dropped"},
	DPSEarly:         {name: "DPS closed before CONNACK"},
	DPSThrottled:     {name: "DPS 429"},
	DPSError:         {name: "DPS 5xx"},
	DPSUnauthorized:  {name: "DPS 401", needsPerson: true, hint: checkEnrollment},
	DPSBlocked: {
		name: "DPS 400209", needsPerson: true,
		hint: always("approve or unblock the device in IoT Central (or in the allocation webhook)"),
	},
	DPSDisabled: {
		name: "DPS disabled", needsPerson: true,
		hint: always("enable the enrollment at DPS"),
	},
	DPSNotFound: {
		name: "DPS 404", needsPerson: true,
		hint: always("create an enrollment for this device, or check --id-scope and --device-id"),
	},
	DPSFailed: {
		name: "DPS failed", needsPerson: true,
		hint: always("look at the enrollment's allocation policy and its linked hubs"),
	},
	DPSBadRequest:     {name: "DPS 4xx", needsPerson: true, hint: always(checkFlags)},
	DPSConflict:       {name: "DPS 409"},
	DPSLostOperation:  {name: "DPS 404202"},
	DPSStuck:          {name: "DPS stuck"},
	DPSTLS:            {name: "DPS TLS failed", hint: always(giveCA)},
	DPSClock:          {name: "DPS clock off", needsPerson: true, hint: always(setClock)},
	DPSClockSet:       {name: "DPS clock was off"},
	DPSRefusedConnect: {name: "DPS CONNACK", needsPerson: true, hint: always(checkFlags)},
	DPSNonsense: {
		name: "DPS answer makes no sense",
		hint: always("check --provisioning-host, and what stands between this machine and DPS"),
	},
	DPSRefusedBefore:  {name: "refused before the start"},
	AssignedOther:     {name: "assigned another hub"},
	AssignedDialling:  {name: "assigned the hub being dialled"},
	AssignedFailing:   {name: "assigned the hub that failed"},
	AssignedContested: {name: "assigned the hub that keeps closing", hint: always(stopOther)},
	Stopping:          {name: "stopping"},
}

const (
	checkFlags   = "check --id-scope, --device-id and --provisioning-host"
	checkNetwork = "check the network and --provisioning-host"
	giveCA       = "if this is a private hub or the simulator, give its CA with --ca-file; else something in between replaces the certificate"
	setClock     = "set this machine's clock (timedatectl set-ntp true)"
	stopOther    = "another client uses this device's identity: stop it, or give it an identity of its own"
)

// always is the hint for a signal that asks the same of each device.
func always(text string) func(Proof) string { return func(Proof) string { return text } }

// checkEnrollment is the hint for a device whose proof DPS has refused.
func checkEnrollment(p Proof) string {
	if p.Certificate {
		return "check --id-scope, that an enrollment takes this certificate or its CA, and this machine's clock"
	}
	return "check --id-scope, the key and the device id it was made for, and this machine's clock"
}

// checkIdentity is the hint for a device whose proof a hub has refused.
func checkIdentity(p Proof) string {
	proof := "the key"
	if p.Certificate {
		proof = "the certificate"
	}
	if p.OneHub {
		return "check " + proof + ", that the hub has this device and has it enabled, and this machine's clock"
	}
	return "if DPS stands by this hub, check " + proof + " and this machine's clock"
}

func (s Signal) String() string {
	if s < signals {
		return signalTable[s].name
	}
	return fmt.Sprintf("signal %d", uint8(s))
}

// EndsLink reports whether a signal is the end of a link that was at work.
func (s Signal) EndsLink() bool { return s < signals && signalTable[s].endsLink }

// NeedsPerson reports whether a signal will not go away by waiting: a person must see to the
// credentials, the enrollment, the approval or the clock.
func (s Signal) NeedsPerson() bool { return s < signals && signalTable[s].needsPerson }

// Hint is what a person can do about a signal, empty if the device deals with it alone.
func (s Signal) Hint(p Proof) string {
	if s >= signals || signalTable[s].hint == nil {
		return ""
	}
	return signalTable[s].hint(p)
}
