package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	stdlog "log"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/systemd"
	"github.com/mailbell/mailbell/service"
)

// run runs the service.
func run(ctx context.Context, args []string, _, log io.Writer) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file`")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	// Whoever reads the log may go away, and SIGPIPE would end the service with it, for good: systemd takes that for a wanted end.
	signal.Ignore(syscall.SIGPIPE)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	queue := &logQueue{w: log}
	defer queue.Close()
	return serve(ctx, *file, queue.logger, hup, func() {})
}

// serve runs the service until ctx ends. hup has it look at changed files; started is called once calls are answered.
func serve(ctx context.Context, file string, logger func(config.Log) *zap.Logger, hup <-chan os.Signal, started func()) error {
	c, err := config.Load(file)
	if err != nil {
		return configError{err}
	}
	to := logger(c.Log)
	stdlog.SetOutput(libraryLog{to.Named("library")})
	stdlog.SetFlags(0)
	s, err := service.Open(ctx, c, to, buildVersion())
	switch _, wrong := errors.AsType[service.Misconfigured](err); {
	case err != nil && ctx.Err() != nil:
		return nil // it was stopped while it waited for its state
	case wrong:
		return configError{err}
	case err != nil:
		return err
	}
	s.Notify(systemd.New(os.Getenv, os.Getpid()), started)
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { tendMemory(ctx, lookAtMemory, collector(), freeMemory) })
	beside.Go(func() {
		for {
			select {
			case <-hup:
				s.Reload()
			case <-ctx.Done():
				return
			}
		}
	})
	err = s.Run(ctx)
	cancel()
	beside.Wait()
	return err
}

// newLog logs to w: one JSON object a line, or in the console format. It does not sample: a line that says who enrolled must not be left out
// because there are many.
func newLog(c config.Log, w io.Writer) *zap.Logger {
	return zap.New(zapcore.NewCore(encoderOf(c), zapcore.Lock(zapcore.AddSync(w)), levelOf(c)))
}

func levelOf(c config.Log) zapcore.Level {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil { // config has checked it
		return zapcore.InfoLevel
	}
	return level
}

func encoderOf(c config.Log) zapcore.Encoder {
	e := zap.NewProductionEncoderConfig()
	e.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	e.EncodeDuration = zapcore.StringDurationEncoder
	if c.Format == "console" {
		return zapcore.NewConsoleEncoder(e)
	}
	return zapcore.NewJSONEncoder(e)
}

// libraryLog takes what libraries print to the standard logger, which would reach standard error as it is. mailbell gets the same errors from
// its calls. net/http prints the first bytes of what a server sends unasked: they could be of a mail, and are left out.
type libraryLog struct{ log *zap.Logger }

// Write implements io.Writer.
func (l libraryLog) Write(line []byte) (int, error) {
	text, _, _ := strings.Cut(string(line), " starting with ")
	l.log.Debug("a library reports", zap.String("text", strings.TrimSpace(text)))
	return len(line), nil
}

// healthy asks the running service whether it is. It says nothing of Exchange or APNs: another start would not mend them. Nor of the
// configuration: the service goes on with what it read before. Only `listen` is read. With TLS or without is tried, as the service may still be
// without what the file now says.
func healthy(ctx context.Context, args []string, _, log io.Writer) error {
	flags := flag.NewFlagSet("healthy", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file` of the running service")
	if err := parse(flags, args, log); err != nil {
		return err
	}
	listen, err := config.Listen(*file)
	if err != nil {
		return configError{err}
	}
	at, err := reached(listen)
	if err != nil {
		return err
	}
	anyone := &http.Client{Timeout: askTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, //nolint:gosec // it is told nothing that is secret
	}}
	for _, scheme := range []string{"https", "http"} { // in this order the one that fails is no line of the service's log
		_, err = (&client{base: scheme + "://" + at, http: anyone}).request(ctx, http.MethodGet, "/healthz", nil)
		if _, answered := errors.AsType[*api.Problem](err); answered || err == nil {
			return err
		}
	}
	return err
}

func version(_ context.Context, args []string, out, log io.Writer) error {
	if err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args, log); err != nil {
		return err
	}
	_, err := io.WriteString(out, "mailbell "+buildVersion()+"\n")
	return err
}

// buildVersion is the version of the module; of a working tree, its commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return strings.TrimPrefix(v, "v")
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
