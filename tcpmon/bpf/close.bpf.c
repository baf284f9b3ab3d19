// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The close tracer: the end of every connection, by whatever way, counted for the owner that it was born to.

static __always_inline bool fin_acked(struct sock *sk, int old_state) {
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	u32 snd_una, write_seq;

	if (old_state == TCP_FIN_WAIT2)
		return true;
	if (old_state != TCP_FIN_WAIT1 && old_state != TCP_CLOSING && old_state != TCP_LAST_ACK)
		return false;
	READ(&snd_una, &tp->snd_una);
	READ(&write_seq, &tp->write_seq);
	return snd_una == write_seq;
}

static __always_inline bool was_established(int old_state) {
	return old_state == TCP_ESTABLISHED || old_state == TCP_FIN_WAIT2 || old_state == TCP_CLOSE_WAIT ||
	       old_state == TCP_LAST_ACK;
}

// A program closes, or shuts down, a connection that to us still waits to be accepted: the accept was not
// seen (io_uring; an accept() that waited already when an fexit or kretprobe was attached).
static __always_inline bool closed_by_program(struct sock *sk, int new_state) {
	u8 shutdown = 0;

	if (!has_program(sk))
		return false;
	if (new_state != TCP_CLOSE)
		return true;
	READ(&shutdown, &sk->sk_shutdown); // close() with data unread sets it first; a peer's reset does not
	return shutdown == SHUTDOWN_MASK;
}

// Any state -> CLOSE. One that waits to be accepted keeps its entry, for accept() or the socket's
// destruction.
static __always_inline void on_closed(struct sock *sk, struct connection *conn, int old_state) {
	u32 reason = NOT_FAILED;
	u64 now = bpf_ktime_get_ns();

	if (conn->closed || conn->phase == PHASE_FAILING || conn->phase == PHASE_ENDED)
		return; // done already
	conn->fin_acked = fin_acked(sk, old_state);
	if (conn->phase == PHASE_QUEUED && !conn->accepted) {
		conn->taken = has_program(sk);
		conn->closed_ns = now;
		// On x86 a full barrier: either we see `accepted`, or accept() sees closed_ns
		add_u32(&conn->closed, 1);
		if (waits(conn))
			return;
	} else if (!is_open(conn)) {
		reason = failure(sk, conn, old_state);
		on_failed(sk, reason);
	}
	if (reason == NOT_KNOWN_YET)
		conn->phase = PHASE_FAILING;
	else if (reason != NOT_FAILED || !waits_for_closer(sk, conn, now))
		end(sk, conn, reason, now);
}

// -> FIN_WAIT1 or LAST_ACK (in the process), or CLOSE.
static __always_inline void on_ending(struct sock *sk, struct connection *conn, int old_state,
                                      int new_state) {
	if (!conn && was_established(old_state))
		conn = follow_unknown(sk);
	if (!conn)
		return;
	if (waits(conn) && closed_by_program(sk, new_state)) {
		take(sk, conn, false);
		conn = connections.lookup(&sk);
	}
	if (!conn)
		return;
	if (new_state == TCP_CLOSE)
		on_closed(sk, conn, old_state);
	else
		on_fin_sent(sk, conn);
}

// The socket's memory is given back: nothing of it may stay. Left are connections that were closed in the
// accept queue, and those whose program closed them after a reset without our having seen the accept.
static __always_inline void on_destroyed(struct sock *sk) {
	struct connection *conn = connections.lookup(&sk);

	if (!conn)
		return;
	if (conn->phase == PHASE_ENDED || (waits(conn) && !conn->taken)) {
		untrack(sk, conn);
		return;
	}
	if (waits(conn)) {
		take(sk, conn, false);
		conn = connections.lookup(&sk);
		if (!conn)
			return;
	} else if (!conn->closed) {
		count(COUNTER_LOST_STATE, 1);
	}
	forget_attempt(sk);
	tell_closer(sk, conn);
	end(sk, conn, is_open(conn) ? NOT_FAILED : REASON_OTHER, conn->closed_ns ?: bpf_ktime_get_ns());
}
