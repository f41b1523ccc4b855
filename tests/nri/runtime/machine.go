package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
)

// machine is a runtime with what is connected to it and what runs on it.
type machine struct {
	dir        string
	socketPath string
	command    []string
	nri        *adaptation.Adaptation
	log        *logger
	audit      *os.Process
	ended      chan struct{} // closed once the audit plugin is gone
	alpha      *mutator
	beta       *mutator
	pod        *api.PodSandbox

	creating sync.Mutex // held during each creation while the audit plugin is harmed
	attempts int        // how many of them there were

	mutex   sync.Mutex
	running map[string]*container
}

func newMachine(dir, socket string, command []string) (*machine, error) {
	log, err := newLogger(filepath.Join(dir, "nri.log"))
	if err != nil {
		return nil, err
	}
	nrilog.Set(log)
	if socket == "" {
		socket = filepath.Join(dir, "nri.sock")
	}
	m := &machine{
		dir:        dir,
		socketPath: socket,
		command:    command,
		log:        log,
		running:    map[string]*container{},
		pod: &api.PodSandbox{
			Id: "pod-id", Name: "pod", Uid: "pod-uid", Namespace: "tests",
			Annotations: map[string]string{"pod": secret + "pod"},
		},
	}
	if err := m.startNRI(); err != nil {
		return nil, err
	}
	m.alpha = newMutator("10", "alpha", m.socket())
	m.beta = newMutator("20", "beta", m.socket())
	return m, nil
}

func (m *machine) socket() string { return m.socketPath }

func (m *machine) startNRI() error {
	// Empty but in the scenario that has the runtime start the audit plugin.
	plugins := filepath.Join(m.dir, "plugins")
	nri, err := adaptation.New("containerd", runtimeVersion, m.synchronize, m.update,
		adaptation.WithSocketPath(m.socket()),
		adaptation.WithPluginPath(plugins),
		adaptation.WithPluginConfigPath(plugins))
	if err != nil {
		return err
	}
	m.nri = nri
	return nri.Start()
}

func (m *machine) close() {
	m.stopAudit()
	m.alpha.stop()
	m.beta.stop()
	m.nri.Stop()
}

// ---- What NRI asks of a runtime ---------------------------------------------

func (m *machine) synchronize(ctx context.Context, callback adaptation.SyncCB) error {
	m.mutex.Lock()
	var shown []*api.Container
	pods := map[string]*api.PodSandbox{m.pod.Id: m.pod}
	for _, c := range m.running {
		shown = append(shown, c.show(api.ContainerState_CONTAINER_RUNNING))
		pods[c.pod.Id] = c.pod
	}
	m.mutex.Unlock()
	_, err := callback(ctx, slices.Collect(maps.Values(pods)), shown)
	return err
}

func (m *machine) update(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return nil, nil
}

// ---- What happens to containers ---------------------------------------------

// creation is one attempt to create a container.
type creation struct {
	c *container
	// Whether something after the plugins fails.
	fails bool
	// Whether plugins hear of the container at all before it is started.
	silent bool
}

func (m *machine) runPod() error {
	return m.nri.RunPodSandbox(ctx, &runPod{Pod: m.pod})
}

// create does what containerd does, in its order. The error is the one that
// containerd would hand to the kubelet.
func (m *machine) create(attempt creation) error {
	block := m.nri.BlockPluginSync()
	defer block.Unblock()

	c := attempt.c
	pristine := c.show(api.ContainerState_CONTAINER_UNKNOWN)
	reply, err := m.nri.CreateContainer(ctx, &api.CreateContainerRequest{
		Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_UNKNOWN),
	})
	if err == nil {
		err = c.adjust(reply.Adjust)
	}
	if err == nil && attempt.fails {
		err = fmt.Errorf("no space left on device")
	}
	if err != nil {
		m.undo(pristine)
		return err
	}
	m.mutex.Lock()
	m.running[c.id] = c
	m.mutex.Unlock()
	if !attempt.silent {
		_ = m.nri.PostCreateContainer(ctx, &postCreate{
			Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_CREATED),
		})
	}
	return nil
}

// A creation that failed looks like this to plugins.
func (m *machine) undo(pristine *api.Container) {
	_, _ = m.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: m.pod, Container: pristine})
	_ = m.nri.RemoveContainer(ctx, &removeRequest{Pod: m.pod, Container: pristine})
}

func (m *machine) start(c *container) error {
	err := m.nri.StartContainer(ctx, &startEvent{
		Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_CREATED),
	})
	if err != nil {
		return err
	}
	return m.nri.PostStartContainer(ctx, &postStart{
		Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_RUNNING),
	})
}

