// loop COUNT ADDRESS PORT: COUNT connections from this process to itself, at full speed.
// Each is connected, accepted and closed, the connecting end first.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

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
	if (argc != 4)
		return 2;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	inet_pton(AF_INET, argv[2], &address.sin_addr);
	int listener = listen_at(&address);
	for (long left = atol(argv[1]); left > 0; left--)
		one_connection(listener, &address);
	return 0;
}
