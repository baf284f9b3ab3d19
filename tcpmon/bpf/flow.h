// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Who talks to whom: read from a socket, in the form that filters and labels want.

static __always_inline u16 from_net(u16 port) { return __builtin_bswap16(port); }

static __always_inline void set_mapped(u8 *to, u32 address) {
	u32 *words = (u32 *)to;
	words[0] = words[1] = 0;
	words[2] = 0xffff0000;
	words[3] = address;
}

static __always_inline void set_ipv4(struct flow *flow, u32 address) {
	set_mapped(flow->remote, address);
	flow->ipv4 = 1;
}

static __always_inline void set_ipv6(struct flow *flow, const void *address) {
	u32 *words = (u32 *)flow->remote;
	__builtin_memcpy(words, address, 16);
	flow->ipv4 = !words[0] && !words[1] && words[2] == 0xffff0000;
}

static __always_inline void read_netns(struct flow *flow, struct net *net) {
	READ(&flow->netns, &net->ns.inum);
}

// A port that was given back, as after a reset, is still here.
static __always_inline u16 inet_sport(struct sock *sk) {
	u16 port;

	READ(&port, &((struct inet_sock *)sk)->inet_sport);
	return from_net(port);
}

static __always_inline void read_flow(struct flow *flow, struct sock *sk) {
	struct sock_common common;

	READ(&common, &sk->__sk_common);
	flow->local_port = common.skc_num ?: inet_sport(sk);
	flow->remote_port = from_net(common.skc_dport);
	read_netns(flow, common.skc_net.net);
	if (common.skc_family == AF_INET6) {
		set_ipv6(flow, &common.skc_v6_daddr);
		__builtin_memcpy(flow->local, &common.skc_v6_rcv_saddr, 16);
	} else {
		set_ipv4(flow, common.skc_daddr);
		set_mapped(flow->local, common.skc_rcv_saddr);
	}
}

// By another name: for a bpf_probe_read_user bcc reads all of /proc/kallsyms, to see whether the kernel has
// it.
static long (*read_user)(void *dst, u32 size, const void *src) = (void *)BPF_FUNC_probe_read_user;

// For a connect() that failed before the socket knew where to: the destination is in the call's address.
// Returns whether the address is one that TCP would try.
static __always_inline bool read_destination(struct flow *flow, struct connect_call *call) {
	struct sockaddr_in6 to = {};
	u32 want = sizeof(struct sockaddr_in);

	if (call->address_len >= SIN6_LEN_RFC2133)
		want = SIN6_LEN_RFC2133;
	else if (call->address_len < want)
		return false;
	if (want == SIN6_LEN_RFC2133
	        ? (call->user ? read_user(&to, SIN6_LEN_RFC2133, (void *)call->address)
	                      : bpf_probe_read_kernel(&to, SIN6_LEN_RFC2133, (void *)call->address))
	        : (call->user
	               ? read_user(&to, sizeof(struct sockaddr_in), (void *)call->address)
	               : bpf_probe_read_kernel(&to, sizeof(struct sockaddr_in), (void *)call->address)))
		return false;
	flow->remote_port = from_net(to.sin6_port);
	if (to.sin6_family == AF_INET)
		set_ipv4(flow, ((struct sockaddr_in *)&to)->sin_addr.s_addr);
	else if (to.sin6_family == AF_INET6 && want == SIN6_LEN_RFC2133)
		set_ipv6(flow, &to.sin6_addr);
	else
		return false;
	return true;
}
