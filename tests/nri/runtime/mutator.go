package main

import (
	"context"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// mutator is a plugin that adjusts containers as the scenario at hand says.
type mutator struct {
	index, name, socket string
	adjust              func(*api.ContainerAdjustment)
	updates             []*api.ContainerUpdate
	stub                stub.Stub
}

func newMutator(index, name, socket string) *mutator {
	return &mutator{index: index, name: name, socket: socket}
}

func (p *mutator) fullName() string { return p.index + "-" + p.name }

func (p *mutator) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (
	*api.ContainerAdjustment, []*api.ContainerUpdate, error,
) {
	adjustment := &api.ContainerAdjustment{}
	if p.adjust != nil {
		p.adjust(adjustment)
	}
	return adjustment, p.updates, nil
}

func (p *mutator) start(log *logger) error {
	mark := log.mark()
	plugin, err := stub.New(p, stub.WithPluginIdx(p.index), stub.WithPluginName(p.name),
		stub.WithSocketPath(p.socket), stub.WithOnClose(func() {}))
	if err != nil {
		return err
	}
	if err := plugin.Start(ctx); err != nil {
		return err
	}
	p.stub = plugin
	return log.wait(mark, connected(p.fullName()), nil)
}

func (p *mutator) stop() {
	if p.stub != nil {
		p.stub.Stop()
		p.stub = nil
	}
}
