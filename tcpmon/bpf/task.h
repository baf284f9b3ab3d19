// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// From a task's descriptor to its socket, for the system call tracepoints.

static __always_inline struct socket *socket_of_fd(s64 fd) {
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files;
	struct fdtable *table;
	struct file **slots, *file = 0;
	void *data = 0;
	u32 max = 0;

	PEEK(&files, &task->files);
	PEEK(&table, &files->fdt);
	PEEK(&max, &table->max_fds);
	if (fd < 0 || fd >= max)
		return 0;
	PEEK(&slots, &table->fd);
	PEEK(&file, slots + fd);
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
