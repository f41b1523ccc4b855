//go:build nri0110

package main

import "github.com/containerd/nri/pkg/api"

// As containerd 2.2.1 to 2.2.7 do it: all events but the oldest in one
// StateChange call, and less shown afterwards.
const (
	runtimeVersion = "v2.2.1"
	showsSysctl    = false
	showsRlimits   = false
	showsSeccomp   = false

	// A dead validator is noticed only when it does not answer.
	failsAfterIdleDeath = 1
)

type (
	runPod        = api.StateChangeEvent
	stopPod       = api.StateChangeEvent
	removePod     = api.StateChangeEvent
	postCreate    = api.StateChangeEvent
	startEvent    = api.StateChangeEvent
	postStart     = api.StateChangeEvent
	postUpdate    = api.StateChangeEvent
	removeRequest = api.StateChangeEvent
)

var dialectScenarios []*scenario
