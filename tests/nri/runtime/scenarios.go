package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/nri/pkg/api"
	rspec "github.com/opencontainers/runtime-spec/specs-go"
)

// scenario is one container, what the plugins do to it, and what the log must
// say of it then.
type scenario struct {
	name        string
	pristine    func(*rspec.Spec)
	alpha, beta func(*api.ContainerAdjustment)
	updates     []*api.ContainerUpdate // by alpha, to other containers
	fails       bool                   // after the plugins have had their say
	refused     bool                   // by NRI itself
	started     bool                   // started without a word of its creation
	resizes     bool                   // gets more CPU shares once it runs
	expect      []expected
	// For what only the container that came out can tell.
	expectOf func(*rspec.Spec) []expected
}

// What containerd of this dialect shows decides whether anything can be said.
func shownOr(shows bool, outcome string) string {
	if shows {
		return outcome
	}
	return "not_observable"
}

var races = []string{"race/a", "race/b", "race/c", "race/d"}

var creations = []*scenario{
	{name: "plain"},
	{
		name:   "env-add",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		expect: []expected{of("env", "TOKEN", "add").redacted().by(alpha).ends("applied")},
	},
	{
		name:   "env-override",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("PRISTINE", secret+"env") },
		expect: []expected{of("env", "PRISTINE", "replace").redacted().by(alpha).ends("applied")},
	},
	{
		// The adaptation drops it: there is nothing that the log could know.
		name:  "env-remove-pristine",
		alpha: func(a *api.ContainerAdjustment) { a.RemoveEnv("PRISTINE") },
	},
	{
		name:   "env-withdraw",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		beta:   func(a *api.ContainerAdjustment) { a.RemoveEnv("TOKEN") },
		expect: []expected{of("env", "TOKEN", "withdraw").by(beta).ends("applied")},
	},
	{
		name:  "env-replace-other",
		alpha: func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		beta: func(a *api.ContainerAdjustment) {
			a.RemoveEnv("TOKEN")
			a.AddEnv("TOKEN", secret+"env2")
		},
		expect: []expected{of("env", "TOKEN", "add").redacted().by(beta).ends("applied")},
	},
	{
		name:   "annotation-add",
		alpha:  func(a *api.ContainerAdjustment) { a.AddAnnotation("added", secret+"annotation") },
		expect: []expected{of("annotation", "added", "add").redacted().by(alpha).ends("applied")},
	},
	{
		// Both the removal and the new value reach the generator, which goes
		// through them in random order.
		name: "annotation-race",
		alpha: func(a *api.ContainerAdjustment) {
			for _, key := range races {
				a.AddAnnotation(key, secret+"annotation")
			}
		},
		beta: func(a *api.ContainerAdjustment) {
			for _, key := range races {
				a.RemoveAnnotation(key)
				a.AddAnnotation(key, secret+"annotation2")
			}
		},
		expectOf: func(spec *rspec.Spec) []expected {
			var all []expected
			for _, key := range races {
				outcome := "not_applied"
				if spec.Annotations[key] == secret+"annotation2" {
					outcome = "applied"
				}
				all = append(all, of("annotation", key, "replace").redacted().by(beta).ends(outcome))
			}
			return all
		},
	},
	{
		name:  "annotation-remove",
		alpha: func(a *api.ContainerAdjustment) { a.RemoveAnnotation("io.containerd.pinned") },
		expect: []expected{
			of("annotation", "io.containerd.pinned", "remove").byNobodyKnown().ends("applied"),
		},
	},
	{
		// containerd shows the kubelet's value whatever the spec says.
		name: "annotation-masked",
		alpha: func(a *api.ContainerAdjustment) {
			a.RemoveAnnotation("cri.example/config")
		},
		expect: []expected{
			of("annotation", "cri.example/config", "remove").byNobodyKnown().ends("indeterminate"),
		},
	},
	{
		name: "args",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetArgs([]string{"/bin/wrapper", "--token=" + secret + "args"})
		},
		expect: []expected{one("args", "set").contains("/bin/wrapper").by(alpha).ends("applied")},
	},
	{
		name: "mounts",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Destination: "/added", Type: "bind", Source: "/srv/added", Options: []string{"rbind", "ro"}})
		},
		beta: func(a *api.ContainerAdjustment) { a.RemoveMount("/pristine") },
		expect: []expected{
			of("mount", "/added", "add").by(alpha).ends("applied"),
			of("mount", "/pristine", "remove").byNobodyKnown().ends("applied"),
		},
	},
	{
		name: "mount-replace",
		alpha: func(a *api.ContainerAdjustment) {
			a.RemoveMount("/pristine")
			a.AddMount(&api.Mount{Destination: "/pristine", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=0700"}})
		},
		expect: []expected{of("mount", "/pristine", "replace").by(alpha).ends("applied")},
	},
	{
		name:  "hook-of-one",
		alpha: func(a *api.ContainerAdjustment) { a.AddHooks(hooks("/usr/bin/alpha-hook")) },
		expect: []expected{
			one("hook", "add").contains("/usr/bin/alpha-hook").by(alpha).ends("applied"),
		},
	},
	{
		name:  "hooks-of-two",
		alpha: func(a *api.ContainerAdjustment) { a.AddHooks(hooks("/usr/bin/alpha-hook")) },
		beta:  func(a *api.ContainerAdjustment) { a.AddHooks(hooks("/usr/bin/beta-hook")) },
		expect: []expected{
			one("hook", "add").contains("/usr/bin/alpha-hook").byOneOf(alpha, beta).ends("applied"),
			one("hook", "add").contains("/usr/bin/beta-hook").byOneOf(alpha, beta).ends("applied"),
		},
	},
	{
		name: "devices",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/added", Type: "c", Major: 10, Minor: 229})
		},
		beta:   func(a *api.ContainerAdjustment) { a.RemoveDevice("/dev/pristine") }, // dropped as well
		expect: []expected{of("device", "/dev/added", "add").by(alpha).ends("applied")},
	},
	{
		name: "cdi-device",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddCDIDevice(&api.CDIDevice{Name: "example.com/device=one"})
		},
		expect: []expected{of("cdi_device", "example.com/device=one", "add").by(alpha).ends("not_observable")},
	},
	{
		name: "cpu",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxCPUPeriod(100000)
			a.SetLinuxCPUQuota(50000)
			a.SetLinuxCPUShares(512)
		},
		beta: func(a *api.ContainerAdjustment) {
			a.SetLinuxCPUSetCPUs("0-1")
			a.SetLinuxCPUSetMems("0")
		},
		expect: []expected{
			one("cpu_period", "set").value(100000).by(alpha).ends("applied"),
			one("cpu_quota", "set").value(50000).by(alpha).ends("applied"),
			one("cpu_shares", "set").value(512).by(alpha).ends("applied"),
			one("cpuset_cpus", "set").value("0-1").by(beta).ends("applied"),
			one("cpuset_mems", "set").value("0").by(beta).ends("applied"),
		},
	},
	{
		name: "memory",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxMemoryLimit(1 << 27)
			a.SetLinuxMemoryReservation(1 << 26)
			a.SetLinuxMemorySwap(1 << 28)
		},
		expect: []expected{
			one("memory_limit", "set").value(1 << 27).by(alpha).ends("applied"),
			one("memory_reservation", "set").value(1 << 26).by(alpha).ends("not_applied"),
			one("memory_swap", "set").value(1 << 28).by(alpha).ends("not_applied"),
		},
	},
	{
		name: "resources",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddLinuxHugepageLimit("2MB", 4<<20)
			a.AddLinuxUnified("memory.high", "100000000")
			a.SetLinuxPidLimits(64)
		},
		expect: []expected{
			of("hugepage_limit", "2MB", "add").by(alpha).ends("applied"),
			of("unified", "memory.high", "add").by(alpha).ends("applied"),
			one("pids_limit", "set").value(64).by(alpha).ends("applied"),
		},
	},
	{
		name: "classes",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxBlockIOClass("gold")
			a.SetLinuxRDTClass("silver")
		},
		expect: []expected{
			one("blockio_class", "set").value("gold").by(alpha).ends("not_observable"),
			one("rdt_class", "set").value("silver").by(alpha).ends("applied"),
		},
	},
	{
		name: "rdt",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxRDTClosID("bronze")
			a.SetLinuxRDTSchemata([]string{"L3:0=f"})
			a.SetLinuxRDTEnableMonitoring(true)
		},
		expect: []expected{
			one("rdt_clos_id", "set").value("bronze").by(alpha).ends("applied"),
			one("rdt_schemata", "set").by(alpha).ends("applied"),
			one("rdt_enable_monitoring", "set").by(alpha).ends("applied"),
		},
	},
	{
		name: "process",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxCgroupsPath("/adjusted")
			a.SetLinuxOomScoreAdj(pointer(500))
			a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_BE, Priority: 4})
			a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 5})
		},
		expect: []expected{
			one("cgroups_path", "set").value("/adjusted").by(alpha).ends("applied"),
			one("oom_score_adj", "set").value(500).by(alpha).ends("applied"),
			one("io_priority", "set").by(alpha).ends("applied"),
			one("scheduler", "set").by(alpha).ends("applied"),
		},
	},
	{
		name: "seccomp",
		alpha: func(a *api.ContainerAdjustment) {
			a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{
				DefaultAction: "SCMP_ACT_ALLOW",
				Syscalls:      []*api.LinuxSyscall{{Names: []string{"mount"}, Action: "SCMP_ACT_ERRNO"}},
			})
		},
		expect: []expected{
			one("seccomp_policy", "set").by(alpha).ends(shownOr(showsSeccomp, "applied")),
		},
	},
	{
		name: "namespaces",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/var/run/netns/other"})
		},
		beta: func(a *api.ContainerAdjustment) { a.RemoveNamespace(&api.LinuxNamespace{Type: "ipc"}) },
		expect: []expected{
			of("namespace", "ipc", "remove").by(beta).ends("applied"),
			of("namespace", "network", "add").by(alpha).ends("applied"),
		},
	},
	{
		name: "net-device",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddLinuxNetDevice("eth7", &api.LinuxNetDevice{Name: "eth0"})
		},
		expect: []expected{of("net_device", "eth7", "add").by(alpha).ends("applied")},
	},
	{
		name:  "rlimits",
		alpha: func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_NOFILE", 2048, 1024) },
		expect: []expected{
			of("rlimit", "RLIMIT_NOFILE", "add").by(alpha).ends(shownOr(showsRlimits, "applied")),
		},
	},
	{
		name:   "noop",
		alpha:  func(a *api.ContainerAdjustment) { a.SetLinuxCPUShares(1024) },
		expect: []expected{one("cpu_shares", "set").value(1024).by(alpha).ends("applied")},
	},
	{
		// All kinds of things at once: the log has them in the generator's order.
		name: "order",
		pristine: func(spec *rspec.Spec) {
			spec.Process.Env = append(spec.Process.Env, "B=b")
		},
		alpha: func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Destination: "/order", Type: "tmpfs", Source: "tmpfs"})
			a.SetLinuxCPUShares(256)
			a.SetLinuxOomScoreAdj(pointer(7))
			a.AddHooks(hooks("/usr/bin/alpha-hook"))
			a.SetArgs([]string{"/bin/ordered"})
			a.AddEnv("ORDER_B", "b")
			a.AddEnv("ORDER_A", "a")
			a.AddAnnotation("order", "1")
		},
		expect: []expected{
			of("annotation", "order", "add").by(alpha).ends("applied"),
			of("env", "ORDER_A", "add").by(alpha).ends("applied"),
			of("env", "ORDER_B", "add").by(alpha).ends("applied"),
			one("args", "set").by(alpha).ends("applied"),
			one("hook", "add").by(alpha).ends("applied"),
			one("oom_score_adj", "set").by(alpha).ends("applied"),
			one("cpu_shares", "set").by(alpha).ends("applied"),
			of("mount", "/order", "add").by(alpha).ends("applied"),
		},
	},
	{
		name:    "update-other",
		updates: []*api.ContainerUpdate{update("id-plain", 333)},
		expect: []expected{
			one("cpu_shares", "set").value(333).by(alpha).updates("id-plain").ends("not_observable"),
		},
	},
	{
		name:   "fails-later",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		fails:  true,
		expect: []expected{of("env", "TOKEN", "add").redacted().by(alpha).ends("never_created")},
	},
	{
		// The generator refuses what it does not know.
		name: "fails-in-generator",
		alpha: func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "nonsense", Path: "/"})
		},
		fails:  true,
		expect: []expected{of("namespace", "nonsense", "add").by(alpha).ends("never_created")},
	},
	{
		// Refused before anybody could validate it.
		name:    "conflict",
		alpha:   func(a *api.ContainerAdjustment) { a.SetLinuxCPUShares(2) },
		beta:    func(a *api.ContainerAdjustment) { a.SetLinuxCPUShares(3) },
		refused: true,
	},
	{
		name:    "resize",
		resizes: true,
		alpha:   func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		expect: []expected{
			of("env", "TOKEN", "add").redacted().by(alpha).ends("applied"),
			one("cpu_shares", "set").value(2048).byNobodyKnown().updates("").ends("applied"),
		},
	},
	{
		// No PostCreate: what the start shows has to do.
		name:    "seen-at-start",
		alpha:   func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		started: true,
		expect:  []expected{of("env", "TOKEN", "add").redacted().by(alpha).ends("applied")},
	},
}

