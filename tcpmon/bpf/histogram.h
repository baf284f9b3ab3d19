// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Which slot a duration falls in: bounds are inclusive (Prometheus' le), the slot behind the last one is
// +Inf. The *_BOUNDS(X) lists come from the configuration: X(slot, bound in ns) for each bound, ascending.

#define STEP(slot, bound_ns)     \
	if (ns <= bound_ns##ULL) \
		return slot;

static __always_inline u32 connect_latency_slot(u64 ns) {
	CONNECT_LATENCY_BOUNDS(STEP)
	return CONNECT_LATENCY_SLOTS - 1;
}

static __always_inline u32 accept_wait_slot(u64 ns) {
	ACCEPT_WAIT_BOUNDS(STEP)
	return ACCEPT_WAIT_SLOTS - 1;
}

static __always_inline u32 connection_duration_slot(u64 ns) {
	CONNECTION_DURATION_BOUNDS(STEP)
	return CONNECTION_DURATION_SLOTS - 1;
}
