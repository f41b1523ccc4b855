package main

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// latency is what creations took, in microseconds.
type latency struct {
	Median   int64 `json:"p50_us"`
	Slow     int64 `json:"p99_us"`
	Slowest  int64 `json:"max_us"`
	InAll    int64 `json:"all_ms"`
	Failures int   `json:"failures"`
}

// load measures creations without the audit plugin, then with it: all that a
// kubelet waits for between its request and the answer, but for the container.
func (m *machine) load(containers, adjustments, rate int) error {
	if err := m.alpha.start(m.log); err != nil {
		return err
	}
	m.alpha.adjust = func(a *api.ContainerAdjustment) { adjustMuch(a, adjustments) }
	m.measure("warm", min(containers, 200), 0)
	without := m.measure("without", containers, rate)
	if err := m.startAudit(); err != nil {
		return err
	}
	with := m.measure("with", containers, rate)
	say(map[string]any{
		"containers": containers, "adjustments": adjustments, "paced": rate > 0,
		"without": without, "with": with,
	})
	return m.endAudit(syscall.SIGTERM)
}

func adjustMuch(a *api.ContainerAdjustment, adjustments int) {
	for i := range adjustments {
		switch i % 5 {
		case 0:
			a.AddAnnotation(fmt.Sprintf("load/%d", i), secret+"annotation")
		case 1:
			a.AddMount(&api.Mount{
				Destination: fmt.Sprintf("/load/%d", i), Type: "bind", Source: "/srv", Options: []string{"rbind", "ro"},
			})
		default:
			a.AddEnv(fmt.Sprintf("LOAD_%d", i), secret+"env")
		}
	}
}

// measure creates so many containers a second, or without a pause where rate is 0.
func (m *machine) measure(name string, containers, rate int) latency {
	var result latency
	var pause time.Duration
	if rate > 0 {
		pause = time.Second / time.Duration(rate)
	}
	var all []time.Duration
	began := time.Now()
	for i := range containers {
		c := newContainer(m.pod, fmt.Sprintf("%s-%d", name, i))
		time.Sleep(pause)
		start := time.Now()
		if m.create(creation{c: c}) != nil {
			result.Failures++
		}
		all = append(all, time.Since(start))
		m.forget(c)
	}
	result.InAll = time.Since(began).Milliseconds()
	slices.Sort(all)
	result.Median = all[len(all)/2].Microseconds()
	result.Slow = all[len(all)*99/100].Microseconds()
	result.Slowest = all[len(all)-1].Microseconds()
	return result
}

// forget keeps what a plugin is shown when it connects from growing without end.
func (m *machine) forget(c *container) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.running, c.id)
}
