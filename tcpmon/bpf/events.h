// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Records of single events, for those who asked for them: the journal, and the tools, each with a module of
// its own.

static __always_inline bool tells(const struct settings *now, u32 kind) {
	return CAN_TELL(kind) && now->events >> kind & 1;
}

// Where closers are told, the filters ask at each event who acts, and not once who owns the connection: so
// all connections are followed.
static __always_inline bool follows_all(const struct settings *now) { return tells(now, EVENT_CLOSING); }

// What a connection carried.
struct volume {
	u64 sent_bytes;
	u64 received_bytes;
	u32 retransmitted_segments;
};

// The actor and the flow are for the caller to fill in, and the record to submit.
static __always_inline struct event *new_event(u32 kind, const struct connection *conn) {
	struct event *event = 0;

#if EVENTS
	event = events.ringbuf_reserve(sizeof(struct event));
#endif
	if (!event) {
		count(COUNTER_LOST_EVENT, 1);
		return 0;
	}
	event->ns = bpf_ktime_get_ns();
	event->connection = conn->id;
	event->duration_ns = event->sent_bytes = event->received_bytes = event->retransmits = 0;
	event->kind = kind;
	event->role = conn->role;
	event->reason = event->pad = 0;
	return event;
}

static __always_inline void read_flow_of(struct flow *flow, struct sock *sk, const struct connection *conn) {
	read_flow(flow, sk);
	flow->local_port = conn->port ?: flow->local_port;
}

static __always_inline void submit(struct event *event) {
#if EVENTS
	events.ringbuf_submit(event, 0);
#endif
}

static __always_inline void discard(struct event *event) {
#if EVENTS
	events.ringbuf_discard(event, 0);
#endif
}

// Of CPUs that meet at the turn of a second each may let an event more through: none goes uncounted.
static __always_inline bool within_rate(const struct settings *now) {
#if EVENTS
	u64 second = bpf_ktime_get_ns() / 1000000000;
	u32 zero = 0;
	struct rate *current = rate.lookup(&zero);

	if (!now->rate_limit || !current)
		return true;
	if (current->second < second) {
		current->events = 0;
		current->second = second;
	}
	if (current->events >= now->rate_limit) {
		count(COUNTER_CUT_EVENT, 1);
		return false;
	}
	add(&current->events, 1);
#endif
	return true;
}

// Something that the connection's owner did, or that happened to its connection; null where nobody is to hear
// of it. The flow is for the caller to fill in, and the record to submit.
static __always_inline struct event *event_of_owner(u32 kind, const struct settings *now,
                                                    const struct connection *conn) {
	struct event *event;

	if (conn->unwanted || !tells(now, kind) || !within_rate(now))
		return 0;
	event = new_event(kind, conn);
	if (event)
		event->actor = conn->owner;
	return event;
}

static __always_inline void tell(u32 kind, struct sock *sk, const struct connection *conn) {
	struct choice choice;
	struct event *event;

	if (!CAN_TELL(kind) || !choose(&choice))
		return;
	event = event_of_owner(kind, choice.now, conn);
	if (!event)
		return;
	read_flow_of(&event->flow, sk, conn);
	submit(event);
}

static __always_inline void tell_accept(const struct settings *now, const struct connection *conn,
                                        const struct flow *flow) {
	struct event *event = event_of_owner(EVENT_ACCEPT, now, conn);

	if (!event)
		return;
	event->flow = *flow;
	event->flow.local_port = conn->port;
	submit(event);
}

static __always_inline void tell_unsent(const struct settings *now, const struct connection *conn, u32 reason,
                                        const struct flow *flow) {
	struct event *event = event_of_owner(EVENT_CONNECT_FAILED, now, conn);

	if (!event)
		return;
	event->reason = reason;
	event->flow = *flow;
	submit(event);
}

static __always_inline void tell_end(struct sock *sk, const struct connection *conn, u32 reason, u64 ns,
                                     const struct volume *volume) {
	u32 kind = reason < REASONS ? EVENT_CONNECT_FAILED : EVENT_CLOSE;
	struct choice choice;
	struct event *event;

	if (!CAN_TELL(EVENT_CLOSE) || !choose(&choice))
		return;
	event = event_of_owner(kind, choice.now, conn);
	if (!event)
		return;
	read_flow_of(&event->flow, sk, conn);
	event->reason = reason < REASONS ? reason : 0;
	event->duration_ns = ns;
	event->sent_bytes = volume->sent_bytes;
	event->received_bytes = volume->received_bytes;
	event->retransmits = volume->retransmitted_segments;
	submit(event);
}

#if TELLS_ATTEMPTS
// An attempt is told once its SYN is on the way, since only then has it a local port: at what happens first,
// connect()'s return, the answer, or the SYN sent again. Who removes its mark tells.
BPF_HASH(unannounced, struct sock *, u8, 65536);

static __always_inline void will_announce(struct sock *sk) {
	u8 present = 1;
	if (unannounced.update(&sk, &present))
		count(COUNTER_LOST_EVENT, 1);
}

static __always_inline void announce(struct sock *sk) {
	struct connection *conn = connections.lookup(&sk);

	if (conn && !unannounced.delete(&sk))
		tell(EVENT_ATTEMPT, sk, conn);
}

static __always_inline void forget_attempt(struct sock *sk) { unannounced.delete(&sk); }
#else
static __always_inline void will_announce(struct sock *sk) {}
static __always_inline void announce(struct sock *sk) {}
static __always_inline void forget_attempt(struct sock *sk) {}
#endif
