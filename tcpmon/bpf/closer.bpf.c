// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Who closes a connection: told once for each that was established, also for one that is older than tracing.
//
// close() sends a FIN, or resets, in the context of who calls it. Where no FIN is left to send, because the
// program has shut the connection down before or its peer has reset it, what close() does is destroy the
// socket. Only a close() between a shutdown() and the peer's acknowledgement changes nothing that could be
// seen: it is told when the acknowledgement comes, as of who shut the connection down. What a kernel thread
// does, as MPTCP's worker, it does for the owner.

#if TELLS_CLOSERS
// Of sockets that are closed but have their programs yet: a close() without lingering wipes the addresses out
// before it destroys the socket.
BPF_HASH(last_flows, struct sock *, struct flow, 65536);

static __always_inline void keep_flow(struct sock *sk) {
	struct flow flow;

	read_flow(&flow, sk);
	last_flows.update(&sk, &flow); // where there is no room, what the socket says then has to do
}

static __always_inline bool wants_closer(const struct connection *conn, const struct flow *flow,
                                         const struct actor *closer) {
	struct choice choice;

	return choose(&choice) && wanted(&choice, flow, closer,
	                                 conn->role == ROLE_CLIENT ? flow->remote_port : flow->local_port);
}

static __always_inline void read_closer(struct actor *closer, const struct connection *conn) {
	if (conn->owner.pid && in_kernel_thread())
		*closer = conn->owner;
	else
		read_actor(closer);
}

// The socket's file has no reference left, which tells close() from shutdown(). One without a file is the
// kernel's.
static __always_inline bool has_no_file(struct sock *sk) {
	struct socket *socket;
	struct file *file = 0;
	s64 references = 0;

	READ(&socket, &sk->sk_socket);
	if (socket)
		READ(&file, &socket->file);
	if (!file)
		return true;
#ifdef HAVE_F_REF
	READ(&references, (s64 *)&file->f_ref);
	return references < 0;
#else
	READ(&references, (s64 *)&file->f_count);
	return !references;
#endif
}

// The current thread closes.
static __always_inline void tell_closer(struct sock *sk, struct connection *conn) {
	struct event *event;
	struct flow *kept;

	if (conn->closer_told || !is_open(conn))
		return;
	conn->closer_told = 1;
	event = new_event(EVENT_CLOSING, conn);
	if (!event)
		return;
	kept = last_flows.lookup(&sk);
	if (kept) {
		event->flow = *kept;
		last_flows.delete(&sk);
	} else {
		read_flow_of(&event->flow, sk, conn);
	}
	read_closer(&event->actor, conn);
	if (wants_closer(conn, &event->flow, &event->actor))
		submit(event);
	else
		discard(event);
}

// A program that has its socket yet will close it. Returns whether that is to be waited for.
static __always_inline bool waits_for_closer(struct sock *sk, struct connection *conn, u64 closed_ns) {
	int owned = 0;

	if (conn->closer_told)
		return false;
	if (has_program(sk)) {
		keep_flow(sk);
		conn->closed_ns = closed_ns;
		conn->closed = 1;
		return true;
	}
	READ(&owned, &sk->sk_lock.owned);
	if (owned) {
		tell_closer(sk, conn);
	} else {
		conn->closer_told = 1;
		tell(EVENT_CLOSING, sk, conn);
	}
	return false;
}

// A FIN goes out in the current thread, by close() or shutdown().
static __always_inline void on_fin_sent(struct sock *sk, struct connection *conn) {
	struct flow flow;
	u8 shutdown = 0;

	if (!is_open(conn))
		return;
	READ(&shutdown, &sk->sk_shutdown);
	if (shutdown == SHUTDOWN_MASK && has_no_file(sk)) {
		tell_closer(sk, conn);
	} else {
		read_flow(&flow, sk);
		read_closer(&conn->owner, conn);
		conn->unwanted = !wants_closer(conn, &flow, &conn->owner);
	}
}

// connect(): on a socket that connect(AF_UNSPEC) has taken from an earlier connection, that was its close.
static __always_inline void connects_anew(struct sock *sk) {
	struct connection *conn = connections.lookup(&sk);

	if (conn && conn->closed)
		tell_closer(sk, conn);
}

static __always_inline struct connection *follow_unknown(struct sock *sk) {
	struct connection new = {.role = ROLE_CLIENT, .phase = PHASE_OPEN, .key.kind = OTHER_SERIES};
	struct choice choice;

	if (!choose(&choice) || !is_tcp(sk) || !has_program(sk))
		return 0;
	new.since_ns = bpf_ktime_get_ns();
	new.id = new_id(new.since_ns);
	if (!track(sk, &new))
		count(COUNTER_LOST_CONNECTION, 1);
	return connections.lookup(&sk);
}

static __always_inline bool keep_for_closer(struct connection *conn) { return !conn->closer_told; }
#else
static __always_inline void connects_anew(struct sock *sk) {}
static __always_inline void tell_closer(struct sock *sk, struct connection *conn) {}
static __always_inline bool waits_for_closer(struct sock *sk, struct connection *conn, u64 closed_ns) {
	return false;
}
static __always_inline void on_fin_sent(struct sock *sk, struct connection *conn) {}
static __always_inline struct connection *follow_unknown(struct sock *sk) { return 0; }
static __always_inline bool keep_for_closer(struct connection *conn) { return false; }
#endif
