// A container runtime without containers: NRI's own adaptation, two plugins that
// adjust what it creates (10-alpha, 20-beta), and the audit plugin under test,
// which it starts, stops and harms.
//
//	runtime MODE DIR [OPTION...] -- COMMAND [ARGUMENT...]
//
// COMMAND is the audit plugin, 00-eventlog; it is to connect to DIR/nri.sock.
// Its output goes to DIR/plugin.log, that of NRI to DIR/nri.log. A mode prints
// lines of JSON: what the audit log must say, or what was measured. (A runtime
// that restarts goes on in the mode "resume".)
//
//	runtime serve DIR [-socket PATH]
//
// starts no audit plugin, and does what it is told (serve.go).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

const usage = "usage: runtime scenarios|launched|crowd|load|harm DIR [OPTION...] -- COMMAND [ARGUMENT...] | serve DIR [-socket PATH]"

// Long enough for any step on a busy machine; none takes a second on an idle one.
const patience = 30 * time.Second

var ctx = context.Background()

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 1 && arguments[0] == "serve" {
		arguments = append(slices.Clone(arguments), "--", "none")
	}
	split := slices.Index(arguments, "--")
	if split < 2 || split == len(arguments)-1 {
		return fmt.Errorf("%s", usage)
	}
	command := arguments[split+1:]
	options := flag.NewFlagSet("runtime", flag.ContinueOnError)
	containers := options.Int("containers", 1000, "for load: how many to create")
	adjustments := options.Int("adjustments", 50, "for load: how many for each")
	rate := options.Int("rate", 0, "for load: how many a second; 0 for as many as can be")
	audit := options.Int("audit", 0, "for resume: the audit plugin's process")
	socket := options.String("socket", "", "where plugins connect, if not DIR/nri.sock")
	if err := options.Parse(arguments[2:split]); err != nil {
		return err
	}
	m, err := newMachine(arguments[1], *socket, command)
	if err != nil {
		return err
	}
	defer m.close()
	switch arguments[0] {
	case "scenarios":
		return m.scenarios()
	case "resume":
		return m.resume(*audit)
	case "crowd":
		return m.crowd()
	case "launched":
		return m.launched()
	case "load":
		return m.load(*containers, *adjustments, *rate)
	case "harm":
		return m.harm()
	case "serve":
		return m.serve()
	}
	return fmt.Errorf("%s", usage)
}

func say(what any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
