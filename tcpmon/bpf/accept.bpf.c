// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The accept tracer: a passively established connection waits in the accept queue until a program takes it;
// its owner is the process that does.

// LISTEN -> SYN_RECV: the listener's child is made. From here on, and not only once it is established,
// accept() may take it, on another CPU.
static __always_inline void on_child(struct sock *sk) {
	struct connection new = {.role = ROLE_SERVER, .phase = PHASE_QUEUED};
	struct choice choice;

	if (choose(&choice) && is_tcp(sk))
		enter(sk, &new); // where there is no room now, accept() tries again, and counts a loss
}

static __always_inline void on_child_established(struct sock *sk, struct connection *conn) {
	if (conn->since_ns)
		return;
	READ(&conn->port, &sk->__sk_common.skc_num);
	conn->since_ns = bpf_ktime_get_ns();
}

static __always_inline void count_accept(struct series *to, u64 wait_ns, bool wait_known) {
	add(&to->accepts, 1);
	if (!wait_known)
		return;
	add(&to->accept_wait[accept_wait_slot(wait_ns)], 1);
	add(&to->accept_wait_ns, wait_ns);
}

// One that was established before tracing began: how long it waited is not known. False where there is no
// room for it.
static __always_inline bool take_unknown(struct sock *sk, struct connection *new, struct series *to) {
	u8 sk_state = 0;

	READ(&sk_state, &sk->__sk_common.skc_state);
	if (sk_state == TCP_CLOSE) // no state will follow
		new->closed_ns = new->since_ns;
	if (!track(sk, new)) {
		count(COUNTER_LOST_CONNECTION, 1);
		return false;
	}
	if (to)
		count_accept(to, 0, false);
	return true;
}

// A queued connection gets its owner. `accepted` is the last that is written: from then on a close on another
// CPU may give the entry away.
static __always_inline void take_queued(struct connection *conn, const struct connection *taken,
                                        struct series *to, bool wait_known) {
	u64 since = conn->since_ns;

	if (to) // taken before it is established (Fast Open): it did not wait
		count_accept(to, since ? less(taken->since_ns, since) : 0, wait_known);
	conn->key = taken->key;
	conn->owner = taken->owner;
	conn->id = taken->id;
	conn->unwanted = taken->unwanted;
	barrier();
	add_u32(&conn->accepted, 1);
}

// Makes the current process the owner of a connection that waits in the accept queue (`conn`), or that we do
// not know (none). One that is not wanted is forgotten.
static __always_inline void take(struct sock *sk, struct connection *conn, bool wait_known) {
	struct connection new = {.role = ROLE_SERVER, .phase = PHASE_OPEN};
	struct choice choice;
	struct series *to;
	struct flow flow;

	if (!choose(&choice))
		return;
	read_flow(&flow, sk);
	new.port = conn && conn->port ? conn->port : flow.local_port;
	if (!claim(&new, &choice, &flow, new.port)) {
		if (conn)
			untrack(sk, conn);
		return;
	}
	new.since_ns = bpf_ktime_get_ns();
	new.id = new_id(new.since_ns);
	to = series_of(&new.key);
	if (!conn && !take_unknown(sk, &new, to))
		return;
	tell_accept(choice.now, &new, &flow);
	if (conn) // the last step, for from here on it may be closed
		take_queued(conn, &new, to, wait_known);
}

#if ACCEPT_MECHANISM == MECHANISM_FPROBE
// By thread, the socket of an accept that left no entry behind: fexit's program and fprobe's both see it.
BPF_TABLE("lru_hash", u32, struct sock *, taken_and_gone, 4096);

static __always_inline void note_gone(struct sock *sk) {
	u32 tid = bpf_get_current_pid_tgid();

	if (!connections.lookup(&sk))
		taken_and_gone.update(&tid, &sk);
}

static __always_inline bool noted_gone(struct sock *sk) {
	u32 tid = bpf_get_current_pid_tgid();
	struct sock **gone = taken_and_gone.lookup(&tid);

	if (!gone || *gone != sk)
		return false;
	taken_and_gone.delete(&tid);
	return true;
}
#else
static __always_inline void note_gone(struct sock *sk) {}
static __always_inline bool noted_gone(struct sock *sk) { return false; }
#endif

static __always_inline int accepted(struct sock *sk) {
	struct connection *conn = connections.lookup(&sk);

	if (conn ? !waits(conn) : noted_gone(sk))
		return 0;
	take(sk, conn, true);
	if (!conn)
		conn = connections.lookup(&sk);
	// Reset while it waited. Where the entry is another's by now, end() finds none to remove.
	if (conn && is_open(conn) && *(volatile u64 *)&conn->closed_ns && !keep_for_closer(conn))
		end(sk, conn, NOT_FAILED, conn->closed_ns);
	note_gone(sk);
	return 0;
}

static __always_inline int inet_csk_accepted(struct sock *sk) { return sk && is_tcp(sk) ? accepted(sk) : 0; }

#if USES_FEXIT(ACCEPT_MECHANISM)
// What accept() returns stands behind its arguments, whose number changed in 6.10 (commit 92ef0fd55ac8).
int fexit_accept(u64 *ctx) { return inet_csk_accepted((struct sock *)ctx[INET_CSK_ACCEPT_ARGS]); }
#endif

#if USES_KPROBE(ACCEPT_MECHANISM)
int exit_accept(struct pt_regs *ctx) { return inet_csk_accepted((struct sock *)PT_REGS_RC(ctx)); }
#endif

#if ACCEPT_MECHANISM == MECHANISM_TRACEPOINT
int exit_accept(struct syscall_trace_exit *ctx) {
	struct sock *sk;
	u16 protocol = 0;

	if (ctx->ret < 0)
		return 0;
	PEEK(&sk, &socket_of_fd(ctx->ret)->sk);
	PEEK(&protocol, &sk->sk_protocol);
	if (protocol == IPPROTO_MPTCP)
		sk = first_subflow(sk);
	return sk && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP) ? accepted(sk) : 0;
}
#endif
