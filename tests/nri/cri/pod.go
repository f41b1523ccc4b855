package main

import cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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

func containerConfig(name, image string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: name},
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
