// Opens, accepts and closes CONNECTIONS TCP connections over loopback one after the other, all in one thread
// on one CPU: nothing waits for anything, so the time of a connection is what the kernel takes for it, a
// tracer's programs and all. Prints nanoseconds a connection, one number for each CHUNK connections: the
// median of many short chunks is free of whatever else the machine did meanwhile.
//
//     alone CPU ADDRESS PORT COMM CONNECTIONS

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Much shorter than the turn that the scheduler gives to another process
enum { CHUNK = 20, BACKLOG = 8 };

static struct sockaddr_in at;

static int listening(void) {
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (void *)&at, sizeof(at)) || listen(fd, BACKLOG))
		err(1, "listen");
	return fd;
}

static void whole_connection(int listener) {
	int client = socket(AF_INET, SOCK_STREAM, 0), server;

	if (client < 0 || connect(client, (void *)&at, sizeof(at)))
		err(1, "connect");
	server = accept(listener, NULL, NULL);
	if (server < 0)
		err(1, "accept");
	close(client);
	close(server);
}

static void stay_on(int cpu) {
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		err(1, "no CPU %d", cpu);
}

static long long now_ns(void) {
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
	long connections;
	int listener;

	if (argc != 6)
		errx(2, "usage: alone CPU ADDRESS PORT COMM CONNECTIONS");
	stay_on(atoi(argv[1]));
	at.sin_family = AF_INET;
	at.sin_addr.s_addr = inet_addr(argv[2]);
	at.sin_port = htons(atoi(argv[3]));
	prctl(PR_SET_NAME, argv[4]);
	connections = atol(argv[5]);
	listener = listening();
	for (long done = 0; done < connections; done += CHUNK) {
		long long start = now_ns();

		for (int number = 0; number < CHUNK; number++)
			whole_connection(listener);
		printf("%lld\n", (now_ns() - start) / CHUNK);
	}
	return 0;
}
