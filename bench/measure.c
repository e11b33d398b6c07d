/* Clock, chance, latencies, processor time, things that are due. */
#include "load.h"

#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

uint32_t chance(uint32_t limit)
{
    static uint64_t state = 3389;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % limit);
}

void die(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(1);
}

static void *grown(void *values, size_t count, size_t size)
{
    void *larger = reallocarray(values, count, size);
    if (larger == NULL)
        die("out of memory");
    return larger;
}

void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 65536;
        samples->values = grown(samples->values, samples->room, sizeof *samples->values);
    }
    samples->values[samples->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static int ascending(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

double samples_percentile_us(struct samples *samples, double percent)
{
    if (samples->count == 0)
        return -1;
    qsort(samples->values, samples->count, sizeof *samples->values, ascending);
    size_t rank = (size_t)(percent / 100 * (double)samples->count);
    if (rank >= samples->count)
        rank = samples->count - 1;
    return samples->values[rank] / 1000.0;
}

/* Processor time. Of a process: the scheduler's own account of each of its threads, in nanoseconds;
 * the kernel's tick samples are too coarse here and miss what runs between two ticks. Of the whole
 * machine: what its processors were not idle, which is exact where the kernel stops its idle tick. */

static char watched[2][4096];

void cpu_watch(const char *proxy_pids, const char *load_pids)
{
    snprintf(watched[0], sizeof watched[0], "%s", proxy_pids ? proxy_pids : "");
    snprintf(watched[1], sizeof watched[1], "%s", load_pids ? load_pids : "");
}

static double process_s(const char *pid)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "/proc/%s/task/*/schedstat", pid);
    glob_t threads;
    double sum_s = 0;
    if (glob(pattern, 0, NULL, &threads) != 0)
        die("no process %s to watch", pid);
    for (size_t i = 0; i < threads.gl_pathc; i++) {
        FILE *file = fopen(threads.gl_pathv[i], "r");
        unsigned long long ran_ns = 0;
        if (file == NULL)
            continue; /* a thread that has just ended */
        if (fscanf(file, "%llu", &ran_ns) == 1)
            sum_s += (double)ran_ns / 1e9;
        fclose(file);
    }
    globfree(&threads);
    return sum_s;
}

static double processes_s(const char *pids)
{
    char list[sizeof watched[0]];
    double sum_s = 0;
    snprintf(list, sizeof list, "%s", pids);
    for (char *rest = list, *pid; (pid = strsep(&rest, ",")) != NULL;)
        if (*pid)
            sum_s += process_s(pid);
    return sum_s;
}

static double system_idle_s(void)
{
    unsigned long long idle = 0, waiting = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (file == NULL || fscanf(file, "cpu %*u %*u %*u %llu %llu", &idle, &waiting) != 2)
        die("cannot read /proc/stat");
    fclose(file);
    return (double)(idle + waiting) / (double)sysconf(_SC_CLK_TCK);
}

struct cpu cpu_read(void)
{
    struct cpu cpu = {.at_ns = now_ns()};
    double cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    cpu.system_s = cores * (double)cpu.at_ns / 1e9 - system_idle_s();
    cpu.proxy_s = processes_s(watched[0]);
    cpu.load_s = processes_s(watched[1]) + process_s("self");
    return cpu;
}

/* What is due: a binary heap, the soonest on top. */

static struct due *heap;
static size_t heap_count, heap_room;

void due_add(uint64_t at_ns, void *what)
{
    if (heap_count == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 1024;
        heap = grown(heap, heap_room, sizeof *heap);
    }
    size_t place = heap_count++;
    while (place > 0 && heap[(place - 1) / 2].at_ns > at_ns) {
        heap[place] = heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    heap[place] = (struct due){at_ns, what};
}

void *due_take(uint64_t now)
{
    if (heap_count == 0 || heap[0].at_ns > now)
        return NULL;
    void *first = heap[0].what;
    struct due last = heap[--heap_count];
    size_t place = 0;
    for (size_t child; (child = 2 * place + 1) < heap_count; place = child) {
        if (child + 1 < heap_count && heap[child + 1].at_ns < heap[child].at_ns)
            child++;
        if (heap[child].at_ns >= last.at_ns)
            break;
        heap[place] = heap[child];
    }
    heap[place] = last;
    return first;
}

uint64_t due_next(void)
{
    return heap_count ? heap[0].at_ns : UINT64_MAX;
}

/* epoll_pwait2: milliseconds would gather what is due into bursts that no real client makes. */
int wait_until(int epoll, struct epoll_event *events, uint64_t until_ns)
{
    uint64_t now = now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {(time_t)(left / SECOND), (long)(left % SECOND)};
    int count = epoll_pwait2(epoll, events, EVENTS, until_ns == UINT64_MAX ? NULL : &timeout, NULL);
    if (count < 0 && errno != EINTR)
        die("epoll: %s", strerror(errno));
    return count < 0 ? 0 : count;
}
