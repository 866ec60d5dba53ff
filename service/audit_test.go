package service_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheAuditLogIsInItsFileAndMailGoesOnWhereThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	inst := install(t, "")
	folder := filepath.Join(t.TempDir(), "audit")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "audit.ndjson")
	inst.config.Audit.File = file
	inst.startWithDevices()
	has := func(file, part string, times int) bool {
		data, err := os.ReadFile(file)
		return err == nil && strings.Count(string(data), part) == times
	}
	if !has(file, `"action":"device_enrolled","outcome":"done","client":"`, len(inst.devices)) {
		t.Errorf("the enrolments are not in the file")
	}

	// logrotate renames it.
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	inst.service.Reload()
	inst.eventually("the file is made anew", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	inst.call(http.MethodPut, "/v1/devices/phone-1", map[string]any{"mailbox": inst.sim.Mailboxes()[0], "token": strings.Repeat("1", 64)}, nil)
	if !has(file, `"action":"device_changed"`, 1) || !has(file+".1", `"action":"device_changed"`, 0) {
		t.Error("the change is not in the new file")
	}

	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	inst.service.Reload()
	c := inst.wrong("the audit log cannot be written to its file")
	if c.Kind != "audit" || c.Advice == "" {
		t.Errorf("%+v", c)
	}
	inst.call(http.MethodDelete, "/v1/devices/phone-1", nil, nil)
	if inst.log.FilterMessage("device removed").Len() != 1 {
		t.Error("the removal is not in the log either")
	}
	delete(inst.devices, inst.sim.Mailboxes()[0])
	inst.deliver()
	inst.awaitAlerts()
}
