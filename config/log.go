package config

// What is logged, and how.

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json or console
}

const (
	defaultLogLevel  = "info"
	defaultLogFormat = "json"
)

func (o *object) log() Log {
	defer o.end()
	return Log{
		Level:  o.choice("level", defaultLogLevel, []string{"debug", "info", "warn", "error"}),
		Format: o.choice("format", defaultLogFormat, []string{"json", "console"}),
	}
}
