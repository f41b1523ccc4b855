//go:build !nri0110

package main

import (
	"github.com/containerd/nri/pkg/api"
	rspec "github.com/opencontainers/runtime-spec/specs-go"
)

// Since NRI 0.12 and containerd 2.3: one call per event, and most of what was
// adjusted is shown afterwards.
const (
	showsSysctl  = true
	showsRlimits = true
	showsSeccomp = true
)

type (
	runPod        = api.RunPodSandboxRequest
	stopPod       = api.StopPodSandboxRequest
	removePod     = api.RemovePodSandboxRequest
	postCreate    = api.PostCreateContainerRequest
	startEvent    = api.StartContainerRequest
	postStart     = api.PostStartContainerRequest
	postUpdate    = api.PostUpdateContainerRequest
	removeRequest = api.RemoveContainerRequest
)

// NRI 0.11 panics when a plugin sets a sysctl, and knows no memory policy.
var dialectScenarios = []*scenario{
	{
		name:     "sysctl",
		pristine: func(spec *rspec.Spec) { spec.Linux.Sysctl = map[string]string{"net.ipv4.tcp_syncookies": "1"} },
		alpha:    func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("net.core.somaxconn", "512") },
		beta:     func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("-net.ipv4.tcp_syncookies", "") },
		expect: []expected{
			of("sysctl", "net.core.somaxconn", "add").value("512").by(alpha).ends("applied"),
			of("sysctl", "net.ipv4.tcp_syncookies", "remove").byNobodyKnown().ends(sysctlRemoval),
		},
	},
	{
		name: "memory-policy",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0")
		},
		expect: []expected{one("memory_policy", "set").by(alpha).ends("not_observable")},
	},
}
