// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// A connection's birth, life and end, and what is counted at each. Keyed by socket: whatever way a connection
// takes, its socket goes through here once. Who removes the entry counts its end, so that nothing is counted
// twice.

static __always_inline struct series *find_or_add_series(struct series_key *key) {
	struct series *found = series.lookup(key);
	u32 zero = 0;

	if (found)
		return found;
	struct series *empty = empty_series.lookup(&zero);
	if (empty)
		series.insert(key, empty);
	return series.lookup(key); // ours, or that of a CPU that was faster
}

// Whether a label set is being folded: from then on nothing is born for it.
static __always_inline bool is_leaving(struct series_key *key) {
	u32 zero = 0;
	void *names = leaving_now.lookup(&zero);

	return names && bpf_map_lookup_elem(names, key);
}

static __always_inline void become_other(struct series_key *key) {
	__builtin_memset(key, 0, sizeof(*key));
	key->kind = OTHER_SERIES;
}

// The counters of a label set; where there is no room for one more, the key becomes _other's.
static __always_inline struct series *series_of(struct series_key *key) {
	struct series *found;

	if (is_leaving(key))
		become_other(key);
	found = find_or_add_series(key);
	if (found)
		return found;
	become_other(key);
	count(COUNTER_OVERFLOW, 1);
	found = find_or_add_series(key);
	if (!found)
		count(COUNTER_LOST_SERIES, 1);
	return found;
}

static __always_inline void fill_key(struct series_key *key, const struct settings *now,
                                     const struct actor *owner, u32 netns, u16 port) {
	if (now->labels & LABEL_COMM)
		__builtin_memcpy(key->comm, shown_comm(now, owner), COMM_LEN);
	if (now->labels & LABEL_NETNS)
		key->netns = netns;
	if (now->labels & LABEL_PORT)
		key->port = port;
}

// The counters of a connection born before: its label set stays for as long as it lives.
static __always_inline struct series *known_series(struct series_key *key) {
	struct series *found = series.lookup(key);

	if (!found)
		count(COUNTER_LOST_SERIES, 1);
	return found;
}

// Makes the current thread the owner of a connection; false where it is not to be followed.
static __always_inline bool claim(struct connection *conn, struct choice *choice, const struct flow *flow,
                                  u16 service_port) {
	read_actor(&conn->owner);
	conn->unwanted = !wanted(choice, flow, &conn->owner, service_port);
	if (conn->unwanted && !follows_all(choice->now))
		return false;
	fill_key(&conn->key, choice->now, &conn->owner, flow->netns, service_port);
	return true;
}

// One like no other since the machine was started, for a connection that is born now.
static __always_inline u64 new_id(u64 now) { return now << 8 | (bpf_get_smp_processor_id() & 0xff); }

static __always_inline bool track(struct sock *sk, struct connection *new) {
	if (connections.insert(&sk, new))
		return false;
	count(COUNTER_TRACKED, 1);
	return true;
}

// Returns whether it was ours to remove: of several that try, one is told so. Kernels from 5.11 to 6.6 may
// refuse to delete in an interrupt of a change of the same table (EBUSY; their commit d35381aa73f7): then the
// entry stays, as one that has ended, until its socket is destroyed or used anew.
static __always_inline bool untrack(struct sock *sk, struct connection *conn) {
	int refused = connections.delete(&sk);

	if (refused == -EBUSY && conn->phase != PHASE_ENDED) {
		conn->phase = PHASE_ENDED;
		return true;
	}
	if (!refused)
		count(COUNTER_TRACKED, -1);
	return !refused;
}

static __always_inline u32 reason_of(int error) {
	switch (error) {
	case ECONNREFUSED:
		return REASON_REFUSED;
	case ETIMEDOUT:
		return REASON_TIMEOUT;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
		return REASON_UNREACHABLE;
	case ECONNRESET:
		return REASON_RESET;
	case EADDRNOTAVAIL:
		return REASON_NO_PORT;
	case EPERM:
	case EACCES:
		return REASON_DENIED;
	}
	return REASON_OTHER;
}

static __always_inline u64 less(u64 n, u64 by) { return n > by ? n - by : 0; }

static __always_inline void read_volume(struct volume *volume, struct tcp_sock *tp,
                                        const struct connection *conn) {
	u64 acked, received;
	unsigned long flags;

	READ(&acked, &tp->bytes_acked);
	READ(&received, &tp->bytes_received);
	READ(&volume->retransmitted_segments, &tp->total_retrans);
	READ(&flags, &((struct sock *)tp)->__sk_common.skc_flags);
	// The kernel counts sequence numbers: a client's SYN and a FIN take one each. SOCK_DONE: FIN
	// received.
	volume->sent_bytes = less(acked, (conn->role == ROLE_CLIENT) + conn->fin_acked);
	volume->received_bytes = less(received, (flags >> SOCK_DONE) & 1);
}

static __always_inline void count_close(struct series *to, u32 role, u64 ns, const struct volume *volume) {
	struct closes *closes = role == ROLE_CLIENT ? &to->client_closes : &to->server_closes;

	add(&closes->duration_ns, ns);
	add(&closes->duration[connection_duration_slot(ns)], 1);
	add(&closes->sent_bytes, volume->sent_bytes);
	add(&closes->received_bytes, volume->received_bytes);
	if (volume->retransmitted_segments)
		add(&closes->retransmitted_segments, volume->retransmitted_segments);
}

// The end of a connection: failed for a reason while connecting, or, with NOT_FAILED, closed.
static __always_inline void end(struct sock *sk, struct connection *conn, u32 reason, u64 closed_ns) {
	struct connection was = *conn;
	struct volume volume = {};
	struct series *to;
	u64 ns = 0;

	if (!untrack(sk, conn))
		return;
	to = known_series(&was.key);
	if (reason < REASONS) {
		if (to)
			add(&to->failures[reason], 1);
	} else {
		ns = was.since_ns ? less(closed_ns, was.since_ns) : 0;
		read_volume(&volume, (struct tcp_sock *)sk, &was);
		if (to)
			count_close(to, was.role, ns, &volume);
	}
	tell_end(sk, &was, reason, ns, &volume);
}

static __always_inline bool is_open(struct connection *conn) {
	return conn->phase == PHASE_OPEN || (conn->phase == PHASE_QUEUED && conn->accepted);
}

static __always_inline bool waits(struct connection *conn) {
	return conn->phase == PHASE_QUEUED && !*(volatile u32 *)&conn->accepted;
}

enum birth { BORN, KNOWN, NO_ROOM };

// Enters a new connection. One that has just been entered for the same event is KNOWN (see state.bpf.c);
// anything else under this socket is of an earlier life, whose end was missed.
static __always_inline enum birth enter(struct sock *sk, struct connection *new) {
	struct connection *old;

	if (track(sk, new))
		return BORN;
	old = connections.lookup(&sk);
	if (!old)
		return NO_ROOM;
	if (old->phase == new->phase && (old->phase == PHASE_CONNECTING ? old->owner.tid == new->owner.tid
	                                                                : !(old->since_ns || old->closed_ns)))
		return KNOWN;
	if (!waits(old) && !old->closed && old->phase != PHASE_ENDED)
		count(COUNTER_LOST_STATE, 1);
	connections.update(&sk, new);
	return BORN;
}

static __always_inline bool has_program(struct sock *sk) {
	struct socket *socket;

	READ(&socket, &sk->sk_socket);
	return socket;
}

static __always_inline bool is_tcp(struct sock *sk) {
	u16 protocol;

	READ(&protocol, &sk->sk_protocol);
	return protocol == IPPROTO_TCP;
}
