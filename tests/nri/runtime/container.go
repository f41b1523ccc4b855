package main

import (
	"maps"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	rspec "github.com/opencontainers/runtime-spec/specs-go"
	underlying "github.com/opencontainers/runtime-tools/generate"
)

// Whatever must never be written down anywhere says so.
const secret = "hunter2-"

func pointer[T any](value T) *T { return &value }

// container is one that the runtime creates, with the spec it starts from.
type container struct {
	id, name string
	pod      *api.PodSandbox
	spec     *rspec.Spec
	// What the kubelet asked for; containerd shows it over what the spec says.
	cri map[string]string
}

func newContainer(pod *api.PodSandbox, name string) *container {
	return &container{
		id:   "id-" + name,
		name: name,
		pod:  pod,
		cri:  map[string]string{"cri.example/config": secret + "cri"},
		spec: &rspec.Spec{
			Process: &rspec.Process{
				Args:        []string{"/bin/server", "--password=" + secret + "args"},
				Env:         []string{"PATH=/bin", "PRISTINE=" + secret + "pristine"},
				OOMScoreAdj: pointer(100),
			},
			Annotations: map[string]string{
				"cri.example/config":   secret + "cri",
				"io.containerd.pinned": secret + "spec",
			},
			Mounts: []rspec.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc"},
				{Destination: "/pristine", Type: "bind", Source: "/srv/pristine", Options: []string{"rbind", "ro"}},
			},
			Linux: &rspec.Linux{
				CgroupsPath: "/pods/" + name,
				Namespaces: []rspec.LinuxNamespace{
					{Type: rspec.PIDNamespace}, {Type: rspec.IPCNamespace}, {Type: rspec.MountNamespace},
				},
				Devices: []rspec.LinuxDevice{{Path: "/dev/pristine", Type: "c", Major: 1, Minor: 3}},
				Resources: &rspec.LinuxResources{
					CPU:    &rspec.LinuxCPU{Shares: pointer(uint64(1024))},
					Memory: &rspec.LinuxMemory{Limit: pointer(int64(1 << 28))},
				},
			},
		},
	}
}

// adjust is what containerd does with the adaptation's reply.
func (c *container) adjust(adjustment *api.ContainerAdjustment) error {
	generator := generate.SpecGenerator(
		&underlying.Generator{Config: c.spec},
		generate.WithRdtResolver(func(class string) (*rspec.LinuxIntelRdt, error) {
			return &rspec.LinuxIntelRdt{ClosID: class}, nil
		}),
	)
	return generator.Adjust(adjustment)
}

// show describes the container to plugins, as containerd of this dialect does.
func (c *container) show(state api.ContainerState) *api.Container {
	process, linux := c.spec.Process, c.spec.Linux
	annotations := maps.Clone(c.spec.Annotations)
	maps.Copy(annotations, c.cri)
	shown := &api.Container{
		Id:           c.id,
		PodSandboxId: c.pod.Id,
		Name:         c.name,
		State:        state,
		Labels:       map[string]string{"label": secret + "label"},
		Annotations:  annotations,
		Args:         append([]string(nil), process.Args...),
		Env:          append([]string(nil), process.Env...),
		Mounts:       api.FromOCIMounts(c.spec.Mounts),
		Hooks:        api.FromOCIHooks(c.spec.Hooks),
		Linux: &api.LinuxContainer{
			Namespaces:  api.FromOCILinuxNamespaces(linux.Namespaces),
			Devices:     api.FromOCILinuxDevices(linux.Devices),
			Resources:   api.FromOCILinuxResources(linux.Resources, nil),
			OomScoreAdj: api.Int(process.OOMScoreAdj),
			CgroupsPath: linux.CgroupsPath,
			IoPriority:  api.FromOCILinuxIOPriority(process.IOPriority),
			NetDevices:  api.FromOCILinuxNetDevices(linux.NetDevices),
		},
	}
	if process.Scheduler != nil {
		shown.Linux.Scheduler = api.FromOCILinuxScheduler(process.Scheduler)
	}
	if linux.IntelRdt != nil {
		shown.Linux.Rdt = &api.LinuxRdt{
			ClosId:           api.String(linux.IntelRdt.ClosID),
			Schemata:         api.RepeatedString(linux.IntelRdt.Schemata),
			EnableMonitoring: api.Bool(linux.IntelRdt.EnableMonitoring),
		}
	}
	if showsSysctl {
		// Plugins cannot tell an empty map from none; NRI can.
		shown.Linux.Sysctl = map[string]string{}
		maps.Copy(shown.Linux.Sysctl, linux.Sysctl)
	}
	if showsSeccomp && linux.Seccomp != nil {
		shown.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(linux.Seccomp)
	}
	if showsRlimits {
		for _, limit := range process.Rlimits {
			shown.Rlimits = append(shown.Rlimits,
				&api.POSIXRlimit{Type: limit.Type, Hard: limit.Hard, Soft: limit.Soft})
		}
	}
	return shown
}
