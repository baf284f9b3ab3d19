// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Constants of the kernel's interface that are macros, or in enums without a name, and so not in BTF.

#define AF_INET 2
#define AF_INET6 10
#define SIN6_LEN_RFC2133 24
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SHUTDOWN_MASK 3
#define PF_KTHREAD 0x00200000

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};

#define EPERM 1
#define EACCES 13
#define EBUSY 16
#define EAFNOSUPPORT 97
#define EADDRNOTAVAIL 99
#define ENETDOWN 100
#define ENETUNREACH 101
#define ECONNRESET 104
#define EISCONN 106
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define EHOSTDOWN 112
#define EHOSTUNREACH 113
#define EINPROGRESS 115
