// What an atomic add costs on this machine: by one thread, by two on two CPUs that add to the same word, and
// by two that add to lines of their own. Prints "alone same apart" in nanoseconds an add: of many short
// chunks one that few are faster than, since on a busy machine most are interrupted.

#define _GNU_SOURCE
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHUNKS = 40000, CHUNK = 500, LINE_WORDS = 8, THREADS = 2 };

static struct { _Alignas(128) volatile long words[THREADS * 2 * LINE_WORDS]; } lines;
static double found[THREADS][CHUNKS];
static int found_count[THREADS];
static volatile int at_chunk[THREADS][64]; // far from each other's
static pthread_barrier_t start;

struct work {
	int cpu;
	volatile long *word;
	int with_other;
};

static double now_ns(void) {
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void *add(void *argument) {
	struct work *work = argument;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(work->cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		err(1, "no CPU %d", work->cpu);
	pthread_barrier_wait(&start);
	for (int chunk = 0; chunk < CHUNKS; chunk++) {
		int other = at_chunk[!work->cpu][0];
		double begun = now_ns(), took;

		for (int number = 0; number < CHUNK; number++)
			__sync_fetch_and_add(work->word, 1);
		took = (now_ns() - begun) / CHUNK;
		at_chunk[work->cpu][0] = chunk;
		// On a busy machine the other thread may not have been running
		if (!work->with_other || at_chunk[!work->cpu][0] != other)
			found[work->cpu][found_count[work->cpu]++] = took;
	}
	return NULL;
}

static int ascending(const void *a, const void *b) {
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

// The first thread's, while so many run, with their words so far apart.
static double measured(int threads, int apart_words) {
	struct work works[THREADS];
	pthread_t ids[THREADS];

	pthread_barrier_init(&start, NULL, threads);
	for (int number = 0; number < threads; number++) {
		works[number] = (struct work){number, &lines.words[number * apart_words], threads > 1};
		found_count[number] = 0;
		if (pthread_create(&ids[number], NULL, add, &works[number]))
			errx(1, "no thread");
	}
	for (int number = 0; number < threads; number++)
		pthread_join(ids[number], NULL);
	if (!found_count[0])
		errx(1, "the threads never ran at once");
	qsort(found[0], found_count[0], sizeof(found[0][0]), ascending);
	return found[0][found_count[0] / 20];
}

int main(void) {
	double alone = measured(1, 0), same = measured(THREADS, 0), apart = measured(THREADS, 2 * LINE_WORDS);

	printf("%.1f %.1f %.1f\n", alone, same, apart);
	return 0;
}
