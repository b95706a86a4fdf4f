// Package scenario is the language of drills: a YAML file that says what is broken and when, and
// what must hold. It reads such files strictly, with the line of every fault, and knows nothing of
// how they are played.
//
// The types of this package are the language. Their tags say what a value may be, and both the
// reader ([Parse]) and the JSON schema for editors ([Schema]) come from these tags.
package scenario

import (
	"encoding/json"
	"time"
)

// Scenario is one file.
type Scenario struct {
	Name        string `key:"name" must:"yes" pattern:"^[a-z0-9][a-z0-9-]{0,63}$" form:"small letters, digits and hyphens, at most 64" about:"what the scenario is called on the command line and in reports: small letters, digits and hyphens"`
	Title       string `key:"title" must:"yes" about:"one line that says what happens"`
	Description string `key:"description" about:"why one would run it, and what it shows"`
	Speed       string `key:"speed" one:"virtual,real" about:"how fast time runs, unless --speed says otherwise: virtual (default), in which days pass in seconds, or real"`

	Cloud  Cloud  `key:"cloud" about:"the simulated cloud; a target that is there already keeps its own settings"`
	Device Device `key:"device" about:"the device under test"`
	Steady Steady `key:"steady" about:"what is true before the first step and after the last one; without it nothing can be said about a fault"`
	Steps  []Step `key:"steps" must:"yes" about:"what happens, in this order"`
	Stop   Stop   `key:"stop" about:"conditions that end the run at once; everything is put back, and the verdict is failed"`
	Budget Budget `key:"budget" about:"what the run may cost"`

	Pos
}

// Pos is where a part of a scenario stands in its file.
type Pos struct{ Line int }

// Cloud says how the simulated cloud is set up.
type Cloud struct {
	Pos
	Hubs       int           `key:"hubs" min:"2" max:"26" about:"how many hubs there are: hub-a, hub-b and so on (default 2)"`
	RetryAfter RetryAfter    `key:"retryAfter" about:"what DPS asks devices to wait, whole seconds (default 3s), or none"`
	Polls      int           `key:"polls" min:"0" max:"100" about:"how often DPS answers assigning first"`
	Delay      time.Duration `key:"delay" max:"10s" about:"of the network, one way (default 1ms)"`
	Move       string        `key:"move" one:"disable,delete" about:"what happens to the identity in the hub that a device leaves (default disable)"`
	Refusal    string        `key:"refusal" one:"connack3,connack5" about:"how a hub refuses a disabled identity (default connack3)"`
}

// Device says how the device under test is set up.
type Device struct {
	Interval    time.Duration `key:"interval" min:"1ms" max:"24h" about:"between two samples (default 1s)"`
	Window      int           `key:"window" min:"1" max:"1000" about:"messages in flight at most"`
	Pipeline    string        `key:"pipeline" one:"auto,on,off" about:"whether the first packets of a link go out together"`
	Transport   string        `key:"transport" one:"mqtt,https" about:"how it speaks to DPS (default mqtt)"`
	TokenLife   time.Duration `key:"tokenLife" min:"1m" about:"of its SAS tokens (default 1h)"`
	Order       string        `key:"order" one:"fifo,fresh-first" about:"in which order a backlog is sent (default fifo)"`
	SyncEvery   time.Duration `key:"syncEvery" max:"1h" about:"how late the outbox may sync (default: at once)"`
	OutboxBytes Bytes         `key:"outboxBytes" about:"bound of the outbox, such as 64MiB (default 256MiB)"`
	Certificate time.Duration `key:"certificate" min:"1m" about:"the device has an X.509 certificate instead of a key, and it lives so long"`
	Others      int           `key:"others" min:"0" max:"200" about:"how many further devices there are in the ID scope"`
}

// Steady says what is true when nothing is broken.
type Steady struct {
	Within  time.Duration `key:"within" min:"1s" about:"how long it may take to come about (default 2m)"`
	Lasts   time.Duration `key:"lasts" min:"1s" about:"how long it must hold without a break (default: the gap, at least 5s)"`
	Gap     time.Duration `key:"gap" min:"1ms" about:"the longest time without a sample meanwhile (default three intervals, at least 3s)"`
	Backlog uint64        `key:"backlog" about:"samples that wait at most (default: 5, and those of a second)"`

	Pos
}

