// until PORT: connections from this process to itself, one after the other, until SIGTERM; then their number
// on stdout. Each is connected, accepted and closed, the connecting end first.
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
	if (argc != 2)
		return 2;
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_port = htons(atoi(argv[1])),
	                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sigaction action = {.sa_handler = end, .sa_flags = SA_RESTART};
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	long count = 0;

	sigaction(SIGTERM, &action, NULL);
	if (listener < 0 || bind(listener, (const struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, 16))
		die("listen");
	while (!ended) {
		one_connection(listener, &address);
		count++;
		usleep(10000); // the daemon is to get on as well
	}
	printf("%ld\n", count);
	return 0;
}
