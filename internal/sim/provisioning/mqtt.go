package provisioning

import (
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

const (
	dpsPacketLimit   = registerLimit + 1024
	dpsResponses     = "$dps/registrations/res/#"
	dpsRegisterTopic = "$dps/registrations/PUT/iotdps-register/"
	dpsPollTopic     = "$dps/registrations/GET/iotdps-get-operationstatus/"
)

// dpsSession is one MQTT connection to DPS. DPS keeps no sessions, and closes a connection for
// every packet that it does not know.
type dpsSession struct {
	dps     *Service
	wire    *wire.MQTT
	claim   claim
	alive   time.Duration
	since   time.Time // silence counts from here on, because a client waits for its CONNACK
	granted byte      // 0 if it is not subscribed, else the QoS plus one
	lastID  uint16
}

// parseDPSUsername reads {idScope}/registrations/{registrationId}/api-version={version}[&...].
// There is no question mark in it.
func parseDPSUsername(s string) (c claim, ok bool) {
	parts := strings.SplitN(s, "/", 4)
	if len(parts) != 4 || parts[0] == "" || parts[1] != "registrations" || parts[2] == "" {
		return claim{}, false
	}
	version, isVersion := strings.CutPrefix(parts[3], "api-version=")
	version, _, _ = strings.Cut(version, "&")
	return claim{idScope: parts[0], registrationID: parts[2], version: version}, isVersion && version != ""
}

// serveMQTT serves one connection over TCP.
func (p *Service) serveMQTT(c *wire.Conn) {
	secure := tls.Server(c, p.config.TLS)
	p.speakMQTT(c, secure, secure)
}

// speakMQTT serves one connection from its TLS handshake to its end.
func (p *Service) speakMQTT(c *wire.Conn, secure *tls.Conn, via wire.Carrier) {
	w := wire.NewMQTT(c, secure, via, dpsPacketLimit)
	c.OnHangUp(w.HangUp)
	defer w.Close()
	if err := w.Handshake(); err != nil {
		p.log.Debug().Str("hub", "dps").Err(err).Msg("TLS handshake failed")
		return
	}
	p.Converse(w)
}

// Converse serves a connection that needs no TLS handshake any more, until it ends. Outside this
// package it is for tests.
func (p *Service) Converse(w *wire.MQTT) { (&dpsSession{dps: p, wire: w}).run() }

func (s *dpsSession) run() {
	first, body, err := s.wire.Next()
	if err != nil || first>>4 != wire.PacketConnect {
		return
	}
	c, err := wire.ParseConnect(first, body)
	if err != nil {
		return
	}
	code, why := s.connect(c)
	if why != "" {
		s.dps.tell(claim{registrationID: c.ClientID}, answer{refused: fmt.Sprintf("CONNACK %d: %s", code, why)})
	}
	if code == wire.ConnackNotAuthorized && s.dps.config.MalformedDPS == MalformedClose {
		return
	}
	late := delayOf(s.dps.faults.Now.Load())
	s.since = time.Now().Add(late)
	s.wire.Add(wire.AppendConnack(nil, false, code), late)
	if code != wire.ConnackAccepted {
		s.wire.Settle()
		return
	}
	s.wire.LetIn(s.beforeRead)
	for err == nil {
		if first, body, err = s.wire.Next(); err == nil && !s.wire.HungUp() {
			err = s.handle(first, body)
		}
		if err == nil && s.wire.IsCrowded() {
			err = s.wire.Flush()
		}
	}
	if wire.BrokeRule(err) {
		s.dps.tell(s.claim, answer{refused: "connection closed: " + err.Error()})
	}
}

// connect accepts every well-formed user name, whatever the password: DPS checks credentials when
// the device registers.
func (s *dpsSession) connect(c wire.ConnectPacket) (code byte, refused string) {
	if c.Level != 4 {
		return wire.ConnackBadProtocol, fmt.Sprintf("protocol level %d", c.Level)
	}
	claim, ok := parseDPSUsername(c.Username)
	switch {
	case !ok:
		return wire.ConnackNotAuthorized, "malformed user name"
	case c.ClientID != claim.registrationID:
		return wire.ConnackNotAuthorized, "the client id is not the registration id of the user name"
	}
	s.claim = claim
	s.claim.token, s.claim.chain = c.Password, s.wire.PeerCertificates()
	s.claim.byAzureName = azure.IsDPSName(s.wire.ServerName())
	s.alive = c.Patience()
	return wire.ConnackAccepted, ""
}

func (s *dpsSession) beforeRead() error {
	if err := s.wire.Flush(); err != nil {
		return err
	}
	return s.wire.ExpectWithin(s.since, s.alive)
}

func (s *dpsSession) handle(first byte, body []byte) error {
	delay := delayOf(s.dps.faults.Now.Load())
	switch first >> 4 {
	case wire.PacketSubscribe:
		id, filters, err := wire.ParseFilters(first, body, true)
		if err != nil {
			return err
		}
		for _, f := range filters {
			if f.Name != dpsResponses {
				return wire.Closing("subscribe to unknown topic %.200q", f.Name)
			}
			s.granted = min(f.QoS, 1) + 1
		}
		s.wire.Add(wire.AppendSuback(nil, id, filters), delay)
		return nil
	case wire.PacketUnsubscribe:
		id, _, err := wire.ParseFilters(first, body, false)
		if err != nil {
			return err
		}
		s.granted = 0
		s.wire.Add(wire.AppendUnsuback(nil, id), delay)
		return nil
	case wire.PacketPublish:
		return s.publish(first, body)
	case wire.PacketPuback:
		_, err := wire.ParsePuback(first, body)
		return err
	case wire.PacketPingreq:
		if first&0x0f != 0 || len(body) != 0 {
			return wire.ErrMalformed
		}
		s.wire.Add(wire.AppendPingresp(nil), delay)
		return nil
	case wire.PacketDisconnect:
		return io.EOF
	}
	return wire.Closing("packet type %d is not for a server", first>>4)
}

func (s *dpsSession) publish(first byte, body []byte) error {
	p, err := wire.ParsePublish(first, body)
	if err != nil {
		return err
	}
	path, query, _ := strings.Cut(string(p.Topic), "?")
	rid, _ := azure.QueryRaw(query, "$rid")
	if p.QoS == 2 {
		return wire.Closing("QoS 2 is not supported")
	}
	if len(rid) > azure.RIDLimit {
		return wire.Closing("a $rid of %d bytes", len(rid))
	}
	var a answer
	switch path {
	case dpsRegisterTopic:
		a = s.dps.register(s.claim, p.Payload)
	case dpsPollTopic:
		operation, _ := azure.QueryValue(query, "operationId")
		a = s.dps.poll(s.claim, operation)
	default:
		return wire.Closing("publish to unknown topic %.200q", p.Topic)
	}
	if a.status != 0 {
		if p.QoS == 1 {
			s.wire.Add(wire.AppendPuback(nil, p.ID), a.delay)
		}
		s.reply(a, rid)
	}
	if a.hangUp {
		return wire.Closing("fault %s", DPSDrop)
	}
	return nil
}

func (s *dpsSession) reply(a answer, rid string) {
	if s.granted == 0 {
		return
	}
	stray := is(s.dps.faults.Now.Load(), DPSStray)
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
	s.wire.Add(wire.AppendPublish(nil, topic, azure.EncodeJSON(a.body), id, false), a.delay)
}
