// Makes NAMES x PORTS label sets: under each of NAMES process names, opens, accepts and closes one connection
// to each of PORTS ports from FIRST_PORT on. Prints how many connections that was.
//
//     labels FIRST_PORT NAMES PORTS

#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in at_port(int port) {
	struct sockaddr_in at = {
	    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return at;
}

static int listening(int port) {
	struct sockaddr_in at = at_port(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (void *)&at, sizeof(at)) || listen(fd, 1))
		err(1, "listen on port %d", port);
	return fd;
}

static void whole_connection(int listener, int port) {
	struct sockaddr_in at = at_port(port);
	int client = socket(AF_INET, SOCK_STREAM, 0), server;

	if (client < 0 || connect(client, (void *)&at, sizeof(at)))
		err(1, "connect to port %d", port);
	server = accept(listener, NULL, NULL);
	if (server < 0)
		err(1, "accept on port %d", port);
	close(client);
	close(server);
}

static void be_called(int number) {
	char name[24];

	snprintf(name, sizeof(name), "bench-%d", number);
	prctl(PR_SET_NAME, name);
}

int main(int argc, char **argv) {
	int first, names, ports;

	if (argc != 4)
		errx(2, "usage: labels FIRST_PORT NAMES PORTS");
	first = atoi(argv[1]), names = atoi(argv[2]), ports = atoi(argv[3]);
	for (int port = first; port < first + ports; port++) {
		int listener = listening(port);

		for (int name = 0; name < names; name++) {
			be_called(name);
			whole_connection(listener, port);
		}
		close(listener);
	}
	printf("%d\n", names * ports);
	return 0;
}
