// uring_accept COUNT: listen on 127.0.0.1, print the port, accept COUNT connections with
// IORING_OP_ACCEPT (no accept system call), read each to its end and close it.
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ring {
	int fd;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
	struct io_uring_params params;
};

static void die(const char *what) {
	perror(what);
	exit(1);
}

static void *map_ring(int fd, size_t size, off_t offset) {
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static void ring_open(struct ring *ring) {
	struct io_uring_params *p = &ring->params;

	memset(p, 0, sizeof(*p));
	ring->fd = syscall(SYS_io_uring_setup, 4, p);
	if (ring->fd < 0)
		die("io_uring_setup");
	ring->sq = map_ring(ring->fd, p->sq_off.array + p->sq_entries * sizeof(__u32), IORING_OFF_SQ_RING);
	ring->cq = map_ring(ring->fd, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe),
	                    IORING_OFF_CQ_RING);
	ring->sqes = map_ring(ring->fd, p->sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
}

static void submit_accept(struct ring *ring, int listener) {
	__u32 *tail = (__u32 *)(ring->sq + ring->params.sq_off.tail);
	__u32 slot = *tail & *(__u32 *)(ring->sq + ring->params.sq_off.ring_mask);

	memset(&ring->sqes[slot], 0, sizeof(ring->sqes[slot]));
	ring->sqes[slot].opcode = IORING_OP_ACCEPT;
	ring->sqes[slot].fd = listener;
	((__u32 *)(ring->sq + ring->params.sq_off.array))[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		die("io_uring_enter");
}

static int reap(struct ring *ring) {
	__u32 *head = (__u32 *)(ring->cq + ring->params.cq_off.head);
	__u32 slot = *head & *(__u32 *)(ring->cq + ring->params.cq_off.ring_mask);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(ring->cq + ring->params.cq_off.cqes);

	while (__atomic_load_n((__u32 *)(ring->cq + ring->params.cq_off.tail), __ATOMIC_ACQUIRE) == *head)
		syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	int result = cqes[slot].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static int listen_and_tell(void) {
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 128))
		die("listen");
	getsockname(fd, (struct sockaddr *)&address, &size);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv) {
	struct ring ring;
	char buffer[4096];

	if (argc != 2)
		return 2;
	ring_open(&ring);
	int listener = listen_and_tell();
	for (int left = atoi(argv[1]); left > 0; left--) {
		submit_accept(&ring, listener);
		int fd = reap(&ring);
		if (fd < 0) {
			fprintf(stderr, "accept: %s\n", strerror(-fd));
			return 1;
		}
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
		close(fd);
	}
	return 0;
}
