package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/cmd/window"
	"github.com/hubhop-iot/hubhop/internal/configfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

const (
	envPrefix  = "HUBHOP_"
	configName = "hubhop.yaml"
)

// settings are the flags of a device, spelled as on the command line, in the environment (HUBHOP_
// and upper snake case) and in the configuration file. Most flags set a field of the plan directly.
// The others, which stand here, need more than one flag or a file to become a part of it.
type settings struct {
	plan plan

	groupKey, groupKeyFile, deviceKey, deviceKeyFile string
	cert, certKey, connectionString                  string
	deviceID, modelID, modelFile                     string
	caFile, stateDir                                 string
	dpsRate                                          int
	outboxFull, drainOrder                           string
	logLevel, logFormat                              string
	config                                           string
	http, httpTokenFile                              string
	flows                                            string
	hub                                              bool
	runs                                             bool // the command is run, the only one that can do without a hub

	log        zerolog.Logger // set by prepare
	levels     *window.Levels // of the log; set by logger
	credential string         // what proves the device's identity; set by identity

	fs       *pflag.FlagSet
	file     string            // the configuration file that was read, "" for none
	warnings []string          // sentences for the log about settings that are used all the same
	sources  map[string]string // key → where its value comes from, for those that are not default
	env      *Env
	builtin  []byte
}

// load fills in what the command line did not say: from the environment, then from the file. It
// reports every fault, with its key.
func (s *settings) load() error {
	s.sources = map[string]string{}
	var faults []error
	s.fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			s.sources[f.Name] = "flag"
		}
	})
	set := func(key, value, from, at string) {
		if s.sources[key] != "" {
			return
		}
		f := s.fs.Lookup(key)
		if err := f.Value.Set(value); err != nil {
			_ = f.Value.Set(f.DefValue) // one fault is enough: a parser leaves zero behind
			faults = append(faults, fmt.Errorf("%s: %s is not a value for %s: %w", at, rules.ValueOf(key, value), key, cli.PlainParse(err)))
			return
		}
		s.sources[key] = from
	}
	s.fs.VisitAll(func(f *pflag.Flag) {
		name := envName(f.Name)
		if value, ok := s.env.lookup(name); ok && value != "" && f.Name != "help" { // an empty variable counts as unset
			set(f.Name, value, name, name)
		}
	})
	file, values, err := s.readFile()
	if err != nil {
		faults = append(faults, err)
	}
	unknown := 0
	for _, key := range configfile.ByLine(values) {
		at := fmt.Sprintf("%s:%d", secret.Quotable(file), values[key].Line)
		if f := s.fs.Lookup(key); f == nil || key == "config" || key == "help" {
			if unknown++; unknown > configfile.MaxFaults {
				faults = append(faults, fmt.Errorf("%s: more keys from here on are unknown; is this hubhop's file?", at))
				break
			}
			faults = append(faults, fmt.Errorf("%s: unknown key %s%s", at, secret.KeyName(values[key].Key), s.suggest(key)))
			continue
		}
		set(key, values[key].Text, file, at)
	}
	s.file = file
	s.credentials(set)
	s.tidy()
	return errors.Join(faults...)
}

// envName returns the environment variable of a key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// warn keeps a sentence for the log about a setting that is used all the same.
func (s *settings) warn(text string) { s.warnings = append(s.warnings, text) }

// tidy removes blanks and line ends around values, which files from Windows and copied lines have,
// and writes host names in small letters.
func (s *settings) tidy() {
	host := &s.plan.shared.Config.ProvisioningHost
	for _, text := range []*string{
		&s.plan.id.IDScope, &s.groupKey, &s.deviceKey, &s.connectionString, &s.deviceID, &s.modelID, host,
	} {
		*text = strings.TrimSpace(*text)
	}
	if !secret.Looks(*host) { // in small letters it would not be recognised as a secret
		*host = strings.ToLower(*host)
	}
}
