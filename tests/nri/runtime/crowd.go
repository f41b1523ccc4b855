package main

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/containerd/nri/pkg/api"
)

// More than fits into one message to a plugin that connects.
const (
	crowdedPods    = 200
	containersEach = 10
	bytesEach      = 8 << 10
)

// crowd connects the audit plugin to a runtime with a lot of containers, which are
// shown to it in parts.
func (m *machine) crowd() error {
	for i := range crowdedPods {
		pod := &api.PodSandbox{Id: fmt.Sprintf("pod-%d", i), Name: "crowded", Namespace: "tests"}
		for j := range containersEach {
			c := newContainer(pod, fmt.Sprintf("crowded-%d-%d", i, j))
			c.spec.Process.Env = append(c.spec.Process.Env, "LONG="+secret+strings.Repeat("x", bytesEach))
			m.running[c.id] = c
		}
	}
	if err := m.startAudit(); err != nil {
		return err
	}
	say(expectation{Scenario: "a crowded runtime", Records: []record{
		{Kind: "baseline", Times: crowdedPods * containersEach},
	}})
	return m.endAudit(syscall.SIGTERM)
}
