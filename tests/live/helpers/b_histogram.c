// The kernel side's bucket functions, compiled for user space: prints the slot of each number of ns given.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint32_t u32;
typedef uint64_t u64;

#define BOUNDS(X) X(0, 100000) X(1, 250000) X(2, 1000000000) X(3, 10000000000)
#define CONNECT_LATENCY_BOUNDS(X) BOUNDS(X)
#define CONNECT_LATENCY_SLOTS 5
#define ACCEPT_WAIT_BOUNDS(X) BOUNDS(X)
#define ACCEPT_WAIT_SLOTS 5
#define CONNECTION_DURATION_BOUNDS(X) BOUNDS(X)
#define CONNECTION_DURATION_SLOTS 5

#include "../../../tcpmon/bpf/histogram.h"

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		u64 ns = strtoull(argv[i], NULL, 10);
		printf("%u %u %u\n", connect_latency_slot(ns), accept_wait_slot(ns),
		       connection_duration_slot(ns));
	}
	return 0;
}
