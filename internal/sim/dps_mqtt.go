package sim

import (
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

const (
	dpsPacketLimit   = registerLimit + 1024
	dpsResponses     = "$dps/registrations/res/#"
	dpsRegisterTopic = "$dps/registrations/PUT/iotdps-register/"
	dpsPollTopic     = "$dps/registrations/GET/iotdps-get-operationstatus/"
)

// dpsSession is one MQTT connection to DPS. DPS keeps no sessions, and whatever it does not know closes the connection.
type dpsSession struct {
	dps     *dps
	wire    *wire
	claim   claim
	alive   time.Duration
	since   time.Time // as in session
	granted byte      // like subscriptions: 0 is not subscribed, 1 is QoS 0, 2 is QoS 1
	lastID  uint16
}

// parseDPSUsername takes {idScope}/registrations/{registrationId}/api-version={version}[&...]; there is no question mark.
func parseDPSUsername(s string) (c claim, ok bool) {
	parts := strings.SplitN(s, "/", 4)
	if len(parts) != 4 || parts[0] == "" || parts[1] != "registrations" || parts[2] == "" {
		return claim{}, false
	}
	version, isVersion := strings.CutPrefix(parts[3], "api-version=")
	version, _, _ = strings.Cut(version, "&")
	return claim{idScope: parts[0], registrationID: parts[2], version: version}, isVersion && version != ""
}

// serveMQTT is one connection over TCP.
func (p *dps) serveMQTT(c *conn) {
	secure := tls.Server(c, p.tls)
	p.speakMQTT(c, secure, secure)
}

// speakMQTT is one connection from TLS to the end.
func (p *dps) speakMQTT(c *conn, secure *tls.Conn, via carrier) {
	w := newWire(c, secure, via, dpsPacketLimit)
	c.onHangUp(w.hangUp)
	defer w.close()
	if err := w.handshake(); err != nil {
		p.log.Debug().Str("hub", "dps").Err(err).Msg("TLS handshake failed")
		return
	}
	(&dpsSession{dps: p, wire: w}).run()
}

func (s *dpsSession) run() {
	first, body, err := s.wire.next()
	if err != nil || first>>4 != packetConnect {
		return
	}
	c, err := parseConnect(first, body)
	if err != nil {
		return
	}
	code, why := s.connect(c)
	if why != "" {
		s.dps.tell(claim{registrationID: c.clientID}, answer{refused: fmt.Sprintf("CONNACK %d: %s", code, why)})
	}
	if code == connackNotAuthorized && s.dps.config.MalformedDPS == MalformedClose {
		return
	}
	late := delayOf(s.dps.faults.now.Load())
	s.since = time.Now().Add(late)
	s.wire.add(appendConnack(nil, false, code), late)
	if code != connackAccepted {
		s.wire.settle()
		return
	}
	s.wire.letIn(s.beforeRead)
	for err == nil {
		if first, body, err = s.wire.next(); err == nil && !s.wire.hungUp() {
			err = s.handle(first, body)
		}
		if err == nil && s.wire.isCrowded() {
			err = s.wire.flush()
		}
	}
	if brokeRule(err) {
		s.dps.tell(s.claim, answer{refused: "connection closed: " + err.Error()})
	}
}

// connect accepts every well-formed user name, whatever the key: DPS looks at credentials when the device registers.
func (s *dpsSession) connect(c connectPacket) (code byte, refused string) {
	if c.level != 4 {
		return connackBadProtocol, fmt.Sprintf("protocol level %d", c.level)
	}
	claim, ok := parseDPSUsername(c.username)
	switch {
	case !ok:
		return connackNotAuthorized, errUsername.Error()
	case c.clientID != claim.registrationID:
		return connackNotAuthorized, "the client id is not the registration id of the user name"
	}
	s.claim = claim
	s.claim.token, s.claim.chain = c.password, s.wire.peerCertificates()
	s.claim.byAzureName = azure.IsDPSName(s.wire.serverName())
	s.alive = c.patience()
	return connackAccepted, ""
}

func (s *dpsSession) beforeRead() error {
	if err := s.wire.flush(); err != nil {
		return err
	}
	return s.wire.expectWithin(s.since, s.alive)
}

func (s *dpsSession) handle(first byte, body []byte) error {
	delay := delayOf(s.dps.faults.now.Load())
	switch first >> 4 {
	case packetSubscribe:
		id, filters, err := parseFilters(first, body, true)
		if err != nil {
			return err
		}
		for _, f := range filters {
			if f.name != dpsResponses {
				return closing("subscribe to unknown topic %.200q", f.name)
			}
			s.granted = min(f.qos, 1) + 1
		}
		s.wire.add(appendSuback(nil, id, filters), delay)
		return nil
	case packetUnsubscribe:
		id, _, err := parseFilters(first, body, false)
		if err != nil {
			return err
		}
		s.granted = 0
		s.wire.add(appendUnsuback(nil, id), delay)
		return nil
	case packetPublish:
		return s.publish(first, body)
	case packetPuback:
		_, err := parsePuback(first, body)
		return err
	case packetPingreq:
		if first&0x0f != 0 || len(body) != 0 {
			return errMalformed
		}
		s.wire.add(appendPingresp(nil), delay)
		return nil
	case packetDisconnect:
		return io.EOF
	}
	return closing("packet type %d is not for a server", first>>4)
}

func (s *dpsSession) publish(first byte, body []byte) error {
	p, err := parsePublish(first, body)
	if err != nil {
		return err
	}
	path, query, _ := strings.Cut(string(p.topic), "?")
	rid, _ := azure.QueryRaw(query, "$rid")
	if p.qos == 2 {
		return closing("QoS 2 is not supported")
	}
	if len(rid) > ridLimit {
		return closing("a $rid of %d bytes", len(rid))
	}
	var a answer
	switch path {
	case dpsRegisterTopic:
		a = s.dps.register(s.claim, p.payload)
	case dpsPollTopic:
		operation, _ := azure.QueryValue(query, "operationId")
		a = s.dps.poll(s.claim, operation)
	default:
		return closing("publish to unknown topic %.200q", p.topic)
	}
	if a.status != 0 {
		if p.qos == 1 {
			s.wire.add(appendPuback(nil, p.id), a.delay)
		}
		s.reply(a, rid)
	}
	if a.hangUp {
		return closing("fault %s", DPSDrop)
	}
	return nil
}

func (s *dpsSession) reply(a answer, rid string) {
	if s.granted == 0 {
		return
	}
	stray := is(s.dps.faults.now.Load(), DPSStray)
	if stray {
		s.publishAnswer(a, azure.NewGUID())
	}
	s.publishAnswer(a, rid)
	if stray {
		s.publishAnswer(a, rid)
	}
}

func (s *dpsSession) publishAnswer(a answer, rid string) {
	query := []string{"$rid=" + rid}
	if a.retryAfter != "" {
		query = append(query, "retry-after="+a.retryAfter)
	}
	if s.dps.config.RetryAfterFirst {
		slices.Reverse(query)
	}
	topic := "$dps/registrations/res/" + strconv.Itoa(a.status) + "/?" + strings.Join(query, "&")
	var id uint16
	if s.granted == 2 {
		if s.lastID++; s.lastID == 0 {
			s.lastID = 1
		}
		id = s.lastID
	}
	s.wire.add(appendPublish(nil, topic, azure.EncodeJSON(a.body), id, false), a.delay)
}
