package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// kindState is the kind of state.log.
const kindState Kind = "hubhop sim state "

// A record of state.log is one of these bytes, the key as a text, and the document, if there is
// one.
const (
	recordPut    = 'P'
	recordDelete = 'D'
)

// compactAbove is the size in bytes from which on garbage in state.log matters.
const compactAbove = 1 << 20

// place is where the newest record of a key is in the file.
type place struct{ at, size int64 }

func (s *Store) readState() error {
	path := s.path("state.log")
	lost := func(how string) error { // it is made before cloud.json, and is never empty
		return fmt.Errorf("%s is %s, but there is %s: restore it from a copy, or start with another state directory", path, how, s.path("cloud.json"))
	}
	good, size, err := Read(path, kindState, func(at int, payload []byte) error {
		u := Unpack(payload)
		kind, key := u.Byte(), u.Text()
		switch {
		case u.failed || kind != recordPut && kind != recordDelete || kind == recordDelete && len(u.b) > 0 || kind == recordPut && !json.Valid(u.b):
			return &DamageError{At: at, What: "a record makes no sense"}
		case kind == recordPut:
			s.restored[key] = u.b
			s.move(key, place{int64(at), int64(FrameHead + len(payload))})
		default:
			delete(s.restored, key)
			s.move(key, place{})
		}
		return nil
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		if s.existed {
			return lost("missing")
		}
		good = 0
	case err != nil:
		return err
	case good == 0 && s.existed:
		return lost("empty")
	case good < size:
		s.log.Warn().Str("file", path).Int("bytes", size-good).Msg("a change that was being written when the simulator was killed is cut off: it was not confirmed")
	}
	if s.file, err = Reopen(path, kindState, good); err != nil {
		return err
	}
	s.limit = compactAbove / 16 // at the start there is time
	s.tidy()
	return nil
}

// move notes where the newest record of a key is. A zero place means that the key has none.
func (s *Store) move(key string, p place) {
	s.live += p.size - s.places[key].size
	if s.places[key] = p; p.size == 0 {
		delete(s.places, key)
	}
}

// Take calls each for the documents that the directory had at the start, of the keys with this
// prefix, in the order of their keys. The name is the key without the prefix. A document is
// returned once. If each fails, Take stops, and its error names the record.
func (s *Store) Take(prefix string, each func(name string, document []byte) error) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	taken := map[string][]byte{}
	for key, document := range s.restored {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			taken[name] = document
			delete(s.restored, key)
		}
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		if err := each(name, taken[name]); err != nil {
			return fmt.Errorf("%s: record %q: %w; restore it from a copy, or start with another state directory", s.path("state.log"), prefix+name, err)
		}
	}
	return nil
}

// Put makes v, as JSON, the document of a key. When it returns nil the document survives the
// process. When it returns an error the key keeps the document that it had.
func (s *Store) Put(key string, v any) error {
	if s == nil {
		return nil
	}
	document, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(recordPut, key, document)
}

// Delete takes the document of a key away. When it returns an error the key keeps its document.
func (s *Store) Delete(key string) error {
	if s == nil {
		return nil
	}
	return s.write(recordDelete, key, nil)
}

func (s *Store) write(kind byte, key string, document []byte) error {
	payload := append(AppendText([]byte{kind}, key), document...)
	frame := AppendFrame(nil, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == recordDelete && s.places[key].size == 0 {
		return nil
	}
	at := s.file.size
	if err := s.file.Append(frame); err != nil {
		s.log.Error().Str("file", s.path("state.log")).Err(err).Msg("a change cannot be written and is not confirmed")
		return fmt.Errorf("the state cannot be written: %w", err)
	}
	if kind == recordDelete {
		s.move(key, place{})
	} else {
		s.move(key, place{at, int64(len(frame))})
	}
	s.tidy()
	return nil
}

// tidy compacts the file if it has reached the limit, and half of it is garbage. mu is held.
func (s *Store) tidy() {
	if s.file.size < s.limit {
		return
	}
	if s.file.size >= 2*s.live {
		if err := s.compact(); err != nil {
			s.log.Warn().Str("file", s.path("state.log")).Err(err).Msg("old state cannot be removed: the file goes on growing")
		}
	}
	s.limit = max(compactAbove, 2*s.file.size)
}

// compact replaces the file by one that has only the records that count. mu is held.
func (s *Store) compact() error {
	path := s.path("state.log")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if int64(len(old)) < s.file.size {
		return &DamageError{Path: path, At: len(old), What: fmt.Sprintf("it has become shorter than the %d bytes that were written", s.file.size)}
	}
	fresh := bytes.NewBuffer(make([]byte, 0, int(s.live)+len(kindState.Line())))
	fresh.Write(kindState.Line())
	places := make(map[string]place, len(s.places))
	for _, key := range slices.SortedFunc(maps.Keys(s.places), func(a, b string) int { return int(s.places[a].at - s.places[b].at) }) {
		p := s.places[key]
		places[key] = place{int64(fresh.Len()), p.size}
		fresh.Write(old[p.at : p.at+p.size])
	}
	if err := Replace(path, fresh.Bytes(), 0o600); err != nil {
		return err
	}
	_ = s.file.Close() // the old file is complete, whatever Close says
	s.places = places
	if s.file, err = Reopen(path, kindState, fresh.Len()); err != nil {
		s.file = &File{broken: err}
	}
	return err
}

// WrapFile puts another file between the store and state.log. It is for tests of full disks.
func (s *Store) WrapFile(wrap func(DiskFile) DiskFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Wrap(wrap)
}
