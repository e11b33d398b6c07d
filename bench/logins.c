/* The scenes of connections as such: how many a second, and what it costs to hold them. */
#include "load.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const uint64_t PATIENCE = 3 * SECOND;

static struct samples latency;
static uint64_t done, number;
static uint32_t under_way;

static void dial(struct client *client, const struct scene *scene)
{
    under_way += client_dial(client, scene, (uint32_t)number++);
}

/* Plays until then. Whoever has his Connection Confirm leaves; with `again` another one follows. */
static void come_and_go(const struct scene *scene, uint64_t until_ns, bool again)
{
    struct epoll_event events[EVENTS];
    while (now_ns() < until_ns && (again || under_way)) {
        int ready = wait_until(client_epoll, events, until_ns);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (client_progress(client, events[i].events) && client->state == OPEN) {
                samples_add(&latency, now_ns() - client->begun_ns);
                done++;
                client_close(client);
            }
            under_way -= client->state == FREE;
        }
        /* After the batch: a number used again inside it would get the old socket's events. */
        for (uint32_t i = 0; again && i < scene->connections; i++)
            if (clients[i].state == FREE)
                dial(&clients[i], scene);
    }
}

/* New connections per second: dial, Connection Request, Connection Confirm, close; as many at once as
 * the scene has connections. After the window those under way may come to their end: what does not
 * is hung. */
void scene_rate(const struct scene *scene)
{
    uint64_t begin_ns = now_ns() + (uint64_t)(scene->warm_s * 1e9);
    uint64_t end_ns = begin_ns + (uint64_t)(scene->seconds * 1e9);
    number = scene->first;
    for (uint32_t i = 0; i < scene->connections; i++)
        dial(&clients[i], scene);
    come_and_go(scene, begin_ns, true);
    done = errors = latency.count = 0;
    struct cpu from = cpu_read();
    come_and_go(scene, end_ns, true);
    struct cpu to = cpu_read();
    uint64_t counted = done;
    double p50_us = samples_percentile_us(&latency, 50), p99_us = samples_percentile_us(&latency, 99);
    come_and_go(scene, now_ns() + PATIENCE, false);
    printf("{\"seconds\": %.6f, \"proxy_cpu_s\": %.6f, \"load_cpu_s\": %.6f, "
           "\"system_cpu_s\": %.3f, \"connections\": %llu, \"errors\": %llu, \"hung\": %u, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           (double)(to.at_ns - from.at_ns) / 1e9, to.proxy_s - from.proxy_s,
           to.load_s - from.load_s, to.system_s - from.system_s, (unsigned long long)counted,
           (unsigned long long)errors, under_way, p50_us, p99_us);
}

/* Idle connections. Each line of standard input is a number: open up to so many, then answer with a
 * line. At its end, or when a connection that should be idle moves, leave. */
void scene_idle(const struct scene *scene)
{
    char line[32];
    uint32_t open = 0;
    struct pollfd both[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = client_epoll, .events = POLLIN}};
    for (;;) {
        if (poll(both, 2, -1) < 0)
            die("poll failed");
        if (both[1].revents)
            die("an idle connection was ended, or got bytes that nobody asked for");
        if (fgets(line, sizeof line, stdin) == NULL)
            return;
        uint32_t wanted = (uint32_t)strtoul(line, NULL, 10);
        if (wanted > scene->connections)
            die("%u connections are more than --connections", wanted);
        if (wanted > open)
            clients_open(scene, open, wanted);
        open = wanted;
        printf("{\"open\": %u}\n", open);
        fflush(stdout);
    }
}
