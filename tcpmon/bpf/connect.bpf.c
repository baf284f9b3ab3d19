// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The connect tracer: attempts, establishment and failure from the socket's states; what connect() returned,
// for the failures that no state tells (before the SYN, or for want of a port).

static __always_inline void note_syn_sent(struct sock *sk) {
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call *call = connect_calls.lookup(&tid);

	if (!call)
		return;
	call->sk = (u64)sk; // of MPTCP the subflow, where the call had the MPTCP socket
	call->syn_sent = 1;
}

// CLOSE -> SYN_SENT, in the connecting thread.
static __always_inline void on_syn_sent(struct sock *sk) {
	struct connection new = {.role = ROLE_CLIENT, .phase = PHASE_CONNECTING};
	enum birth birth;
	struct choice choice;
	struct series *to;
	struct flow flow;

	if (!choose(&choice) || !is_tcp(sk))
		return;
	note_syn_sent(sk);
	connects_anew(sk);
	read_flow(&flow, sk);
	if (!claim(&new, &choice, &flow, flow.remote_port))
		return;
	to = series_of(&new.key);
	new.since_ns = bpf_ktime_get_ns();
	new.id = new_id(new.since_ns);
	birth = enter(sk, &new);
	if (birth == NO_ROOM)
		count(COUNTER_LOST_CONNECTION, 1);
	if (birth != BORN)
		return;
	if (to)
		add(&to->attempts, 1);
	will_announce(sk);
}

static __always_inline void on_connected(struct sock *sk, struct connection *conn) {
	u64 now = bpf_ktime_get_ns();
	u64 ns = now - conn->since_ns;
	struct series_key key = conn->key;
	struct series *to;

	conn->phase = PHASE_OPEN;
	conn->since_ns = now;
	announce(sk);
	tell(EVENT_CONNECT, sk, conn);
	to = known_series(&key);
	if (!to)
		return;
	add(&to->connect_latency[connect_latency_slot(ns)], 1);
	add(&to->connect_latency_ns, ns);
}

// Inside connect() the struct socket is still unconnected; after it, only the program itself gives up without
// an error in sk_err.
static __always_inline bool within_connect(struct sock *sk) {
	struct socket *socket;
	socket_state state = 0;

	READ(&socket, &sk->sk_socket);
	if (!socket)
		return false;
	READ(&state, &socket->state);
	return state == SS_UNCONNECTED;
}

// Up to 6.10 a timer that expires wakes the program before it changes the state. An error that came with a
// reset, which is a segment, or with an ICMP message, which is none, is read as early only by a program that
// asks just then.
static __always_inline u32 error_that_was_read(struct sock *sk, int old_state) {
	u32 segments = 0;
	u8 retransmits = 0;
	int soft = 0;

	READ(&segments, &((struct tcp_sock *)sk)->segs_in);
	if (segments)
		return old_state == TCP_SYN_SENT ? REASON_REFUSED : REASON_RESET;
	READ(&retransmits, &((struct inet_connection_sock *)sk)->icsk_retransmits);
	if (!retransmits)
		return REASON_UNREACHABLE;
	READ(&soft, &sk->sk_err_soft);
	return soft ? reason_of(soft) : REASON_TIMEOUT; // as in tcp_write_err
}

// Why a connection goes from SYN_SENT (or, after a simultaneous open, SYN_RECV) to CLOSE.
static __always_inline u32 failure(struct sock *sk, struct connection *conn, int old_state) {
	u64 caller = bpf_get_current_pid_tgid();
	u32 tid = caller;
	struct connect_call *call;
	u8 shutdown = 0;
	int error = 0;

	READ(&error, &sk->sk_err);
	if (error)
		return reason_of(error);
	if (within_connect(sk)) {
		call = connect_calls.lookup(&tid);
		if (call && call->sk == (u64)sk)
			return NOT_KNOWN_YET; // connect() will return it
		return REASON_NO_PORT; // nobody will tell; after SYN_SENT only the search for a port fails
	}
	// close() and shutdown() leave a mark, connect(AF_UNSPEC) comes from the process. Else the program
	// was so quick to read (and clear) the error that it is gone before the state changes.
	READ(&shutdown, &sk->sk_shutdown);
	if (shutdown || caller >> 32 == conn->owner.pid)
		return REASON_CANCELED;
	return error_that_was_read(sk, old_state);
}

// TCP_FASTOPEN_CONNECT with a cookie: the SYN is yet to come, with the first write. To be asked only where no
// answer has come, which empties the queue that is counted here.
static __always_inline bool defers_syn(struct sock *sk) {
	u32 packets_out = 0;

	if (!TELLS_ATTEMPTS)
		return false;
	READ(&packets_out, &((struct tcp_sock *)sk)->packets_out);
	return !packets_out;
}

static __always_inline void on_failed(struct sock *sk, u32 reason) {
	if (reason == NOT_KNOWN_YET || reason == REASON_NO_PORT ||
	    (reason == REASON_CANCELED && defers_syn(sk)))
		forget_attempt(sk); // failed before there was a SYN
	else
		announce(sk);
}

static __always_inline void connect_called(struct connect_call *call) {
	u32 tid = bpf_get_current_pid_tgid();

	if (connect_calls.update(&tid, call))
		count(COUNTER_LOST_CONNECT, 1);
}

