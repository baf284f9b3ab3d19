// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// From a task's descriptor to its socket, for the system call tracepoints.

static __always_inline struct socket *socket_of_fd(s64 fd) {
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files;
	struct fdtable *table, slots;
	struct file *file = 0;
	void *data = 0;

	PEEK(&files, &task->files);
	PEEK(&table, &files->fdt);
	PEEK(&slots, table);
	if (fd < 0 || fd >= slots.max_fds)
		return 0;
	PEEK(&file, slots.fd + fd);
	PEEK(&data, &file->private_data);
	return data;
}

// An MPTCP socket counts as the TCP connection that it began with.
static __always_inline struct sock *first_subflow(struct sock *sk) {
	struct sock *first = 0;
#ifdef HAVE_MPTCP
	READ(&first, &((struct mptcp_sock *)sk)->first);
#endif
	return first;
}
