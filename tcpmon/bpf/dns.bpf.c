// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What name servers answered, for the names in tcpconnect's output. The kernel gives a datagram's buffer back
// once a program has received it, in whatever way, and from there the answer is read.

#if DNS
#define DNS_PORT 53
#define IPPROTO_UDP 17
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define UDP_HEADER_BYTES 8
#define MAX_ANSWER_BYTES 512

struct dns_answer {
	u32 length;
	u8 payload[MAX_ANSWER_BYTES];
};

BPF_RINGBUF_OUTPUT(dns_answers, 64);
BPF_ARRAY(dns_layout, struct dns_answer, 1); // never written, like event_layout

static __always_inline bool is_udp(struct sk_buff *skb, const u8 *network) {
	u16 protocol;
	u8 transport = 0;

	READ(&protocol, &skb->protocol);
	if (from_net(protocol) == ETH_P_IP)
		PEEK(&transport, network + 9);
	else if (from_net(protocol) == ETH_P_IPV6)
		PEEK(&transport, network + 6);
	return transport == IPPROTO_UDP;
}

static __always_inline void tell_answer(const u8 *payload, u32 length) {
	struct dns_answer *answer;

	if (!length || length > MAX_ANSWER_BYTES)
		return; // longer ones are of EDNS and not for the resolvers of libc
	answer = dns_answers.ringbuf_reserve(sizeof(struct dns_answer));
	if (!answer) {
		count(COUNTER_LOST_EVENT, 1);
		return;
	}
	answer->length = length;
	bpf_probe_read_kernel(answer->payload, length, payload);
	dns_answers.ringbuf_submit(answer, 0);
}

int skb_consumed(struct bpf_raw_tracepoint_args *ctx) {
	struct sk_buff *skb = (struct sk_buff *)ctx->args[0];
	struct {
		u16 source, dest, length, check;
	} udp = {};
	u16 network, transport;
	u32 tail, length;
	u8 *head;

	READ(&head, &skb->head);
	READ(&network, &skb->network_header);
	READ(&transport, &skb->transport_header);
	if (transport == (u16)~0 || !is_udp(skb, head + network))
		return 0;
	PEEK(&udp, head + transport);
	if (from_net(udp.source) != DNS_PORT)
		return 0;
	READ(&tail, &skb->tail);
	length = from_net(udp.length) - UDP_HEADER_BYTES;
	if (tail >= transport + UDP_HEADER_BYTES + length) // all of it is in the buffer's first part
		tell_answer(head + transport + UDP_HEADER_BYTES, length);
	return 0;
}
#endif