// A connect() that sent no SYN: an attempt and its failure at once.
static __always_inline void on_unsent(struct connect_call *call, int error) {
	struct connection unsent = {.role = ROLE_CLIENT};
	struct choice choice;
	struct series *to;
	struct flow flow;

	if (error == EAFNOSUPPORT || error == EISCONN || !choose(&choice))
		return; // the program's mistake: never an attempt
	read_flow(&flow, (struct sock *)call->sk);
	if (!read_destination(&flow, call) || !claim(&unsent, &choice, &flow, flow.remote_port))
		return;
	to = series_of(&unsent.key);
	if (to) {
		add(&to->attempts, 1);
		add(&to->failures[reason_of(error)], 1);
	}
	unsent.id = new_id(bpf_ktime_get_ns());
	tell_unsent(choice.now, &unsent, reason_of(error), &flow);
}

// A connect() that got as far as SYN_SENT and sent no SYN. By now the socket has forgotten where to.
static __always_inline void on_no_port(struct connection *conn, struct connect_call *call, u32 reason) {
	struct connection was = *conn;
	struct choice choice;
	struct series *to;
	struct flow flow;

	if (!untrack((struct sock *)call->sk, conn))
		return;
	to = known_series(&was.key);
	if (to)
		add(&to->failures[reason], 1);
	if (!CAN_TELL(EVENT_CONNECT_FAILED) || !choose(&choice))
		return;
	read_flow(&flow, (struct sock *)call->sk);
	read_destination(&flow, call);
	tell_unsent(choice.now, &was, reason, &flow);
}

static __always_inline int connect_returned(int ret) {
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call *found = connect_calls.lookup(&tid);
	struct connect_call call;
	struct connection *conn;
	struct sock *sk;

	if (!found)
		return 0;
	call = *found;
	connect_calls.delete(&tid);
	sk = (struct sock *)call.sk;
	if (call.syn_sent && !defers_syn(sk))
		announce(sk);
	if (ret >= 0 || ret == -EINPROGRESS)
		return 0;
	if (!call.syn_sent) {
		on_unsent(&call, -ret);
		return 0;
	}
	conn = connections.lookup(&sk);
	if (conn && conn->phase == PHASE_FAILING)
		on_no_port(conn, &call, reason_of(-ret));
	return 0;
}

// Whether connect() on this socket is an attempt: a second connect() asks for the outcome of the first.
static __always_inline bool begins_attempt(struct sock *sk) {
	u16 protocol = 0;
	u8 sk_state = 0;

	PEEK(&protocol, &sk->sk_protocol);
	PEEK(&sk_state, &sk->__sk_common.skc_state);
	return (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP) && sk_state == TCP_CLOSE &&
	       within_connect(sk);
}

// A connect(), and what it may do, is asked for of a security module. Where that refuses, TCP never sees it.
static __always_inline void permission_asked(struct socket *socket, u64 address, u32 address_len) {
	struct connect_call call = {.address = address, .address_len = address_len};
	struct sock *sk;

	PEEK(&sk, &socket->sk);
	if (!begins_attempt(sk))
		return;
	call.sk = (u64)sk;
	connect_called(&call);
}

// The functions from connect() down to tcp_v4_connect and tcp_v6_connect that may each be the last one: what
// is noted at the entry of one is taken at its return. tcp_v6_connect calls tcp_v4_connect for an IPv4-mapped
// address: the inner call takes the entry over, and the outer return finds none.
#if USES_FEXIT(CONNECT_MECHANISM)
int fentry_connect(u64 *ctx) {
	struct connect_call call = {.sk = ctx[0], .address = ctx[1], .address_len = ctx[2]};
	connect_called(&call);
	return 0;
}
int fentry_permission(u64 *ctx) {
	permission_asked((struct socket *)ctx[0], ctx[1], ctx[2]);
	return 0;
}
int fexit_connect(u64 *ctx) { return connect_returned(ctx[3]); }
#endif

#if USES_KPROBE(CONNECT_MECHANISM)
int enter_connect(struct pt_regs *ctx) {
	struct connect_call call = {
	    .sk = PT_REGS_PARM1(ctx), .address = PT_REGS_PARM2(ctx), .address_len = PT_REGS_PARM3(ctx)};
	connect_called(&call);
	return 0;
}
int enter_permission(struct pt_regs *ctx) {
	permission_asked((struct socket *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
	return 0;
}
int exit_connect(struct pt_regs *ctx) { return connect_returned(PT_REGS_RC(ctx)); }
#endif

#if CONNECT_MECHANISM == MECHANISM_TRACEPOINT
int enter_connect(struct syscall_trace_enter *ctx) {
	struct connect_call call = {.address = ctx->args[1], .address_len = ctx->args[2], .user = 1};
	struct sock *sk;

	PEEK(&sk, &socket_of_fd(ctx->args[0])->sk);
	if (!begins_attempt(sk))
		return 0;
	call.sk = (u64)sk;
	connect_called(&call);
	return 0;
}
int exit_connect(struct syscall_trace_exit *ctx) { return connect_returned(ctx->ret); }
#endif
