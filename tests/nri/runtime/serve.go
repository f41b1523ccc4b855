package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// serve is a runtime that lives by itself, with an audit plugin that somebody else
// starts. It does what lines of its standard input say, each answered by one line
// of JSON, until that ends:
//
//	await       waits until the audit plugin is connected
//	create N M  creates N containers with M adjustments each
//	begin M     creates containers with M adjustments each, until
//	end         which tells of them
func (m *machine) serve() error {
	for _, plugin := range []*mutator{m.alpha, m.beta} {
		if err := plugin.start(m.log); err != nil {
			return err
		}
	}
	var stop chan struct{}
	var created chan harmed
	say(map[string]any{"serves": m.socket()})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var containers, adjustments int
		var err error
		command, rest, _ := strings.Cut(lines.Text(), " ")
		switch command {
		case "await":
			if err = m.log.waitUntilConnected(auditName); err == nil {
				say(map[string]any{"connected": auditName})
			}
		case "create":
			if _, err = fmt.Sscan(rest, &containers, &adjustments); err == nil {
				m.adjustBy(adjustments)
				say(m.createSome(containers))
			}
		case "begin":
			if _, err = fmt.Sscan(rest, &adjustments); err == nil && stop == nil {
				m.adjustBy(adjustments)
				stop, created = make(chan struct{}), make(chan harmed)
				go func(stop chan struct{}) { created <- m.createUntil(stop) }(stop)
				say(map[string]any{"begun": true})
			}
		case "end":
			if stop != nil {
				close(stop)
				say(<-created)
				stop = nil
			}
		default:
			err = fmt.Errorf("no such command")
		}
		if err != nil {
			say(map[string]any{"error": fmt.Sprintf("%s: %v", lines.Text(), err)})
		}
	}
	return nil
}

// adjustBy has alpha adjust so much, and beta three things more: one that is done, one
// that containerd does not do, and one that NRI does not say who asked for.
func (m *machine) adjustBy(adjustments int) {
	m.alpha.adjust = func(a *api.ContainerAdjustment) { adjustMuch(a, adjustments) }
	m.beta.adjust = nil
	if adjustments > 0 {
		m.beta.adjust = func(a *api.ContainerAdjustment) {
			a.SetLinuxCPUShares(512)
			a.SetLinuxMemoryReservation(1 << 26)
			a.RemoveMount("/pristine")
		}
	}
}

func (m *machine) createSome(containers int) harmed {
	var result harmed
	for range containers {
		m.attempt(&result)
	}
	return result
}

func (m *machine) createUntil(stop chan struct{}) harmed {
	var result harmed
	for {
		select {
		case <-stop:
			return result
		case <-time.After(100 * time.Millisecond):
			m.attempt(&result)
		}
	}
}

// waitUntilConnected goes by what NRI said of the plugin last.
func (l *logger) waitUntilConnected(plugin string) error {
	is := func() bool {
		l.mutex.Lock()
		defer l.mutex.Unlock()
		for _, line := range slices.Backward(l.lines) {
			if strings.Contains(line, connected(plugin)) {
				return true
			}
			if strings.Contains(line, disconnected(plugin)) {
				return false
			}
		}
		return false
	}
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s", plugin)
		}
	}
	return nil
}
