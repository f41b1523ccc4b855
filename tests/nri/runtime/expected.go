package main

// expected is what the audit log must say of one adjustment: one record of kind
// adjustment (update, for a container that exists), and one of kind outcome that
// repeats it.
type expected struct {
	Kind        string   `json:"kind"`
	Field       string   `json:"field"`
	Action      string   `json:"action"`
	Name        string   `json:"name,omitempty"`
	Value       any      `json:"value,omitempty"`
	Contains    string   `json:"contains,omitempty"`
	Redacted    bool     `json:"redacted,omitempty"`
	Plugins     []string `json:"plugins,omitempty"`
	Attribution string   `json:"attribution,omitempty"`
	Target      string   `json:"target,omitempty"`
	Outcome     string   `json:"outcome"`
}

const (
	alpha = "10-alpha"
	beta  = "20-beta"
)

// one expects an adjustment of a field that a container has one of.
func one(field, action string) expected {
	return expected{Kind: "adjustment", Field: field, Action: action}
}

// of expects an adjustment of one of many.
func of(field, name, action string) expected {
	return expected{Kind: "adjustment", Field: field, Action: action, Name: name}
}

func (e expected) value(value any) expected {
	e.Value = value
	return e
}

// contains asks for a text anywhere in the record.
func (e expected) contains(text string) expected {
	e.Contains = text
	return e
}

func (e expected) redacted() expected {
	e.Redacted = true
	return e
}

func (e expected) by(plugin string) expected {
	e.Plugins, e.Attribution = []string{plugin}, "owner"
	return e
}

func (e expected) byOneOf(plugins ...string) expected {
	e.Plugins, e.Attribution = plugins, "ambiguous"
	return e
}

func (e expected) byPerhaps(plugin string) expected {
	e.Plugins, e.Attribution = []string{plugin}, "inferred"
	return e
}

func (e expected) byNobodyKnown() expected {
	e.Attribution = "unknown"
	return e
}

// updates says that the change is to a container that exists, another one if
// there is a target.
func (e expected) updates(target string) expected {
	e.Kind, e.Target = "update", target
	return e
}

func (e expected) ends(outcome string) expected {
	e.Outcome = outcome
	return e
}

// record is what a record that is no adjustment must say.
type record struct {
	Kind     string `json:"kind"`
	Contains string `json:"contains,omitempty"`
	Times    int    `json:"times,omitempty"` // at least once where it is 0
}

// expectation is all that the log must say of one container (and about nothing
// else when Container is empty).
type expectation struct {
	Scenario    string     `json:"scenario"`
	Container   string     `json:"container,omitempty"`
	Adjustments []expected `json:"adjustments"`
	Records     []record   `json:"records"`
	Error       string     `json:"error,omitempty"` // the runtime's, for people
}