// Budget says what the run may cost.
type Budget struct {
	RTO        time.Duration `key:"rto" min:"1ms" about:"the longest recovery: from a fault to the first sample that a hub has; a step's own bound counts beside it"`
	RPO        uint64        `key:"rpo" about:"samples that may be lost or given up, in all (default 0)"`
	Duplicates *uint64       `key:"duplicates" about:"messages that may come again, in all (default: any number)"`

	Pos
}

// Stop are the conditions that end a run at once.
type Stop struct {
	Gap     time.Duration `key:"gap" min:"1s" about:"no sample has arrived for so long"`
	Backlog uint64        `key:"backlog" about:"more samples than this wait"`
	GivenUp *uint64       `key:"givenUp" about:"the outbox has given up more samples than this: dropped, set aside, or destroyed by the disk"`
	Lasts   time.Duration `key:"lasts" min:"1s" about:"the run has lasted so long"`

	Pos
}

// Step is one step. It begins At, or After the end of the step before. It ends when what it does is
// over, it has lasted as long as it should, and all that it expects is decided.
type Step struct {
	Name   string         `key:"name" must:"yes" about:"of the step, in reports"`
	At     *time.Duration `key:"at" min:"0s" about:"when it begins, counted from the steady state; steps may overlap"`
	After  *time.Duration `key:"after" min:"0s" about:"when it begins, counted from the end of the step before (default 0s)"`
	Lasts  time.Duration  `key:"lasts" about:"how long it lasts at least; gap, moves and the other bounds count over all of it"`
	Repeat int            `key:"repeat" min:"1" max:"10000" about:"how often the step is done, one after the other (default 1)"`
	Do     []Action       `key:"do" about:"what is done, all at once"`
	Expect Expect         `key:"expect" about:"what must come about, and what must not"`

	Pos
}

// Action is one thing that a step does: exactly one of its fields is set.
//
// A new kind needs a field here, and a case in each function of check.go that it is about: lasts
// (it takes time), place (it names a hub), checkAction (values that must not come together). What
// it does is a case in internal/drill/play/script.go, in one of the functions that newScene calls.
// Then go test ./internal/drill/scenario -update writes the schema and the tables of docs/drill.md.
type Action struct {
	Fault           *Fault          `key:"fault" about:"break a hub"`
	DPS             *DPSFault       `key:"dps" about:"break DPS"`
	Heal            string          `key:"heal" place:"yes" about:"end the fault of a hub, of dps, or of all"`
	Cut             *Cut            `key:"cut" about:"lose whatever is sent to a place and from it"`
	Delay           *Delay          `key:"delay" about:"make all ways longer"`
	Weather         *Weather        `key:"weather" about:"let segments come late or get lost"`
	Handover        *Lasting        `key:"handover" about:"take the device's address away, as when a phone changes its network: old connections fall silent for good"`
	Path            *Path           `key:"path" about:"let new connections fail"`
	Failover        *Failover       `key:"failover" about:"move the device to another hub, as an operator of IoT Central does"`
	Failback        *Members        `key:"failback" about:"return the device to its first hub"`
	Disconnect      *struct{}       `key:"disconnect" about:"close the device's connection"`
	Storm           *Storm          `key:"storm" about:"close the device's connection again and again"`
	Disable         *Ban            `key:"disable" about:"disable the device in DPS and in its hub"`
	DisableIdentity *Ban            `key:"disableIdentity" about:"disable the device in its hub only; DPS does not know"`
	Enable          *struct{}       `key:"enable" about:"undo disable and disableIdentity"`
	Block           *Ban            `key:"block" about:"block the device as an operator of IoT Central"`
	Unblock         *struct{}       `key:"unblock" about:"undo block"`
	Delete          *struct{}       `key:"delete" about:"delete the device from DPS and all hubs; it comes back as a new one"`
	Method          *Command        `key:"method" about:"call a direct method; while the device is away, again and again"`
	Message         *Command        `key:"message" about:"send a cloud-to-device message: a command that waits for the device"`
	Desired         map[string]JSON `key:"desired" about:"change desired properties"`
	Rate            *float64        `key:"rate" min:"0" max:"10000" about:"change the load: samples a second from now on"`
	Crash           *Crash          `key:"crash" about:"kill the program of the device, and start it again"`
	Restart         *Lasting        `key:"restart" about:"stop the program of the device in order, and start it again"`
	Halt            *struct{}       `key:"halt" about:"stop the program of the device in order"`
	Start           *struct{}       `key:"start" about:"start the program of the device"`
	Clock           *Clock          `key:"clock" about:"make the clock of the device wrong"`
	Rival           *Lasting        `key:"rival" about:"start another program with the same identity, on another machine"`
	Renew           *Renewal        `key:"newCertificate" about:"give the device a new X.509 certificate, and start its program again with it"`
	Chaos           *struct{}       `key:"chaos" about:"play the schedule of faults that belongs to the seed of the run (--seed); it sets up cloud and device, too"`

	Pos
}