// resize asks as containerd does, which sends what the kubelet left out as 0.
func (m *machine) resize(c *container, shares uint64) error {
	_, err := m.nri.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_RUNNING),
		LinuxResources: &api.LinuxResources{
			Cpu:    &api.LinuxCPU{Shares: api.UInt64(shares), Quota: api.Int64(0), Period: api.UInt64(0)},
			Memory: &api.LinuxMemory{Limit: api.Int64(0)},
		},
	})
	if err != nil {
		return err
	}
	c.spec.Linux.Resources.CPU.Shares = &shares
	return m.nri.PostUpdateContainer(ctx, &postUpdate{
		Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_RUNNING),
	})
}

func (m *machine) remove(c *container) error {
	m.mutex.Lock()
	delete(m.running, c.id)
	m.mutex.Unlock()
	shown := c.show(api.ContainerState_CONTAINER_STOPPED)
	if _, err := m.nri.StopContainer(ctx, &api.StopContainerRequest{Pod: m.pod, Container: shown}); err != nil {
		return err
	}
	return m.nri.RemoveContainer(ctx, &removeRequest{Pod: m.pod, Container: shown})
}

// ---- The audit plugin -------------------------------------------------------

const auditName = "00-eventlog"

func connected(plugin string) string {
	return fmt.Sprintf("plugin %q connected and synchronized", plugin)
}

func disconnected(plugin string) string {
	return fmt.Sprintf("connection to plugin %q closed", plugin)
}

func (m *machine) startAudit() error {
	output, err := os.OpenFile(filepath.Join(m.dir, "plugin.log"),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	mark := m.log.mark()
	audit := exec.Command(m.command[0], m.command[1:]...)
	audit.Stdout, audit.Stderr = output, output
	if err := audit.Start(); err != nil {
		return err
	}
	m.watch(audit.Process)
	return m.log.wait(mark, connected(auditName), m.ended)
}

func (m *machine) watch(audit *os.Process) {
	ended := make(chan struct{})
	m.audit, m.ended = audit, ended
	go func() {
		_, _ = audit.Wait()
		close(ended)
	}()
}

// restart is the end of the runtime and its next start. The audit plugin lives
// on: it stays a child of this process, which begins anew.
func (m *machine) restart() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	arguments := append([]string{self, "resume", m.dir, "-audit", strconv.Itoa(m.audit.Pid), "--"}, m.command...)
	return syscall.Exec(self, arguments, os.Environ())
}

func (m *machine) adopt(pid int) error {
	audit, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	m.watch(audit)
	return m.log.wait(0, connected(auditName), m.ended)
}

// endAudit sends a signal that ends the audit plugin and waits until it is gone.
func (m *machine) endAudit(signal syscall.Signal) error {
	if m.audit == nil {
		return nil
	}
	m.signalAudit(signal)
	select {
	case <-m.ended:
		m.audit = nil
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the audit plugin does not end on %v", signal)
	}
}

func (m *machine) signalAudit(signal syscall.Signal) {
	_ = m.audit.Signal(signal)
}

func (m *machine) stopAudit() {
	if m.endAudit(syscall.SIGTERM) != nil {
		_ = m.endAudit(syscall.SIGKILL)
	}
}

// ---- NRI's log --------------------------------------------------------------

// logger keeps what NRI says: only there can one see who has connected.
type logger struct {
	mutex sync.Mutex
	file  *os.File
	lines []string
}

func newLogger(path string) (*logger, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &logger{file: file}, err
}

func (l *logger) write(level, format string, arguments []any) {
	line := fmt.Sprintf(format, arguments...)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.lines = append(l.lines, line)
	fmt.Fprintf(l.file, "%s %s %s\n", time.Now().Format("15:04:05.000"), level, line)
}

func (l *logger) Debugf(context.Context, string, ...any) {}
func (l *logger) Infof(_ context.Context, format string, arguments ...any) {
	l.write("info", format, arguments)
}
func (l *logger) Warnf(_ context.Context, format string, arguments ...any) {
	l.write("warn", format, arguments)
}
func (l *logger) Errorf(_ context.Context, format string, arguments ...any) {
	l.write("error", format, arguments)
}

// mark is a place in the log, to look only at what follows.
func (l *logger) mark() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return len(l.lines)
}

func (l *logger) since(mark int, text string) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for _, line := range l.lines[mark:] {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

func (l *logger) wait(mark int, text string, ended <-chan struct{}) error {
	deadline := time.After(patience)
	for !l.since(mark, text) {
		select {
		case <-ended:
			return fmt.Errorf("the audit plugin ended instead of: %s", text)
		case <-deadline:
			return fmt.Errorf("waited in vain for: %s", text)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}
