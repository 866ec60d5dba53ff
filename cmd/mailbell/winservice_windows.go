package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"

	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/pause"
)

const onWindows = true

// serviceName is the name of the service, and of its source in the event log.
const serviceName = "mailbell"

// maxLogFile bounds a log in a file: nothing rotates it on Windows. With the one before it takes twice that.
const maxLogFile = 64 << 20

const (
	// serviceWait bounds the wait for a service to start or stop: longer than mailbell's own stop.
	serviceWait = 40 * time.Second
	// stopHint is how long Windows is told that a stop may take.
	stopHint = 30 * time.Second
	// restartAfter is when Windows starts a service again that ended by itself, as the unit of systemd does.
	restartAfter = 5 * time.Second
	// forgetFailures is after how many seconds without a failure they are counted anew.
	forgetFailures = 24 * 60 * 60
	// maxEvent bounds the text of an event: Windows takes 31,839 characters.
	maxEvent = 30_000
	// eventID is the one of all events: EventCreate.exe has a message for 1 to 1000.
	eventID = 1
)

// serviceAccount is the account of the service alone: it has no password and no rights but those that it is given.
const serviceAccount = `NT SERVICE\` + serviceName

func serviceDo(ctx context.Context, verb string, o serviceOptions, out io.Writer) error {
	if verb == serviceRun {
		return svc.Run(serviceName, &winHandler{o: o})
	}
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("reach the service manager of Windows (as administrator?): %w", err)
	}
	defer func() { _ = m.Disconnect() }() // it was only asked
	if verb == "install" {
		return installService(m, o, out)
	}
	s, err := m.OpenService(serviceName)
	if err != nil {
		return fmt.Errorf("open the service %s (is it installed?): %w", serviceName, err)
	}
	defer s.Close()
	switch verb {
	case "start":
		if err := s.Start(); err != nil {
			return fmt.Errorf("start the service: %w", err)
		}
		return awaitService(ctx, s, svc.Running)
	case "stop":
		if _, err := s.Control(svc.Stop); err != nil {
			return fmt.Errorf("stop the service: %w", err)
		}
		return awaitService(ctx, s, svc.Stopped)
	default:
		return uninstallService(s, out)
	}
}

// installService registers the service, which is not started: its account has to be given its rights first.
func installService(m *mgr.Mgr, o serviceOptions, out io.Writer) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := m.CreateService(serviceName, program, mgr.Config{
		DisplayName: "mailbell", Description: "Rings iPhones when mail arrives in Exchange.",
		StartType: mgr.StartAutomatic, ServiceStartName: serviceAccount,
	}, serviceArguments(o)...)
	if err != nil {
		return fmt.Errorf("install the service: %w", err)
	}
	defer s.Close()
	// After each failure. A wrong configuration is none: see Execute.
	err = s.SetRecoveryActions([]mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: restartAfter}}, forgetFailures)
	if err == nil {
		err = s.SetRecoveryActionsOnNonCrashFailures(true)
	}
	if err != nil {
		fmt.Fprintf(out, "Windows does not start the service again after a failure: %v\n", err)
	}
	if err := eventlog.InstallAsEventCreate(serviceName, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil {
		fmt.Fprintf(out, "The event log shows no source of this name: %v\n", err)
	}
	fmt.Fprintf(out, "The service %s is installed, for the account %s. Let that account read %s and the files that it names, and write the state.\n", serviceName, serviceAccount, o.config)
	fmt.Fprintln(out, "Then:  mailbell service start")
	return nil
}

func uninstallService(s *mgr.Service, out io.Writer) error {
	if status, err := s.Query(); err == nil && status.State != svc.Stopped {
		return errors.New("the service is running: mailbell service stop")
	}
	if err := s.Delete(); err != nil {
		return fmt.Errorf("uninstall the service: %w", err)
	}
	if err := eventlog.Remove(serviceName); err != nil {
		fmt.Fprintf(out, "The source in the event log stays: %v\n", err)
	}
	fmt.Fprintln(out, "The service is uninstalled. Configuration and state stay.")
	return nil
}

// awaitService waits until the service is in a state.
func awaitService(ctx context.Context, s *mgr.Service, want svc.State) error {
	ctx, cancel := context.WithTimeout(ctx, serviceWait)
	defer cancel()
	for {
		status, err := s.Query()
		switch {
		case err != nil:
			return fmt.Errorf("ask for the service: %w", err)
		case status.State == want:
			return nil
		case want == svc.Running && status.State == svc.Stopped:
			return errors.New("the service ended at once: the event log says why, or the file of its log")
		}
		if !pause.For(ctx, 200*time.Millisecond) {
			return fmt.Errorf("the service has not come so far within %v", serviceWait)
		}
	}
}

// winHandler is the service, for the service manager.
type winHandler struct{ o serviceOptions }

// Execute runs mailbell until Windows stops the service. It runs once calls are answered or it has ended.
func (h *winHandler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	status <- svc.Status{State: svc.StartPending}
	to, err := h.openLog()
	if err != nil {
		return true, failed // there is nowhere to say it
	}
	defer to.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reload := make(chan os.Signal, 1)
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- serve(ctx, h.o.config, to.logger, reload, func() { close(started) })
	}()
	const accepts = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptParamChange
	for {
		select {
		case <-started:
			started = nil
			status <- svc.Status{State: svc.Running, Accepts: accepts}
		case err := <-ended:
			return h.end(to, err)
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.ParamChange: // sc control mailbell paramchange: as SIGHUP elsewhere
				select {
				case reload <- syscall.SIGHUP:
				default: // it is about to
				}
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopHint.Milliseconds())}
				cancel()
			}
		}
	}
}

// end says how the service ended. Windows starts a service again that ended with a code; with a wrong configuration that would change nothing.
func (h *winHandler) end(to *winLog, err error) (bool, uint32) {
	if err == nil {
		return false, 0
	}
	to.logger(config.Log{}).Error("mailbell has ended", zap.Error(err))
	if _, wrong := errors.AsType[configError](err); wrong {
		return false, 0
	}
	return true, failed
}

// winLog is where the service logs.
type winLog struct {
	io.Closer
	logger func(config.Log) *zap.Logger
}

func (h *winHandler) openLog() (*winLog, error) {
	if h.o.log != eventLog {
		f, err := openLogFile(h.o.log, maxLogFile)
		if err != nil {
			return nil, err
		}
		return &winLog{f, func(c config.Log) *zap.Logger { return newLog(c, f) }}, nil
	}
	l, err := eventlog.Open(serviceName)
	if err != nil {
		return nil, err
	}
	return &winLog{l, func(c config.Log) *zap.Logger {
		return zap.New(&eventCore{LevelEnabler: levelOf(c), encoder: encoderOf(c), to: l})
	}}, nil
}

// eventCore writes each line of the log as an event.
type eventCore struct {
	zapcore.LevelEnabler
	encoder zapcore.Encoder
	to      *eventlog.Log
}

// With implements zapcore.Core.
func (c *eventCore) With(fields []zapcore.Field) zapcore.Core {
	with := *c
	with.encoder = c.encoder.Clone()
	for _, f := range fields {
		f.AddTo(with.encoder)
	}
	return &with
}

// Check implements zapcore.Core.
func (c *eventCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c *eventCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := c.encoder.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	text := line.String()
	if len(text) > maxEvent {
		text = text[:maxEvent]
	}
	switch {
	case e.Level >= zapcore.ErrorLevel:
		return c.to.Error(eventID, text)
	case e.Level == zapcore.WarnLevel:
		return c.to.Warning(eventID, text)
	}
	return c.to.Info(eventID, text)
}

// Sync implements zapcore.Core.
func (c *eventCore) Sync() error { return nil }
