/* The scenes of connections as such: how many a second, and what it costs to hold them. */
#include "load.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* New connections per second: dial, Connection Request, Connection Confirm, close; as many at once as
 * the scene has connections. */
void scene_rate(const struct scene *scene)
{
    struct epoll_event events[EVENTS];
    struct samples latency = {0};
    struct cpu from = {0}, to;
    uint64_t done = 0, number = scene->first, hung = 0;
    uint64_t begin_ns = now_ns() + (uint64_t)(scene->warm_s * 1e9);
    uint64_t end_ns = begin_ns + (uint64_t)(scene->seconds * 1e9);
    for (uint32_t i = 0; i < scene->connections; i++)
        client_dial(&clients[i], scene, (uint32_t)number++);
    for (uint64_t now; (now = now_ns()) < end_ns;) {
        if (from.at_ns == 0 && now >= begin_ns) {
            done = errors = latency.count = 0;
            from = cpu_read();
        }
        int ready = wait_until(client_epoll, events, from.at_ns == 0 ? begin_ns : end_ns);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (client_progress(client, events[i].events) && client->state == OPEN) {
                samples_add(&latency, now_ns() - client->begun_ns);
                done++;
                client_close(client);
            }
        }
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (client->state == FREE)
                client_dial(client, scene, (uint32_t)number++);
        }
    }
    to = cpu_read();
    for (uint32_t i = 0; i < scene->connections; i++)
        hung += clients[i].state != FREE && to.at_ns - clients[i].begun_ns > 2 * SECOND;
    printf("{\"seconds\": %.6f, \"proxy_cpu_s\": %.6f, \"load_cpu_s\": %.6f, "
           "\"system_cpu_s\": %.3f, \"connections\": %llu, \"errors\": %llu, \"hung\": %llu, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           (double)(to.at_ns - from.at_ns) / 1e9, to.proxy_s - from.proxy_s,
           to.load_s - from.load_s, to.system_s - from.system_s, (unsigned long long)done,
           (unsigned long long)errors, (unsigned long long)hung,
           samples_percentile_us(&latency, 50), samples_percentile_us(&latency, 99));
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
