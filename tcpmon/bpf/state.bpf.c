// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The socket's states, which carry most of all three tracers.

// SYN_SENT or SYN_RECV -> ESTABLISHED; where that was missed, a later state shows it.
static __always_inline void on_established(struct sock *sk, struct connection *conn, int old_state,
                                           int new_state) {
	if (!conn)
		return;
	if (conn->phase == PHASE_CONNECTING && (new_state == TCP_ESTABLISHED || was_established(old_state))) {
		if (new_state != TCP_ESTABLISHED)
			count(COUNTER_LOST_STATE, 1);
		on_connected(sk, conn);
	} else if (conn->phase == PHASE_QUEUED && new_state == TCP_ESTABLISHED) {
		on_child_established(sk, conn);
	}
}

#define HANDLED_STATES                                                                       \
	(1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV | 1 << TCP_ESTABLISHED | 1 << TCP_FIN_WAIT1 | \
	 1 << TCP_LAST_ACK | 1 << TCP_CLOSE)

static __always_inline void dispatch(struct bpf_raw_tracepoint_args *ctx) {
	struct sock *sk = (struct sock *)ctx->args[0];
	int old_state = ctx->args[1], new_state = ctx->args[2];
	struct connection *conn;

	switch (new_state) {
	case TCP_SYN_SENT:
		return on_syn_sent(sk);
	case TCP_SYN_RECV: // from SYN_SENT by a simultaneous open, which changes nothing
		if (old_state == TCP_LISTEN)
			on_child(sk);
		return;
	}
	conn = connections.lookup(&sk);
	on_established(sk, conn, old_state, new_state);
	if (new_state != TCP_ESTABLISHED)
		on_ending(sk, conn, old_state, new_state);
}

// The event that a program of this CPU dealt with last.
struct handled {
	u64 sk;
	u64 new_state; // 0: none, or one is at it
};

BPF_PERCPU_ARRAY(last_handled, struct handled, 1);

// Since 6.1 (commit 05b24ff9b2cf) the kernel skips a raw tracepoint's program that is already at work on the
// CPU: what the softirq of a packet does that interrupts it would go uncounted. So this program is loaded
// twice and both are attached, one behind the other: the first that the kernel lets run for an event takes
// it, and the one behind finds that in last_handled. Where another event came between, the step is taken
// again, which changes nothing: each looks first whether it was taken already. (One program that calls the
// other by a tail call would do the same, and crashes the kernel: from 6.13 on a program's stack is a CPU's,
// guarded by that very check.)
int state_changed(struct bpf_raw_tracepoint_args *ctx) {
	u32 zero = 0;
	struct handled *last;

	if (!(HANDLED_STATES >> ctx->args[2] & 1))
		return 0;
	last = last_handled.lookup(&zero);
	if (!last)
		return 0;
	if (last->sk == ctx->args[0] && last->new_state == ctx->args[2]) {
		last->new_state = 0; // not to be taken for the same step of the next socket in this memory
		return 0;
	}
	last->new_state = 0;
	barrier();
	dispatch(ctx);
	last->sk = ctx->args[0];
	barrier();
	last->new_state = ctx->args[2];
	return 0;
}

int socket_destroyed(struct bpf_raw_tracepoint_args *ctx) {
	on_destroyed((struct sock *)ctx->args[0]);
	return 0;
}

#if TELLS_ATTEMPTS
int segment_retransmitted(struct bpf_raw_tracepoint_args *ctx) {
	announce((struct sock *)ctx->args[0]);
	return 0;
}
#endif
