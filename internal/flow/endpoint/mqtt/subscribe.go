package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// maxAsk is how many filters one SUBSCRIBE names, so that the packet stays small.
const maxAsk = 64

// SetFilters changes what the source is subscribed to, without a new connection. Filters that stay
// are not touched. A removed one ends when the broker has answered for the new ones, so that a message
// of both is not lost; it may come twice. What the broker had already queued for a removed filter
// still comes.
func (s *Source) SetFilters(filters []string) error {
	wire, err := s.c.wire(filters)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var added []string
	for _, f := range wire {
		if !slices.Contains(s.filters, f) {
			added = append(added, f)
		}
	}
	for _, f := range s.filters {
		if !slices.Contains(wire, f) {
			delete(s.refused, f)
		}
	}
	s.filters = wire
	if s.session != nil {
		s.subscribeLocked(added)
		s.tidyLocked()
	}
	return nil
}

// subscribeLocked asks for filters. What the broker has excluded in its CONNACK is not asked for,
// because it would end the session.
func (s *Source) subscribeLocked(filters []string) {
	var ask []string
	for _, f := range filters {
		switch g := &s.session.Grant; {
		case g.NoShared && strings.HasPrefix(f, "$share/"):
			s.refuseLocked(f, mqtt5.NoShared)
		case g.NoWildcards && strings.ContainsAny(f, "+#"):
			s.refuseLocked(f, mqtt5.NoWildcards)
		default:
			ask = append(ask, f)
		}
	}
	for part := range slices.Chunk(ask, maxAsk) {
		id := s.idLocked(request{filters: part})
		ask := make([]mqtt5.Filter, len(part))
		for i, f := range part {
			ask[i] = mqtt5.Filter{Topic: f, QoS: s.c.QoS}
		}
		s.session.Send(func(out []byte) []byte { return mqtt5.AppendSubscribe(out, id, ask...) })
	}
	s.session.Owes(len(s.asked))
}

// tidyLocked ends the subscriptions that are not wanted any more, once no SUBSCRIBE waits for its
// answer. Between an UNSUBSCRIBE and a SUBSCRIBE the broker would drop what both filters take.
func (s *Source) tidyLocked() {
	ending := map[string]bool{}
	for _, r := range s.asked {
		if !r.remove {
			return
		}
		for _, f := range r.filters {
			ending[f] = true
		}
	}
	var removed []string
	for _, f := range s.granted {
		if !ending[f] && !slices.Contains(s.filters, f) {
			removed = append(removed, f)
		}
	}
	for part := range slices.Chunk(removed, maxAsk) {
		id := s.idLocked(request{filters: part, remove: true})
		s.session.Send(func(out []byte) []byte { return mqtt5.AppendUnsubscribe(out, id, part...) })
	}
	s.session.Owes(len(s.asked))
}

// idLocked notes a request and returns its packet id. The ids run down, because mochi-mqtt takes an
// id for used that one of its own messages has, and those run up.
func (s *Source) idLocked(r request) uint16 {
	for {
		s.lastID--
		if _, taken := s.asked[s.lastID]; s.lastID != 0 && !taken {
			s.asked[s.lastID] = r
			return s.lastID
		}
	}
}

// answered handles SUBACK and UNSUBACK.
func (s *Source) answered(p *mqtt5.Packet) error {
	granted, changed, err := s.answer(p)
	if changed {
		s.remember(granted)
	}
	return err
}

// answer notes the answer. It returns what the broker's session has now, and whether that is news.
func (s *Source) answer(p *mqtt5.Packet) (granted []string, changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.asked[p.ID]
	if !ok || r.remove != (p.Kind == mqtt5.Unsuback) || len(p.Reasons) != len(r.filters) {
		return nil, false, mqtt5.Faulty(mqtt5.ProtocolError, "a %v that answers nothing, or has not one reason for each filter", p.Kind)
	}
	delete(s.asked, p.ID)
	before := slices.Clone(s.granted)
	for i, f := range r.filters {
		reason := mqtt5.Reason(p.Reasons[i])
		switch {
		case r.remove && reason.Failed():
			s.c.warn("the broker does not end the subscription to %q: %v", f, reason)
		case r.remove:
			s.granted = slices.DeleteFunc(s.granted, func(g string) bool { return g == f })
		case reason.Failed():
			s.refuseLocked(f, reason)
		default:
			delete(s.refused, f)
			if !slices.Contains(s.granted, f) {
				s.granted = append(s.granted, f)
			}
			if byte(reason) < s.c.QoS {
				s.once("qos "+f, "the broker grants QoS %d for %q: its messages can be lost", reason, f)
			}
		}
	}
	if s.session != nil {
		if !r.remove {
			s.tidyLocked()
		}
		s.session.Owes(len(s.asked))
	}
	if len(s.asked) == 0 && s.ready.IsZero() {
		s.ready = time.Now()
	}
	return slices.Clone(s.granted), !slices.Equal(before, s.granted), nil
}