// Lasting is something that lasts for a while.
type Lasting struct {
	For time.Duration `key:"for" min:"1ms" must:"yes" about:"how long"`
}

// Ban keeps a device out for a while, or until somebody lets it in again.
type Ban struct {
	For time.Duration `key:"for" min:"1ms" about:"how long; without it until enable or unblock, or the end of the run"`
}

// Fault is a fault of a hub.
type Fault struct {
	Hub      string        `key:"hub" must:"yes" hub:"yes" about:"which one"`
	Kind     string        `key:"kind" must:"yes" one:"kill,blackhole,syndrop,connack3,connack5,close,slow,drop-puback,throttle" about:"kill closes all and refuses new ones; blackhole answers nothing; syndrop does not even answer a dial; connack3 and connack5 refuse; close accepts and closes; slow and throttle are late; drop-puback does not acknowledge"`
	Close    string        `key:"close" one:"rst,fin" about:"how connections end (default rst)"`
	For      time.Duration `key:"for" min:"1ms" about:"when it ends by itself; without it, it lasts until heal or the end of the run"`
	Delay    time.Duration `key:"delay" min:"1ms" max:"10m" about:"slow: before every packet; throttle: before CONNACK and PUBACK"`
	DPSKnows *bool         `key:"dpsKnows" about:"whether DPS assigns other hubs meanwhile, as IoT Central does (default: under kill, blackhole, syndrop and connack)"`
	DPSLag   time.Duration `key:"dpsLag" about:"how long DPS needs to notice"`
	WhenOver string        `key:"whenOver" one:"answer,reset" about:"blackhole and syndrop: what happens to connections that waited (default answer)"`
	Empty    bool          `key:"empty" about:"the hub comes back without identities, twins and messages"`
}

// DPSFault is a fault of DPS.
type DPSFault struct {
	Kind       string         `key:"kind" must:"yes" one:"down,blackhole,drop,throttle,error500,stuck,slow,unauthorized,stray" about:"down refuses; blackhole answers nothing; drop closes in the middle; throttle is 429; error500 is 500; stuck goes on assigning; slow is late; unauthorized is 401; stray answers what nobody asked, too"`
	For        time.Duration  `key:"for" min:"1ms" about:"when it ends by itself; without it, it lasts until heal or the end of the run"`
	RetryAfter *time.Duration `key:"retryAfter" min:"0s" about:"throttle: what it asks for, whole seconds"`
	Delay      time.Duration  `key:"delay" min:"1ms" max:"10m" about:"slow: before every answer"`
	WhenOver   string         `key:"whenOver" one:"answer,reset" about:"blackhole: what happens to connections that waited (default answer)"`
}

// Cut loses what is sent.
type Cut struct {
	Place string        `key:"place" must:"yes" place:"yes" about:"a hub, dps, or all"`
	For   time.Duration `key:"for" min:"1ms" must:"yes" about:"how long; connections that lived through it stay dead"`
}

// Delay makes all ways longer.
type Delay struct {
	By  time.Duration `key:"by" min:"0s" max:"1m" must:"yes" about:"one way"`
	For time.Duration `key:"for" min:"1ms" must:"yes" about:"how long"`
}

// Weather lets segments come late or get lost.
type Weather struct {
	Jitter time.Duration `key:"jitter" min:"0s" max:"1m" about:"how much longer a segment may take"`
	Loss   float64       `key:"loss" min:"0" max:"0.9" about:"share of the segments that are lost at first"`
	For    time.Duration `key:"for" min:"1ms" must:"yes" about:"how long"`
}

