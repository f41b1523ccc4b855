package main

import (
	"context"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// Whatever must never be written down says so.
const secret = "hunter2-"

// alpha is the plugin that adjusts containers, by their names.
type alpha struct {
	socket string
	stub   stub.Stub
}

func (p *alpha) connect(ctx context.Context) error {
	if p.stub != nil {
		p.stub.Stop()
	}
	plugin, err := stub.New(p, stub.WithPluginIdx("10"), stub.WithPluginName("alpha"),
		stub.WithSocketPath(p.socket), stub.WithOnClose(func() {}))
	if err != nil {
		return err
	}
	p.stub = plugin
	return plugin.Start(ctx)
}

func (p *alpha) CreateContainer(_ context.Context, _ *api.PodSandbox, container *api.Container) (
	*api.ContainerAdjustment, []*api.ContainerUpdate, error,
) {
	a := &api.ContainerAdjustment{}
	switch container.Name {
	case "adjusted":
		a.AddAnnotation("added", secret+"annotation")
		a.RemoveAnnotation("cri.example/config")
		a.AddEnv("OVERRIDDEN", secret+"env")
		a.AddEnv("TOKEN", secret+"env")
		a.RemoveEnv("PRISTINE") // dropped by NRI
		a.SetLinuxMemoryReservation(64 << 20)
		a.AddMount(&api.Mount{
			Destination: "/added", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=0700"},
		})
		a.AddRlimit("RLIMIT_NOFILE", 2048, 1024)
	case "failing":
		a.AddEnv("TOKEN", secret+"env")
		a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "nonsense", Path: "/"})
	case "after-restart":
		a.AddEnv("TOKEN", secret+"env")
	}
	return a, nil, nil
}
