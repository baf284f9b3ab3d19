// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The tables. What programs write is allocated up front: an insert then fails only where the table is full,
// and tracing programs may not allocate on kernels before 6.1.

BPF_HASH(series, struct series_key, struct series, MAX_SERIES + 1);
BPF_ARRAY(empty_series, struct series, 1);
BPF_HASH(leaving, struct series_key, u8, LEAVING); // label sets that are being folded
BPF_ARRAY_OF_MAPS(leaving_now, "leaving", 2);      // [0]: `leaving` while in force; [1]: kernel/quiescence.py
BPF_F_TABLE("hash", struct series_key, struct series, folded, MAX_SERIES + 1, BPF_F_NO_PREALLOC);
BPF_ARRAY(fold, struct fold, 1);
BPF_HASH(connections, struct sock *, struct connection, MAX_TRACKED);
BPF_HASH(connect_calls, u32, struct connect_call, 32768);

#if EVENTS // enum event_kind as bits: what can be put into the ring at all
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_ARRAY(rate, struct rate, 1);
BPF_ARRAY(journal_tally, u64, 2);         // user space's own (events/tally.py)
BPF_ARRAY(event_layout, struct event, 1); // never written: bcc tells the layout of arrays only
#endif
// By fprobe, fexit's programs run behind: each is skipped now and then, hardly ever both (kernel/probes.py)
#define USES_FEXIT(mechanism) ((mechanism) == MECHANISM_FEXIT || (mechanism) == MECHANISM_FPROBE)
#define USES_KPROBE(mechanism) ((mechanism) == MECHANISM_KPROBE || (mechanism) == MECHANISM_FPROBE)
#define CAN_TELL(kind) (!!(EVENTS & 1 << (kind)))
// For the preprocessor, which knows no enums
#define TELLS_ATTEMPTS (!!(EVENTS & 1 << 0))
#define TELLS_CLOSERS (!!(EVENTS & 1 << 4))
_Static_assert(TELLS_ATTEMPTS == CAN_TELL(EVENT_ATTEMPT), "enum event_kind");
_Static_assert(TELLS_CLOSERS == CAN_TELL(EVENT_CLOSING), "enum event_kind");

BPF_PERCPU_ARRAY(counters, u64, COUNTERS);

BPF_ARRAY(active, u32, 1);
BPF_ARRAY(settings, struct settings, 3);
BPF_HASH(filter_values, struct filter_key, u8, FILTER_VALUES);
BPF_ARRAY(filter_ports, u64, 3 * 2 * 1024); // [slot][exclude], a bit a port
BPF_LPM_TRIE(filter_remotes, struct filter_network, u8, FILTER_NETWORKS);

#ifdef CGROUP_MAP
BPF_TABLE_PINNED("hash", u64, u64, cgroup_map, 1024, CGROUP_MAP);
#endif
#ifdef MNTNS_MAP
BPF_TABLE_PINNED("hash", u64, u64, mntns_map, 1024, MNTNS_MAP);
#endif

static __always_inline void add(u64 *counter, u64 n) {
	// Where the compiler knows n to be 0 it makes an atomic OR of it, which kernels have since 5.12 only
	asm volatile("" : "+r"(n));
	__sync_fetch_and_add(counter, n);
}

static __always_inline void add_u32(u32 *flag, u32 n) { __sync_fetch_and_add(flag, n); }

static __always_inline void count(u32 which, s64 n) {
	u64 *counter = counters.lookup(&which);
	if (counter)
		add(counter, n);
}

#define barrier() asm volatile("" ::: "memory")

// Reads what may well not be there (a descriptor that is no socket): zeroes then.
#define PEEK(dst, src) bpf_probe_read_kernel(dst, sizeof(*(dst)), (const void *)(src))

// Reads what must be there.
#define READ(dst, src)                               \
	do {                                         \
		if (PEEK(dst, src))                  \
			count(COUNTER_LOST_READ, 1); \
	} while (0)
