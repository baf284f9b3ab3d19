// loop COUNT ADDRESS PORT [PAUSE_US]: connections from this process to itself, one after the other, with a
// pause after each; COUNT of them, or with 0 as many as come until SIGTERM. Then their number on stdout. Each
// is connected, accepted and closed, the connecting end first.
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t ended;

static void end(int number) {
	(void)number;
	ended = 1;
}

static void die(const char *what) {
	perror(what);
	exit(1);
}

static int listen_at(const struct sockaddr_in *address) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) || listen(fd, 16))
		die("listen");
	return fd;
}

static void one_connection(int listener, const struct sockaddr_in *address) {
	int client = socket(AF_INET, SOCK_STREAM, 0);

	if (client < 0 || connect(client, (const struct sockaddr *)address, sizeof(*address)))
		die("connect");
	int server = accept(listener, NULL, NULL);
	if (server < 0)
		die("accept");
	close(client);
	close(server);
}

int main(int argc, char **argv) {
	if (argc < 4)
		return 2;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	struct sigaction action = {.sa_handler = end, .sa_flags = SA_RESTART};
	long wanted = atol(argv[1]), done = 0;
	useconds_t pause_us = argc > 4 ? atoi(argv[4]) : 0;

	sigaction(SIGTERM, &action, NULL);
	inet_pton(AF_INET, argv[2], &address.sin_addr);
	int listener = listen_at(&address);
	for (; !ended && (!wanted || done < wanted); done++) {
		one_connection(listener, &address);
		if (pause_us)
			usleep(pause_us);
	}
	printf("%ld\n", done);
	return 0;
}
