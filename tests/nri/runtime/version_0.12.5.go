//go:build !nri0110 && !nri0120

package main

// As containerd 2.4.
const (
	runtimeVersion = "v2.4.2"

	// The removal of a sysctl is one.
	sysctlRemoval = "applied"

	// A dead validator is passed over.
	failsAfterIdleDeath = 0
)
