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

static __always_inline void dispatch(struct sock *sk, int old_state, int new_state) {
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

// The event that a program of this CPU dealt with last (0: none), and how many behind it have seen that.
BPF_PERCPU_ARRAY(last_handled, u64, 1);
#define SEEN_MASK 15
#define PROGRAMS (STATE_MECHANISM == MECHANISM_FPROBE ? 3 : 2)

// All of a pointer into the kernel but its highest byte, which is all ones, and the state.
static __always_inline u64 event_of(u64 sk, u64 new_state) { return sk << 8 | new_state << 4; }

static __always_inline bool is_handled_state(u64 state) { return HANDLED_STATES >> (state & 15) & 1; }

// Since 6.1 (commit 05b24ff9b2cf) the kernel skips a raw tracepoint's program that is already at work on the
// CPU: what the softirq of a packet does that interrupts it would go uncounted. So this program is loaded
// twice and both are attached, one behind the other: the first that the kernel lets run for an event takes
// it, and the one behind finds that in last_handled. Where another event came between, the step is taken
// again, which changes nothing: each looks first whether it was taken already. (One program that calls the
// other by a tail call would do the same, and crashes the kernel: from 6.13 on a program's stack is a CPU's,
// guarded by that very check.)
int state_changed(struct bpf_raw_tracepoint_args *ctx) {
	u32 zero = 0;
	u64 event = event_of(ctx->args[0], ctx->args[2]);
	u64 *last;

	if (!is_handled_state(ctx->args[2]))
		return 0;
	last = last_handled.lookup(&zero);
	if (!last)
		return 0;
	if ((*last & ~SEEN_MASK) == event) {
		// Not to be taken for the same step of the next socket in this memory
		*last = (*last & SEEN_MASK) == PROGRAMS - 2 ? 0 : *last + 1;
		return 0;
	}
	dispatch((struct sock *)ctx->args[0], ctx->args[1], ctx->args[2]);
	*last = event;
	return 0;
}

int socket_destroyed(struct bpf_raw_tracepoint_args *ctx) {
	on_destroyed((struct sock *)ctx->args[0]);
	return 0;
}

#if STATE_MECHANISM == MECHANISM_FPROBE
// From 7.0 on processes are preempted inside a raw tracepoint's programs too, and those are skipped for all
// others of the CPU until they go on. Nobody is preempted inside an fprobe's. So the functions that have the
// tracepoints come first; their programs are skipped only where they themselves are interrupted.
int state_stored(struct pt_regs *ctx) {
	struct sock *sk = (struct sock *)PT_REGS_PARM1(ctx);
	int new_state = PT_REGS_PARM2(ctx);
	u32 zero = 0;
	u8 old_state;
	u64 *last;

	if (!is_handled_state(new_state))
		return 0;
	last = last_handled.lookup(&zero);
	if (!last)
		return 0;
	READ(&old_state, &sk->__sk_common.skc_state);
	dispatch(sk, old_state, new_state);
	*last = event_of((u64)sk, new_state);
	return 0;
}

int destroying_socket(struct pt_regs *ctx) {
	on_destroyed((struct sock *)PT_REGS_PARM1(ctx));
	return 0;
}
#endif

#if TELLS_ATTEMPTS
int segment_retransmitted(struct bpf_raw_tracepoint_args *ctx) {
	announce((struct sock *)ctx->args[0]);
	return 0;
}
#endif
