package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// launched has the runtime start the audit plugin, with no environment but a
// socket, and kill it when it ends itself.
func (m *machine) launched() error {
	m.nri.Stop()
	program := filepath.Join(m.dir, "plugins", auditName)
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		return err
	}
	script := "#!/bin/sh\nexec '" + strings.Join(m.command, "' '") + "'\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		return err
	}
	if err := m.startNRI(); err != nil {
		return err
	}
	if err := m.alpha.start(m.log); err != nil {
		return err
	}
	err := m.play(&scenario{
		name:   "launched",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		expect: []expected{of("env", "TOKEN", "add").redacted().by(alpha).ends("applied")},
	})
	if err != nil {
		return err
	}
	say(expectation{Scenario: "a session with the plugin that the runtime started", Records: []record{
		{Kind: "log_opened"}, {Kind: "session_started", Contains: runtimeVersion},
	}})
	// The records are written behind the runtime's back, and it ends without a wait.
	time.Sleep(time.Second)
	return nil
}