func hooks(path string) *api.Hooks {
	return &api.Hooks{CreateRuntime: []*api.Hook{{
		Path: path, Args: []string{path, "--key=" + secret + "hook"}, Env: []string{"KEY=" + secret + "hook"},
	}}}
}

func update(id string, shares uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{ContainerId: id}
	u.SetLinuxCPUShares(shares)
	return u
}

// ---- One container ----------------------------------------------------------

func (m *machine) play(s *scenario) error {
	m.alpha.adjust, m.alpha.updates, m.beta.adjust = s.alpha, s.updates, s.beta
	defer func() { m.alpha.adjust, m.alpha.updates, m.beta.adjust = nil, nil, nil }()

	c := newContainer(m.pod, s.name)
	if s.pristine != nil {
		s.pristine(c.spec)
	}
	err := m.create(creation{c: c, fails: s.fails, silent: s.started})
	if (err != nil) != (s.fails || s.refused) {
		return fmt.Errorf("%s: %w", s.name, errors.Join(err, errors.New("unexpected result of the creation")))
	}
	if err == nil {
		if err := m.start(c); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	all := s.expect
	if s.expectOf != nil {
		all = s.expectOf(c.spec)
	}
	if s.resizes {
		if err := m.resize(c, 2048); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	e := expectation{Scenario: s.name, Container: c.id, Adjustments: all}
	if err != nil {
		e.Error = err.Error()
	}
	if len(all) == 0 && !s.refused {
		e.Records = []record{{Kind: "no_adjustment"}}
	}
	say(e)
	return nil
}

// ---- All of them ------------------------------------------------------------

func (m *machine) scenarios() error {
	for _, step := range []func() error{
		m.existing, m.allCreations, m.unaudited, m.removed, m.comingAndGoing, m.restart,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// A container that was there before the audit was.
func (m *machine) existing() error {
	c := newContainer(m.pod, "existing")
	if err := m.create(creation{c: c}); err != nil {
		return err
	}
	for _, start := range []func() error{
		func() error { return m.alpha.start(m.log) },
		func() error { return m.beta.start(m.log) },
		m.startAudit,
	} {
		if err := start(); err != nil {
			return err
		}
	}
	say(expectation{Scenario: "existing", Container: c.id, Records: []record{{Kind: "baseline"}}})
	say(expectation{Scenario: "session", Records: []record{
		{Kind: "log_opened"}, {Kind: "session_started", Contains: runtimeVersion},
		{Kind: "plugin_connected", Contains: alpha}, {Kind: "plugin_connected", Contains: beta},
	}})
	return m.runPod()
}

func (m *machine) allCreations() error {
	for _, s := range append(creations, dialectScenarios...) {
		if err := m.play(s); err != nil {
			return err
		}
	}
	return nil
}

// A container that nobody announced.
func (m *machine) unaudited() error {
	c := newContainer(m.pod, "unaudited")
	err := m.nri.PostCreateContainer(ctx, &postCreate{Pod: m.pod, Container: c.show(api.ContainerState_CONTAINER_CREATED)})
	if err != nil {
		return err
	}
	say(expectation{Scenario: "unaudited", Container: c.id, Records: []record{{Kind: "unaudited_creation"}}})
	return nil
}

// The end of a container is nothing that the log tells of.
func (m *machine) removed() error {
	return m.remove(m.running["id-env-add"])
}

// With one plugin alone, what has no owner has a likely one.
func (m *machine) comingAndGoing() error {
	mark := m.log.mark()
	m.beta.stop()
	if err := m.log.wait(mark, disconnected(beta), nil); err != nil {
		return err
	}
	if err := m.runPod(); err != nil { // the runtime notices at the end of a request
		return err
	}
	err := m.play(&scenario{
		name:  "one-plugin-left",
		alpha: func(a *api.ContainerAdjustment) { a.RemoveMount("/pristine") },
		expect: []expected{
			of("mount", "/pristine", "remove").byPerhaps(alpha).ends("applied"),
		},
	})
	if err != nil {
		return err
	}
	say(expectation{Scenario: "a plugin goes", Records: []record{{Kind: "plugin_gone", Contains: beta}}})
	return m.beta.start(m.log)
}

// The runtime is there again; so are the plugins.
func (m *machine) resume(audit int) error {
	if err := m.adopt(audit); err != nil {
		return err
	}
	if err := m.alpha.start(m.log); err != nil {
		return err
	}
	say(expectation{Scenario: "the runtime restarts", Records: []record{
		{Kind: "session_ended"}, {Kind: "session_started"},
	}})
	err := m.play(&scenario{
		name:   "after-restart",
		alpha:  func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") },
		expect: []expected{of("env", "TOKEN", "add").redacted().by(alpha).ends("applied")},
	})
	if err != nil {
		return err
	}
	return m.unresolved()
}

// The audit ends before it learns how a creation did.
func (m *machine) unresolved() error {
	m.alpha.adjust = func(a *api.ContainerAdjustment) { a.AddEnv("TOKEN", secret+"env") }
	c := newContainer(m.pod, "unresolved")
	if err := m.create(creation{c: c, silent: true}); err != nil {
		return err
	}
	say(expectation{Scenario: "unresolved", Container: c.id, Adjustments: []expected{
		of("env", "TOKEN", "add").redacted().by(alpha).ends("unresolved"),
	}})
	return m.endAudit(syscall.SIGTERM)
}
