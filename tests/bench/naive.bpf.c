// Sends every connect, accept and close to Python: what a first script with bcc does.

// The tracepoint's record, as tracefs's events/sock/inet_sock_set_state/format has it.
struct set_state {
	u64 common;
	const void *skaddr;
	int oldstate;
	int newstate;
	u16 sport;
	u16 dport;
	u16 family;
	u16 protocol;
};

struct event {
	u32 oldstate;
	u32 newstate;
	u16 sport;
	u16 dport;
	char comm[16];
};

enum { ESTABLISHED = 1, SYN_SENT = 2, CLOSE = 7, LISTEN = 10, TCP = 6 };

BPF_PERF_OUTPUT(events);

static int wanted(struct set_state *args) {
	if (args->protocol != TCP || args->oldstate == LISTEN)
		return 0;
	return args->newstate == ESTABLISHED || (args->newstate == CLOSE && args->oldstate != SYN_SENT);
}

int on_set_state(struct set_state *args) {
	struct event event = {};

	if (!wanted(args))
		return 0;
	event.oldstate = args->oldstate;
	event.newstate = args->newstate;
	event.sport = args->sport;
	event.dport = args->dport;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	events.perf_submit(args, &event, sizeof(event));
	return 0;
}
