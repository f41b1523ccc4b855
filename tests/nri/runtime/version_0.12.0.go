//go:build nri0120

package main

// As containerd 2.3.
const (
	runtimeVersion = "v2.3.4"

	// The removal of a sysctl is taken for that of an annotation.
	sysctlRemoval = "not_applied"

	// A dead validator is noticed only when it does not answer.
	failsAfterIdleDeath = 1
)