// refuseLocked notes a refused filter. The others go on, and this one is asked for again later.
func (s *Source) refuseLocked(f string, reason mqtt5.Reason) {
	if s.refused == nil {
		s.refused = map[string]mqtt5.Reason{}
	}
	s.refused[f] = reason
	s.once(fmt.Sprintf("refused %d %s", reason, f), "%s: %s", s.c.Host, s.c.refusal(f, reason))
	if s.again != nil {
		s.again.Stop()
	}
	session := s.session
	s.again = time.AfterFunc(askAgain, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.session != session || session == nil {
			return
		}
		var ask []string
		for f := range s.refused {
			if slices.Contains(s.filters, f) {
				ask = append(ask, f)
			}
		}
		slices.Sort(ask)
		s.subscribeLocked(ask)
	})
}

// refusalsLocked is the sentence about all refused filters.
func (s *Source) refusalsLocked() string {
	var parts []string
	for f, reason := range s.refused {
		parts = append(parts, s.c.refusal(f, reason))
	}
	slices.Sort(parts)
	return s.c.Host + ": " + strings.Join(parts, "; ")
}

// refusal says why there is no subscription to a filter, and the next step.
func (c *Config) refusal(filter string, reason mqtt5.Reason) string {
	next := "ask for the right to subscribe to it"
	if hint := c.reasonHint(&mqtt5.ReasonError{Reason: reason}); hint != "" && reason != mqtt5.NotAuthorized {
		next = hint
	}
	return fmt.Sprintf("the broker refuses the filter %q: %v; %s", filter, reason, next)
}

// memory is the file of Config.StateFile.
type memory struct {
	ClientID string   `json:"clientId"`
	Host     string   `json:"host"`
	Filters  []string `json:"filters"`
}

// maxMemory is how many bytes the file may have.
const maxMemory = 16 << 20

// remembered returns what an earlier run has subscribed to under this client id, nil if nothing is
// known.
func (s *Source) remembered() []string {
	if s.c.StateFile == "" {
		return nil
	}
	m, err := recall(s.c.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		s.c.warn("%v: filters of an earlier run may go on at the broker; the file is written anew", err)
		return nil
	}
	if m.ClientID != s.c.ClientID || m.Host != s.c.Host {
		s.c.warn("the client id was %q at %s, and is %q at %s now: messages that wait in the old session do not come; set the names back to get them",
			m.ClientID, m.Host, s.c.ClientID, s.c.Host)
		return nil
	}
	return m.Filters
}

// recall reads the file of Config.StateFile.
func recall(file string) (m memory, err error) {
	b, err := namedfile.Read("the subscriptions of an earlier run", file, maxMemory)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is not readable: %w", file, err)
	}
	return m, nil
}

// SessionOf says which session at which broker a [Config.StateFile] belongs to.
func SessionOf(file string) (clientID, host string, err error) {
	m, err := recall(file)
	return m.ClientID, m.Host, err
}

// remember writes the file, as a whole or not at all.
func (s *Source) remember(granted []string) {
	if s.c.StateFile == "" {
		return
	}
	b, err := json.Marshal(memory{ClientID: s.c.ClientID, Host: s.c.Host, Filters: granted})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.c.StateFile), 0o700)
	}
	if err == nil {
		err = replace(s.c.StateFile, b)
	}
	if err != nil {
		s.once("state file", "the subscriptions could not be remembered: %v; a filter that a later run does not want goes on at the broker", err)
	}
}

func replace(path string, b []byte) error {
	// The directory of a graph that keeps no journal is nobody else's.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".subscriptions-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
