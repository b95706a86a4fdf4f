package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// cloudFile is the document cloud.json.
type cloudFile struct {
	Format    int               `json:"format"`
	Secrets   map[string]string `json:"secrets"`
	Addresses map[string]string `json:"addresses"`     // of the listeners that took any free port
	Sum       string            `json:"sum,omitempty"` // checksum of the rest; the first files had none
}

// sum returns the checksum of everything else in the document.
func (c cloudFile) sum() string {
	c.Sum = ""
	text, _ := json.Marshal(c) // strings can be encoded
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func (s *Store) readCloud() error {
	path := s.path("cloud.json")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		for _, name := range append([]string{"state.log"}, s.others...) {
			found, _ := filepath.Glob(s.path(name))
			for _, file := range found {
				if !emptyFile(file) {
					return fmt.Errorf("%s is missing, but there is %s: restore it from a copy, or start with another state directory", path, file)
				}
			}
		}
		s.dirty = true
	case err != nil:
		return err
	default:
		damaged := &DamageError{Path: path, What: "it is not the JSON document it was"}
		if err := json.Unmarshal(b, &s.cloud); err != nil || s.cloud.Format < 1 {
			return damaged
		}
		if s.cloud.Format > formatVersion {
			return &versionError{path: path, version: s.cloud.Format}
		}
		strict := json.NewDecoder(bytes.NewReader(b))
		strict.DisallowUnknownFields() // the damage may be in the name of the member sum
		if err := strict.Decode(new(cloudFile)); err != nil || s.cloud.Sum != "" && s.cloud.Sum != s.cloud.sum() {
			return damaged
		}
	}
	s.existed = err == nil
	s.cloud.Format = formatVersion
	if s.cloud.Secrets == nil {
		s.cloud.Secrets = map[string]string{}
	}
	if s.cloud.Addresses == nil {
		s.cloud.Addresses = map[string]string{}
	}
	return nil
}

// emptyFile reports whether a file has no record yet, as after a start that was killed at once.
func emptyFile(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	_, frames, _ := bytes.Cut(data, []byte("\n"))
	return len(data) < 64 && len(frames) < FrameHead
}

// Save writes cloud.json if something in it is new. It must be called before a client can see what
// is new.
func (s *Store) Save() error {
	if s == nil {
		return nil
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	if !s.dirty {
		return nil
	}
	s.cloud.Sum = s.cloud.sum()
	b, err := json.MarshalIndent(s.cloud, "", "  ")
	if err == nil {
		err = Replace(s.path("cloud.json"), append(b, '\n'), 0o600)
	}
	s.dirty = err != nil
	return err
}

// Secret returns what SetSecret was given, by this process or an earlier one, else "".
func (s *Store) Secret(name string) string {
	if s == nil {
		return ""
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	return s.cloud.Secrets[name]
}

// SetSecret replaces a secret. [Store.Save] writes it down.
func (s *Store) SetSecret(name, text string) {
	if s == nil {
		return
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	s.dirty = s.dirty || s.cloud.Secrets[name] != text
	s.cloud.Secrets[name] = text
}

// SecretError wraps the error of a reader of a secret: it says where the secret is, and what to do.
func (s *Store) SecretError(name string, err error) error {
	return fmt.Errorf("%s: %q: %w; restore it from a copy, or start with another state directory", s.path("cloud.json"), name, err)
}

// Key returns a random secret key. The first call for a name draws it, of size bytes; later ones
// return the same key. Without a state directory every call draws another one.
func (s *Store) Key(name string, size int) []byte {
	key, err := base64.StdEncoding.DecodeString(s.Secret(name))
	if err != nil || len(key) == 0 {
		key = make([]byte, size)
		_, _ = rand.Read(key) // never fails since Go 1.24
		s.SetSecret(name, base64.StdEncoding.EncodeToString(key))
	}
	return key
}

// Address returns where the listener of that name was the last time, "" if it never was.
func (s *Store) Address(name string) string {
	if s == nil {
		return ""
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	return s.cloud.Addresses[name]
}

// SetAddress replaces the address of a listener. [Store.Save] writes it down.
func (s *Store) SetAddress(name, address string) {
	if s == nil {
		return
	}
	s.cloudMu.Lock()
	defer s.cloudMu.Unlock()
	s.dirty = s.dirty || s.cloud.Addresses[name] != address
	s.cloud.Addresses[name] = address
}
