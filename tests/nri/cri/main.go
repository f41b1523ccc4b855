// What a kubelet does with the containers of one pod, next to a plugin, 10-alpha,
// that adjusts some of them.
//
//	cri CONTAINERD_SOCKET NRI_SOCKET IMAGE CGROUP
//
// It takes one command a line and answers with one line, "ok" or "error" and what
// there is to say:
//
//	create NAME   a container, and starts it
//	resize NAME   gives it more CPU shares
//	remove NAME   stops and removes it
//	connect       the plugin, again
//
// At the end of its input it takes down all that is left.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: cri CONTAINERD_SOCKET NRI_SOCKET IMAGE CGROUP")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, containerd, nri, image, cgroup string) (failure error) {
	connection, err := grpc.NewClient("unix://"+containerd,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return err
	}
	defer connection.Close()
	k := &kubelet{
		runtime: cri.NewRuntimeServiceClient(connection),
		plugin:  &alpha{socket: nri},
		image:   image,
		config:  podConfig(cgroup),
		ids:     map[string]string{},
	}
	if err := k.plugin.connect(ctx); err != nil {
		return err
	}
	pod, err := k.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: k.config})
	if err != nil {
		return err
	}
	k.pod = pod.PodSandboxId
	defer func() { failure = errors.Join(failure, k.takeDown(ctx)) }()

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		k.answer(ctx, strings.Fields(lines.Text()))
	}
	return lines.Err()
}

// ---- The kubelet ------------------------------------------------------------

type kubelet struct {
	runtime cri.RuntimeServiceClient
	plugin  *alpha
	image   string
	config  *cri.PodSandboxConfig
	pod     string
	ids     map[string]string // of containers, by name
}

func (k *kubelet) answer(ctx context.Context, command []string) {
	var err error
	switch {
	case slices.Equal(command, []string{"connect"}):
		err = k.plugin.connect(ctx)
	case len(command) != 2:
		err = errors.New("no such command")
	case command[0] == "create":
		err = k.create(ctx, command[1])
	case command[0] == "resize":
		err = k.resize(ctx, command[1])
	case command[0] == "remove":
		err = k.remove(ctx, command[1])
	default:
		err = errors.New("no such command")
	}
	if err != nil {
		fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
	} else {
		fmt.Println("ok")
	}
}

func (k *kubelet) create(ctx context.Context, name string) error {
	created, err := k.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: k.pod, Config: containerConfig(name, k.image), SandboxConfig: k.config,
	})
	if err != nil {
		return err
	}
	k.ids[name] = created.ContainerId
	_, err = k.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	return err
}

func (k *kubelet) resize(ctx context.Context, name string) error {
	_, err := k.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{
		ContainerId: k.ids[name], Linux: &cri.LinuxContainerResources{CpuShares: 512},
	})
	return err
}

func (k *kubelet) remove(ctx context.Context, name string) error {
	id := k.ids[name]
	delete(k.ids, name)
	_, stopped := k.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 5})
	_, removed := k.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	return errors.Join(stopped, removed)
}

func (k *kubelet) takeDown(ctx context.Context) error {
	var failures []error
	for name := range k.ids {
		failures = append(failures, k.remove(ctx, name))
	}
	_, stopped := k.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: k.pod})
	_, removed := k.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: k.pod})
	return errors.Join(append(failures, stopped, removed)...)
}