// Path lets new connections fail.
type Path struct {
	Place string        `key:"place" must:"yes" place:"yes" about:"a hub, dps, or all"`
	How   string        `key:"how" must:"yes" one:"nxdomain,no-dns,unreachable,refused,portal,reset,hang" about:"how they fail"`
	For   time.Duration `key:"for" min:"1ms" must:"yes" about:"how long"`
}

// Members says which devices an action is about.
type Members struct {
	Devices string `key:"devices" one:"one,all" about:"the device under test (default), or all devices of the ID scope"`
}

// Failover moves devices.
type Failover struct {
	For     time.Duration `key:"for" min:"1s" max:"720h" about:"after which they return by themselves (default 30m); the step waits for that only with backOnceOver"`
	Devices string        `key:"devices" one:"one,all" about:"the device under test (default), or all devices of the ID scope"`
}

// Storm closes connections again and again.
type Storm struct {
	Times int           `key:"times" min:"1" max:"1000" must:"yes" about:"how often"`
	Every time.Duration `key:"every" min:"1ms" must:"yes" about:"how long after each other"`
}

// Command is a direct method or a cloud-to-device message.
type Command struct {
	Name    string `key:"name" must:"yes" about:"of the command; the application of the device must know it"`
	Payload JSON   `key:"payload" about:"any value"`
}

// Crash kills the program of the device.
type Crash struct {
	Close string        `key:"close" one:"rst,fin" about:"how its connections end (default rst)"`
	For   time.Duration `key:"for" min:"1ms" must:"yes" about:"how long until it is started again"`
}

// Clock makes the clock of the device wrong.
type Clock struct {
	Ahead string        `key:"ahead" must:"yes" pattern:"^(1970|-?[0-9].*)$" form:"a duration such as -2h, or 1970" about:"by how much it is ahead, such as -2h; or 1970, where a clock without a battery starts"`
	For   time.Duration `key:"for" min:"1ms" must:"yes" about:"how long"`
}

// Renewal is a new certificate.
type Renewal struct {
	Life time.Duration `key:"life" min:"1m" must:"yes" about:"how long it lives"`
}

// Expect is what must come about in a step. All of it must hold. A new one needs an entry in
// judgedBy of internal/drill/play/judged.go, which says who can judge it.
type Expect struct {
	Back          time.Duration `key:"back" min:"1ms" about:"within this time a hub has a sample again that was made after the step began"`
	BackOnceOver  time.Duration `key:"backOnceOver" min:"1ms" about:"the same, counted from the end of what the step does"`
	On            string        `key:"on" hub:"yes" about:"with back or backOnceOver: the hub that has it"`
	Drained       time.Duration `key:"drained" min:"1ms" about:"within this time after the device is back, nothing waits any more but what is being sent"`
	Silent        time.Duration `key:"silent" min:"1ms" about:"for so long no sample arrives: what should keep the device out does"`
	Gap           time.Duration `key:"gap" min:"1ms" about:"the longest time without a sample, over the whole step"`
	Lost          *uint64       `key:"lost" about:"samples of this step that may be lost or given up; decided when the run is over"`
	Duplicates    *uint64       `key:"duplicates" about:"messages that may come again in this step"`
	Answered      time.Duration `key:"answered" min:"1ms" about:"within this time each command of the step is answered"`
	Acknowledged  time.Duration `key:"acknowledged" min:"1ms" about:"within this time the desired change of the step is acknowledged, with its value and code 200"`
	Moves         *uint64       `key:"moves" about:"how often samples may come to another hub than the one before"`
	Registrations *uint64       `key:"registrations" about:"how often devices may ask DPS"`
	Connects      *uint64       `key:"connects" about:"how often devices may connect to hubs"`
	Dials         *uint64       `key:"dials" about:"how often the device may open a connection, to hubs and to DPS, also in vain"`
	Rules         []string      `key:"rules" about:"rows of the decision table that the device must have taken, such as H07; hubhop explain lists them"`

	Pos
}

// JSON is a value of the file as JSON.
type JSON = json.RawMessage
