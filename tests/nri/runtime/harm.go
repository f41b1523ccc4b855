package main

import (
	"fmt"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"
)

// harmed is what became of the creations while the audit plugin was harmed.
type harmed struct {
	Harm      string   `json:"harm"`
	Creations int      `json:"creations"`
	Failures  int      `json:"failures"`
	Errors    []string `json:"errors"` // each once
	Slowest   int64    `json:"slowest_ms"`
	// How many may fail, must fail, and of what alone.
	AtMost  int    `json:"at_most"`
	AtLeast int    `json:"at_least"`
	Only    string `json:"only"`
	// The containers that there are now: the log must know each.
	Containers []string `json:"containers"`
}

// A validator that cannot be reached makes NRI refuse a container; a timeout of
// two seconds, until it is given up.
const refusal = "validator plugin " + auditName + " failed: "

// What a validator itself says.
const rejection = `validator "` + auditName + `" rejected container adjustment, reason: `

func (m *machine) harm() error {
	// The plugin inherits it: a file that may not grow is an error and no death.
	signal.Ignore(syscall.SIGXFSZ)
	if err := m.alpha.start(m.log); err != nil {
		return err
	}
	m.alpha.adjust = func(a *api.ContainerAdjustment) { adjustMuch(a, 5) }
	if err := m.startAudit(); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error {
			return m.under(harmed{Harm: "nothing"}, func() error { return nil })
		},
		func() error {
			return m.under(harmed{Harm: "frozen for 1 s"}, func() error { return m.freeze(time.Second, false) })
		},
		func() error {
			return m.under(harmed{Harm: "frozen for 4 s", AtLeast: 1, AtMost: 1, Only: refusal + "context deadline exceeded"},
				func() error { return m.freeze(4*time.Second, true) })
		},
		func() error {
			return m.under(harmed{Harm: "killed and started again", AtMost: 1, Only: refusal}, func() error {
				return m.replaceAudit(syscall.SIGKILL)
			})
		},
		func() error {
			return m.under(harmed{Harm: "stopped and started again", AtMost: 1, Only: refusal}, func() error {
				return m.replaceAudit(syscall.SIGTERM)
			})
		},
		m.killedIdle,
		func() error {
			return m.under(harmed{Harm: "disk full for 2 s"}, func() error { return m.fillDisk(2 * time.Second) })
		},
		func() error {
			m.command = append(m.command, "--fail-closed")
			return m.under(harmed{Harm: "started again with --fail-closed", AtMost: 1, Only: refusal}, func() error {
				return m.replaceAudit(syscall.SIGTERM)
			})
		},
		func() error {
			return m.under(harmed{Harm: "disk full for 2 s, with --fail-closed", AtLeast: 1, AtMost: 1000, Only: rejection},
				func() error { return m.fillDisk(2 * time.Second) })
		},
		func() error {
			return m.under(harmed{Harm: "nothing any more"}, func() error { return nil })
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return m.endAudit(syscall.SIGTERM)
}

func (m *machine) freeze(duration time.Duration, disconnects bool) error {
	mark := m.log.mark()
	// Between two creations, so that the next thing asked of it is to validate one:
	// a timeout of anything else fails nothing.
	m.creating.Lock()
	m.signalAudit(syscall.SIGSTOP)
	m.creating.Unlock()
	time.Sleep(duration)
	m.signalAudit(syscall.SIGCONT)
	if !disconnects {
		return nil
	}
	return m.log.wait(mark, connected(auditName), m.ended)
}

func (m *machine) replaceAudit(signal syscall.Signal) error {
	if err := m.endAudit(signal); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	return m.startAudit()
}

// fillDisk has the audit plugin's files grow no more for a while.
func (m *machine) fillDisk(duration time.Duration) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(m.audit.Pid, unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		return err
	}
	full := unix.Rlimit{Cur: 1, Max: limit.Max}
	if err := unix.Prlimit(m.audit.Pid, unix.RLIMIT_FSIZE, &full, nil); err != nil {
		return err
	}
	time.Sleep(duration)
	if err := unix.Prlimit(m.audit.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // until the plugin tries again
	return nil
}

// killedIdle kills the plugin while the runtime has nothing to do.
func (m *machine) killedIdle() error {
	mark := m.log.mark()
	result := harmed{Harm: "killed while idle", AtLeast: failsAfterIdleDeath, AtMost: failsAfterIdleDeath, Only: refusal}
	if err := m.endAudit(syscall.SIGKILL); err != nil {
		return err
	}
	if err := m.log.wait(mark, disconnected(auditName), nil); err != nil {
		return err
	}
	for range 3 {
		m.attempt(&result)
	}
	if err := m.startAudit(); err != nil {
		return err
	}
	say(result)
	return nil
}

// under creates containers without a pause until the harm is done and a little
// longer, and says what became of them.
func (m *machine) under(result harmed, harm func() error) error {
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				m.attempt(&result)
			}
		}
	}()
	time.Sleep(300 * time.Millisecond)
	err := harm()
	time.Sleep(300 * time.Millisecond)
	close(stop)
	done.Wait()
	say(result)
	return err
}

func (m *machine) attempt(result *harmed) {
	m.creating.Lock()
	defer m.creating.Unlock()
	m.attempts++
	c := newContainer(m.pod, fmt.Sprintf("harmed-%d", m.attempts))
	start := time.Now()
	err := m.create(creation{c: c})
	result.Creations++
	result.Slowest = max(result.Slowest, time.Since(start).Milliseconds())
	if err == nil {
		result.Containers = append(result.Containers, c.id)
		return
	}
	result.Failures++
	if !slices.Contains(result.Errors, err.Error()) {
		result.Errors = append(result.Errors, err.Error())
	}
}
