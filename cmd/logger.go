package cmd

import (
	"fmt"

	"github.com/rs/zerolog"
)

// logger builds the one logger of the process.
func (s *settings) logger() (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(s.logLevel)
	if err != nil || s.logLevel == "" {
		return zerolog.Nop(), fmt.Errorf("log-level is %q; it must be one of debug, info, warn, error", s.logLevel)
	}
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	switch format := s.logFormat; {
	case format == "json" || format == "" && !s.env.Terminal:
		return zerolog.New(s.env.Stderr).Level(level).With().Timestamp().Logger(), nil
	case format == "console" || format == "":
		w := zerolog.ConsoleWriter{Out: s.env.Stderr, TimeFormat: "15:04:05.000", NoColor: !s.env.Terminal,
			FieldsExclude: []string{"device", "kind", "hub"}} // the sentence says them
		return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
	default:
		return zerolog.Nop(), fmt.Errorf("log-format is %q; it must be console or json", format)
	}
}
