/* The scenes of established connections: bulk, ping-pong (closed loop or paced), RDP-like mix.
 *
 * Each runs a warm-up, then a window. Counters and latencies of the window alone are printed, with
 * the processor time that passed in it.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint8_t scratch[1024 * 1024];
static struct samples latency;
static uint64_t bytes, messages, late;
static uint64_t message_gap_ns; /* paced: between two messages of one connection; 0: closed loop */
static uint64_t message_size = ECHO_SIZE;

static void watch(struct client *client, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(client_epoll, EPOLL_CTL_MOD, client->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void print_result(const struct cpu *from)
{
    struct cpu to = cpu_read();
    double elapsed_s = (double)(to.at_ns - from->at_ns) / 1e9;
    printf("{\"seconds\": %.6f, \"proxy_cpu_s\": %.6f, \"load_cpu_s\": %.6f, "
           "\"system_cpu_s\": %.3f, \"bytes\": %llu, \"messages\": %llu, \"late\": %llu, "
           "\"errors\": %llu, \"samples\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           elapsed_s, to.proxy_s - from->proxy_s, to.load_s - from->load_s,
           to.system_s - from->system_s, (unsigned long long)bytes, (unsigned long long)messages,
           (unsigned long long)late, (unsigned long long)errors, latency.count,
           samples_percentile_us(&latency, 50), samples_percentile_us(&latency, 99));
}

/* Runs the loop: `ready` for each event, `due` for each client whose time has come. */
static void play(const struct scene *scene, void (*ready)(struct client *, uint32_t),
                 void (*due)(struct client *))
{
    struct epoll_event events[EVENTS];
    struct cpu from = {0};
    uint64_t begin_ns = now_ns() + (uint64_t)(scene->warm_s * 1e9);
    uint64_t end_ns = begin_ns + (uint64_t)(scene->seconds * 1e9);
    for (;;) {
        uint64_t now = now_ns();
        if (now >= end_ns)
            break;
        if (from.at_ns == 0 && now >= begin_ns) {
            latency.count = 0;
            bytes = messages = late = 0;
            from = cpu_read();
        }
        for (struct client *client; (client = due_take(now)) != NULL;)
            due(client);
        uint64_t mark = from.at_ns == 0 ? begin_ns : end_ns;
        int count = wait_until(client_epoll, events, due_next() < mark ? due_next() : mark);
        for (int i = 0; i < count; i++)
            ready(events[i].data.ptr, events[i].events);
    }
    print_result(&from);
}

/* ---- bulk ---- */

static void bulk_ready(struct client *client, uint32_t events)
{
    ssize_t moved = events & EPOLLOUT ? send(client->fd, scratch, BULK_SIZE, MSG_NOSIGNAL)
                                      : recv(client->fd, scratch, BULK_SIZE, 0);
    if (moved < 0 && errno == EAGAIN)
        return;
    if (moved <= 0)
        die("a bulk connection was ended");
    bytes += (uint64_t)moved;
}

void scene_bulk(const struct scene *scene)
{
    clients_open(scene, 0, scene->connections);
    usleep((useconds_t)(scene->quiet_s * 1e6));
    clients_order(scene, (struct order){.act = scene->up ? ACT_SINK : ACT_STREAM});
    if (scene->up)
        for (uint32_t i = 0; i < scene->connections; i++)
            watch(&clients[i], EPOLLOUT);
    play(scene, bulk_ready, NULL);
}

/* ---- ping-pong ---- */

static void message_send(struct client *client)
{
    client->sent_ns = now_ns();
    if (send(client->fd, scratch, message_size, MSG_NOSIGNAL) != (ssize_t)message_size)
        die("a connection was ended, or took no %zu bytes", (size_t)message_size);
}

static void echo_ready(struct client *client, uint32_t events)
{
    (void)events;
    ssize_t got = recv(client->fd, scratch, ECHO_SIZE - client->have, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 || client->sent_ns == 0)
        die("a connection was ended, or got an answer to nothing");
    client->have += (uint32_t)got;
    if (client->have < ECHO_SIZE)
        return;
    samples_add(&latency, now_ns() - client->sent_ns);
    messages++;
    client->have = 0;
    client->sent_ns = 0;
    if (message_gap_ns == 0)
        message_send(client);
}

static void echo_due(struct client *client)
{
    /* `begun_ns` is when it was due: the beat is kept however late this loop was. */
    due_add(client->begun_ns += message_gap_ns, client);
    if (client->sent_ns)
        late++; /* the answer to the one before is not there: this one is left out */
    else
        message_send(client);
}

static void beats_begin(const struct scene *scene)
{
    message_gap_ns = SECOND / scene->per_s;
    for (uint32_t i = 0; i < scene->connections; i++) {
        clients[i].begun_ns = now_ns() + chance((uint32_t)message_gap_ns);
        due_add(clients[i].begun_ns, &clients[i]);
    }
}

void scene_paced(const struct scene *scene)
{
    clients_open(scene, 0, scene->connections);
    clients_order(scene, (struct order){.act = ACT_ECHO});
    beats_begin(scene);
    play(scene, echo_ready, echo_due);
}

void scene_closed(const struct scene *scene)
{
    clients_open(scene, 0, scene->connections);
    clients_order(scene, (struct order){.act = ACT_ECHO});
    for (uint32_t i = 0; i < scene->connections; i++)
        message_send(&clients[i]);
    play(scene, echo_ready, NULL);
}

/* ---- RDP-like mix: small packets up (keys, mouse), bursts down (pictures) ---- */

static void mix_due(struct client *client)
{
    due_add(client->begun_ns += message_gap_ns, client);
    message_size = 32 + chance(65);
    if (send(client->fd, scratch, message_size, MSG_NOSIGNAL) != (ssize_t)message_size)
        die("a connection was ended, or took no %zu bytes", (size_t)message_size);
    messages++;
}

static void mix_ready(struct client *client, uint32_t events)
{
    (void)events;
    ssize_t got = recv(client->fd, scratch, sizeof scratch, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        die("a connection was ended");
    uint64_t now = now_ns();
    bytes += (uint64_t)got;
    for (size_t at = 0, size = (size_t)got; at < size;) {
        size_t part;
        if (client->left == 0) {
            part = BURST_HEAD_SIZE - client->have;
            part = part < size - at ? part : size - at;
            memcpy((uint8_t *)&client->burst + client->have, scratch + at, part);
            client->have += (uint32_t)part;
            at += part;
            if (client->have < BURST_HEAD_SIZE)
                return;
            if (client->burst.magic != BURST_MAGIC || client->burst.size > BULK_SIZE)
                die("a burst began with something else: bytes were lost or changed");
            client->have = 0;
            client->left = client->burst.size - BURST_HEAD_SIZE;
        } else {
            part = client->left < size - at ? client->left : size - at;
            client->left -= (uint32_t)part;
            at += part;
        }
        if (client->left == 0)
            samples_add(&latency, now - client->burst.sent_ns);
    }
}

void scene_mix(const struct scene *scene)
{
    clients_open(scene, 0, scene->connections);
    clients_order(scene, (struct order){ACT_BURSTS, 10, 1024, 16 * 1024});
    beats_begin(scene);
    play(scene, mix_ready, mix_due);
}
