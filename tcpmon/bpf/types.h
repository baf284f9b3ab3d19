// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Keys, values and limits that the kernel side and user space share. Written once, here: the loader reads the
// layout of these structs back from the compiled module and hands it to the daemon (kernel/load.py).

#define COMM_LEN 16

enum role { ROLE_CLIENT, ROLE_SERVER, ROLES };

enum reason {
	REASON_REFUSED,
	REASON_TIMEOUT,
	REASON_UNREACHABLE,
	REASON_RESET,
	REASON_CANCELED,
	REASON_NO_PORT,
	REASON_DENIED,
	REASON_OTHER,
	REASONS,
	NOT_FAILED = REASONS,
	NOT_KNOWN_YET
};

// What a label set is made of. OTHER_SERIES is the one that takes in what finds no room.
enum series_kind { NAMED_SERIES, OTHER_SERIES };

struct series_key {
	char comm[COMM_LEN];
	u32 netns;
	u16 port;
	u16 kind;
};

// What is counted when a connection closes.
struct closes {
	u64 duration_ns;
	u64 sent_bytes;
	u64 received_bytes;
	u64 retransmitted_segments;
	u64 duration[CONNECTION_DURATION_SLOTS];
};

// All that is counted for one label set: 64-bit words only. A histogram's slots are not cumulative; the last
// one is +Inf, and their sum is the counter of the same event (connects, closes). What is counted at the same
// time stands together: a line of cache is what CPUs take from each other.
struct series {
	u64 attempts;
	u64 connect_latency_ns;
	u64 connect_latency[CONNECT_LATENCY_SLOTS];
	u64 failures[REASONS];
	struct closes client_closes;
	struct closes server_closes;
	u64 accepts;
	u64 accept_wait_ns;
	u64 accept_wait[ACCEPT_WAIT_SLOTS];
};

// How the folding of idle label sets stands: user space's own (metrics/folding.py), and here so that the next
// daemon goes on from it.
struct fold {
	struct series_key target; // whose entry in `folded` is to become `sum`
	u64 deleting;             // what `leaving` names is in the sum already
	u64 label_sets;           // that went into _other since counting began
	struct series sum;
};

enum phase {
	PHASE_CONNECTING, // SYN sent, no verdict yet
	PHASE_FAILING,    // failed inside connect(), whose return will say why
	PHASE_QUEUED,     // a listener's child: in nobody's count until `accepted`
	PHASE_OPEN,       // established, and counted for its owner
	PHASE_ENDED,      // and counted, but the kernel would not delete the entry
};

// Between whom.
struct flow {
	u8 local[16], remote[16]; // network order, IPv4 as IPv4-mapped
	u32 netns;
	u16 local_port;
	u16 remote_port;
	u32 ipv4; // also for IPv4-mapped IPv6
};

// Who acts: a thread, and its process by the number and name of the thread group's leader.
struct actor {
	char comm[COMM_LEN];
	char thread_comm[COMM_LEN];
	u32 pid;
	u32 tid;
	u32 uid;
	u32 pad;
};

// A connection's life, keyed by its struct sock.
struct connection {
	struct series_key key; // the owner's, decided at birth; all its counts go there
	struct actor owner;    // who connected or accepted; where closers are told, later who shut it down
	u64 id;                // joins its events
	u64 since_ns;          // connect() while connecting, establishment after
	u64 closed_ns;         // when it was closed before accept() handed it over
	u32 accepted; // of a queued one; these two are only added to: accept and close may race on two CPUs
	u32 closed;
	u16 port; // local port while queued, since a reset takes it from the socket
	u8 role;
	u8 phase;
	u8 fin_acked; // our FIN was acknowledged: one of bytes_acked is no payload
	u8 taken;     // a program had it before we saw an accept
	u8 unwanted;  // by the filters: only where closers are told, which follows all connections
	u8 closer_told;
};

enum event_kind {
	EVENT_ATTEMPT, // a SYN was sent
	EVENT_CONNECT, // established by connect()
	EVENT_CONNECT_FAILED,
	EVENT_ACCEPT,
	EVENT_CLOSING, // a program closed an established connection; the actor is who did
	EVENT_CLOSE,   // the connection's end
};

// A record of the ring buffer `events`.
struct event {
	u64 ns; // CLOCK_MONOTONIC
	u64 connection;
	u64 duration_ns, sent_bytes, received_bytes; // EVENT_CLOSE
	struct flow flow;
	struct actor actor;
	u32 retransmits;
	u8 kind;
	u8 reason; // EVENT_CONNECT_FAILED: enum reason
	u8 role;
	u8 pad;
};

// A connect() under way in a thread, for what its return tells.
struct connect_call {
	u64 sk;
	u64 address; // struct sockaddr *
	u32 address_len;
	u8 user; // address is in user memory
	u8 syn_sent;
	u8 pad[2];
};

// Per-CPU counters about tcpmon itself.
enum counter {
	COUNTER_TRACKED,         // connections in the table
	COUNTER_OVERFLOW,        // connections counted under _other for want of room
	COUNTER_LOST_CONNECTION, // not followed: table of connections full
	COUNTER_LOST_CONNECT,    // connect() not followed: table of calls full
	COUNTER_LOST_STATE,      // a change of state that a later one shows to have been missed
	COUNTER_LOST_SERIES,     // not even _other could be found
	COUNTER_LOST_READ,       // kernel memory that could not be read
	COUNTER_LOST_EVENT,      // no room in the ring buffer
	COUNTER_CUT_EVENT,       // beyond the rate limit
	COUNTERS
};

// Switched as a whole: user space writes the idle slot, then points `active` at it.
enum { OFF, SLOT_A, SLOT_B };

enum label { LABEL_COMM = 1, LABEL_NETNS = 2, LABEL_PORT = 4 };

struct settings {
	u32 filters; // bit 2 * dimension + exclude: that list is not empty; FILTER_FAMILY_*
	u32 labels;
	u32 thread_comm;
	u32 events;     // bit 1 << enum event_kind: put into the ring
	u32 rate_limit; // events a second that are put there; 0: all
};

// The second of CLOCK_MONOTONIC that is running, and the events put into the ring in it.
struct rate {
	u64 second;
	u64 events;
};

enum dimension { DIM_PID, DIM_PORT, DIM_NETNS, DIM_COMM, DIM_UID, DIM_REMOTE, DIMENSIONS };

#define FILTER_LIST(dim, exclude) (1u << (2 * (dim) + (exclude)))
#define FILTER_IPV4_ONLY (1u << 30)
#define FILTER_IPV6_ONLY (1u << 31)

// A value of a pid, netns, comm or uid list.
struct filter_key {
	u32 list; // slot << 8 | 2 * dimension + exclude
	union {
		u32 number;
		char comm[COMM_LEN];
	};
};

// A network of a remote list, IPv4 as IPv4-mapped.
struct filter_network {
	u32 prefix_len; // counts the list byte
	u8 list;        // slot << 1 | exclude
	u8 address[16];
};
