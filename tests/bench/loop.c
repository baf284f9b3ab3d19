// Opens and closes CONNECTIONS TCP connections over loopback as fast as it can: one thread connects and
// closes, the other accepts and closes. Prints "CONNECTIONS SECONDS" when that is done.
//
//     loop PORT CONNECTIONS
//
// Every connection ends with FINs, as most do, and so stays behind in TIME_WAIT. The targets go round
// 127.0.0.1 to 127.0.0.250: 250 times as many address pairs as with one, and so no hunt for a free port.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// A server that waits so long for its next connection waits in vain.
enum { TARGETS = 250, BACKLOG = 1024, PATIENCE_SECONDS = 5 };

static int port;
static long connections;
static atomic_long accepted;
static cpu_set_t allowed;

static struct sockaddr_in host(unsigned address) {
	struct sockaddr_in at = {
	    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};

	return at;
}

static int listening(void) {
	struct sockaddr_in any = host(INADDR_ANY);
	struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
	           sizeof(on)); // what it leaves may keep nobody else from the port
	if (fd < 0 || bind(fd, (void *)&any, sizeof(any)) || listen(fd, BACKLOG))
		err(1, "listen on port %d", port);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

// Threads that stay where they are, client on the first CPU and server on the last, make runs that compare.
// Takes the first allowed CPU from `cpu` on in steps of `step`.
static void stay_on(int cpu, int step) {
	cpu_set_t one;

	while (!CPU_ISSET(cpu, &allowed))
		cpu += step;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		err(1, "sched_setaffinity");
}

static void *serve(void *listener) {
	stay_on(CPU_SETSIZE - 1, -1);
	while (accepted < connections) {
		int fd = accept(*(int *)listener, NULL, NULL);

		if (fd < 0)
			err(1, "accept, after %ld of %ld", (long)accepted, connections);
		accepted++;
		close(fd);
	}
	return NULL;
}

// A full accept queue drops SYNs, and each costs a second: wait while it is half full.
static void make_room(long done) {
	while (done - accepted >= BACKLOG / 2)
		sched_yield();
}

static void open_and_close(long number) {
	struct sockaddr_in at = host(INADDR_LOOPBACK + number % TARGETS);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (void *)&at, sizeof(at)))
		err(1, "connect");
	close(fd);
}

static void run(int *listener) {
	pthread_t server;

	if (pthread_create(&server, NULL, serve, listener))
		errx(1, "no thread");
	stay_on(0, 1);
	for (long done = 0; done < connections; done++) {
		make_room(done);
		open_and_close(done);
	}
	pthread_join(server, NULL);
}

static double now(void) {
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
	int listener;
	double start;

	if (argc != 3)
		errx(2, "usage: loop PORT CONNECTIONS");
	port = atoi(argv[1]);
	connections = atol(argv[2]);
	sched_getaffinity(0, sizeof(allowed), &allowed);
	listener = listening();
	start = now();
	run(&listener);
	printf("%ld %.6f\n", connections, now() - start);
	return 0;
}
