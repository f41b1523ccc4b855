// What a kubelet does with one pod and its container, next to a plugin,
// 10-alpha, that adjusts the container.
//
//	cri CONTAINERD_SOCKET NRI_SOCKET IMAGE CGROUP
//
// Prints the container's id once it is running, and takes all down again at the
// end of its standard input.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Whatever must never be written down says so.
const secret = "hunter2-"

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

func run(ctx context.Context, containerd, nri, image, cgroup string) error {
	plugin, err := stub.New(alpha{}, stub.WithPluginIdx("10"), stub.WithPluginName("alpha"), stub.WithSocketPath(nri))
	if err != nil {
		return err
	}
	if err := plugin.Start(ctx); err != nil {
		return err
	}
	defer plugin.Stop()
	connection, err := grpc.NewClient("unix://"+containerd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	return live(ctx, cri.NewRuntimeServiceClient(connection), image, podConfig(cgroup))
}

// live takes down whatever it made, also when something fails.
func live(ctx context.Context, runtime cri.RuntimeServiceClient, image string, config *cri.PodSandboxConfig) (failure error) {
	pod, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	defer func() {
		_, stopped := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		_, removed := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		failure = errors.Join(failure, stopped, removed)
	}()
	container, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, Config: containerConfig(image), SandboxConfig: config,
	})
	if err != nil {
		return err
	}
	_, err = runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId})
	if err != nil {
		return err
	}
	fmt.Println(container.ContainerId)
	_, _ = io.Copy(io.Discard, os.Stdin)
	_, stopped := runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: container.ContainerId, Timeout: 5})
	_, removed := runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: container.ContainerId})
	return errors.Join(stopped, removed)
}

// ---- The plugin -------------------------------------------------------------

type alpha struct{}

func (alpha) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (
	*api.ContainerAdjustment, []*api.ContainerUpdate, error,
) {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("added", secret+"annotation")
	a.RemoveAnnotation("cri.example/config")
	a.AddEnv("OVERRIDDEN", secret+"env")
	a.AddEnv("TOKEN", secret+"env")
	a.RemoveEnv("PRISTINE") // dropped by NRI
	a.SetLinuxMemoryReservation(64 << 20)
	a.AddMount(&api.Mount{Destination: "/added", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=0700"}})
	a.AddRlimit("RLIMIT_NOFILE", 2048, 1024)
	return a, nil, nil
}

// ---- The pod and its container ------------------------------------------------

func podConfig(cgroup string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: "pod", Uid: "pod-uid", Namespace: "tests"},
		Annotations: map[string]string{"pod": secret + "pod"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ofTheNode()},
		},
	}
}

func containerConfig(image string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: "container"},
		Image:       &cri.ImageSpec{Image: image},
		Annotations: map[string]string{"cri.example/config": secret + "cri"},
		Envs: []*cri.KeyValue{
			{Key: "OVERRIDDEN", Value: secret + "pristine"},
			{Key: "PRISTINE", Value: secret + "pristine"},
		},
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: ofTheNode()},
		},
	}
}

// Without namespaces of its own a pod needs no CNI plugin.
func ofTheNode() *cri.NamespaceOption {
	return &cri.NamespaceOption{
		Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE,
	}
}
