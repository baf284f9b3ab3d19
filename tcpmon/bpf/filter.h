// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The one decision whether a connection is counted, taken at its birth in the context of its owner.

static __always_inline void read_actor(struct actor *actor) {
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct task_struct *leader;

	READ(&leader, &task->group_leader);
	// _str: bytes behind the terminator may be left from an older, longer name
	bpf_probe_read_kernel_str(actor->comm, sizeof(actor->comm), &leader->comm);
	bpf_get_current_comm(actor->thread_comm, sizeof(actor->thread_comm));
	actor->pid = pid_tgid >> 32;
	actor->tid = pid_tgid;
	actor->uid = bpf_get_current_uid_gid();
}

static __always_inline bool in_kernel_thread(void) {
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u32 flags = 0;

	READ(&flags, &task->flags);
	return flags & PF_KTHREAD;
}

static __always_inline const char *shown_comm(const struct settings *now, const struct actor *actor) {
	return now->thread_comm ? actor->thread_comm : actor->comm;
}

struct choice {
	const struct settings *now;
	u32 slot;
};

static __always_inline bool choose(struct choice *choice) {
	u32 zero = 0;
	u32 *slot = active.lookup(&zero);

	if (!slot || *slot == OFF)
		return false;
	choice->slot = *slot;
	choice->now = settings.lookup(slot);
	return choice->now;
}

static __always_inline bool listed_value(struct choice *choice, u32 list, struct filter_key *key) {
	key->list = choice->slot << 8 | list;
	return filter_values.lookup(key);
}

static __always_inline bool listed_port(struct choice *choice, u32 exclude, u16 port) {
	u32 index = (choice->slot * 2 + exclude) * 1024 + (port >> 6);
	u64 *word = filter_ports.lookup(&index);
	return word && (*word >> (port & 63)) & 1;
}

static __always_inline bool listed_remote(struct choice *choice, u32 exclude, const struct flow *flow) {
	struct filter_network key = {.prefix_len = 8 + 128, .list = choice->slot << 1 | exclude};
	__builtin_memcpy(key.address, flow->remote, 16);
	return filter_remotes.lookup(&key);
}

// "Everything" costs the test of a bit: a list is looked up only where it has entries.
#define PASSES(dim, listed)                                       \
	do {                                                      \
		u32 exclude = 0;                                  \
		if ((filters & FILTER_LIST(dim, 0)) && !(listed)) \
			return false;                             \
		exclude = 1;                                      \
		if ((filters & FILTER_LIST(dim, 1)) && (listed))  \
			return false;                             \
	} while (0)

static __always_inline bool in_lists(struct choice *choice, const struct flow *flow,
                                     const struct actor *actor, u16 service_port) {
	u32 filters = choice->now->filters;
	struct filter_key key;

	if (!filters)
		return true;
	if ((filters & FILTER_IPV4_ONLY && !flow->ipv4) || (filters & FILTER_IPV6_ONLY && flow->ipv4))
		return false;
	PASSES(DIM_PORT, listed_port(choice, exclude, service_port));
	PASSES(DIM_REMOTE, listed_remote(choice, exclude, flow));
	__builtin_memset(&key, 0, sizeof(key));
	key.number = actor->pid;
	PASSES(DIM_PID, listed_value(choice, 2 * DIM_PID + exclude, &key));
	key.number = actor->uid;
	PASSES(DIM_UID, listed_value(choice, 2 * DIM_UID + exclude, &key));
	key.number = flow->netns;
	PASSES(DIM_NETNS, listed_value(choice, 2 * DIM_NETNS + exclude, &key));
	__builtin_memcpy(key.comm, shown_comm(choice->now, actor), COMM_LEN);
	PASSES(DIM_COMM, listed_value(choice, 2 * DIM_COMM + exclude, &key));
	return true;
}

// The maps that others made and keep: membership is all that counts, whatever their values.
static __always_inline bool in_pinned_maps(void) {
#ifdef CGROUP_MAP
	u64 cgroup = bpf_get_current_cgroup_id();
	if (!cgroup_map.lookup(&cgroup))
		return false;
#endif
#ifdef MNTNS_MAP
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct nsproxy *nsproxy;
	struct mnt_namespace *mnt_ns;
	u32 inum = 0;
	u64 mntns;
	READ(&nsproxy, &task->nsproxy);
	READ(&mnt_ns, &nsproxy->mnt_ns);
	READ(&inum, &mnt_ns->ns.inum);
	mntns = inum;
	if (!mntns_map.lookup(&mntns))
		return false;
#endif
	return true;
}

static __always_inline bool wanted(struct choice *choice, const struct flow *flow, const struct actor *actor,
                                   u16 service_port) {
	return in_pinned_maps() && in_lists(choice, flow, actor, service_port);
}
