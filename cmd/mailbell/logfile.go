package main

import (
	"errors"
	"io/fs"
	"os"
	"sync"
)

// logFile is a log in a file. Once it has its size it is renamed to NAME.1, and begun anew.
type logFile struct {
	name string
	max  int64

	mu   sync.Mutex
	file *os.File // nil: it could not be opened again, which is tried with each line
	size int64
}

func openLogFile(name string, most int64) (*logFile, error) {
	l := &logFile{name: name, max: most}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// open opens the file behind what it has. It is called with mu held, or before anybody else has it.
func (l *logFile) open() error {
	f, err := os.OpenFile(l.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer, for whole lines: one, or some.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.size+int64(len(line)) > l.max {
		l.rotate()
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return n, err
}

// rotate makes room. A file that cannot be renamed goes on growing: a log that is too large is better than none. Windows renames no open file.
func (l *logFile) rotate() {
	l.file.Close()
	l.file = nil
	if err := os.Remove(l.name + ".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	_ = os.Rename(l.name, l.name+".1")
}

// Close implements io.Closer.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
