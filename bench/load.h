/* load: simulated session hosts and simulated clients for the side-by-side measurements.
 *
 * One program, two roles, one thread and one epoll loop each, no dependency beyond libc:
 *
 *   load hosts ADDRESS...           answers every Connection Request, then does what it is told
 *   load SCENE [--option value]...  opens connections, plays the scene, prints one JSON object
 *
 * What a client sends: a Connection Request (TPKT, X.224, `Cookie: mstshash=`, RDP_NEG_REQ). When
 * the Connection Confirm is there, one struct order, which tells the host what to do from then on.
 * A proxy sees nothing unusual: after the request both sides just carry bytes.
 */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

enum {
    PORT = 3389,
    ORDER_SIZE = 16,
    REQUEST_SIZE = 46,
    CONFIRM_SIZE = 19,
    ECHO_SIZE = 64,
    BURST_HEAD_SIZE = 16,
    BULK_SIZE = 256 * 1024,
    EVENTS = 512,
};

#define SECOND UINT64_C(1000000000)
#define BURST_MAGIC 0x52445042u

enum act { ACT_ECHO = 1, ACT_SINK, ACT_STREAM, ACT_BURSTS };

/* What a host does after the Connection Confirm. Sizes in bytes, the burst's head included. */
struct order {
    uint32_t act;
    uint32_t bursts_per_s;
    uint32_t size_min;
    uint32_t size_max;
};

/* Head of a burst: when it was sent (CLOCK_MONOTONIC, the same for all processes) and how long it is. */
struct burst {
    uint32_t magic;
    uint32_t size;
    uint64_t sent_ns;
};

/* ---- measure.c: clock, chance, latencies, processor time, things that are due ---- */

uint64_t now_ns(void);
uint32_t chance(uint32_t limit); /* 0 .. limit-1, the same sequence in every run */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct samples {
    uint32_t *values; /* nanoseconds; what is longer than 4.29 s counts as 4.29 s */
    size_t count, room;
};
void samples_add(struct samples *samples, uint64_t ns);
double samples_percentile_us(struct samples *samples, double percent); /* sorts; -1 of nothing */

struct cpu {
    uint64_t at_ns;
    double proxy_s, load_s, system_s;
};
void cpu_watch(const char *proxy_pids, const char *load_pids); /* comma separated, or NULL */
struct cpu cpu_read(void);

struct due {
    uint64_t at_ns;
    void *what;
};
void due_add(uint64_t at_ns, void *what);
void *due_take(uint64_t now); /* what was due first by now; NULL when nothing is */
uint64_t due_next(void);      /* UINT64_MAX when nothing will be */

int wait_until(int epoll, struct epoll_event *events, uint64_t until_ns);

/* ---- hosts.c ---- */

int hosts(int count, char **addresses);

/* ---- clients.c ---- */

enum state { FREE, CONNECTING, ASKED, OPEN };

struct client {
    int fd;
    enum state state;
    uint32_t number;     /* its address and its user name */
    uint32_t confirmed;  /* bytes of the Connection Confirm so far */
    uint32_t have;       /* bytes of the reply or of the burst's head so far */
    uint32_t left;       /* bytes of the burst that are still to come */
    uint64_t sent_ns;    /* of the message under way; 0: none */
    uint64_t begun_ns;   /* when it was dialled */
    struct burst burst;
};

struct scene {
    const char *name;
    uint32_t connections, first;   /* `first` numbers the first client: its address and name */
    uint32_t per_s;                /* messages per second and connection, upwards */
    uint32_t sources;              /* so many addresses are dialled from */
    double quiet_s;                /* bulk: between the connection's start and its first byte */
    double warm_s, seconds;
    bool up;                       /* bulk: from client to host */
    int targets;
    uint32_t target[16];           /* IPv4, network order */
};

extern int client_epoll;
extern struct client *clients;
extern uint64_t errors; /* refused, reset or ended by the other side, or a wrong answer */

void clients_prepare(const struct scene *scene);
bool client_dial(struct client *client, const struct scene *scene, uint32_t number);
bool client_progress(struct client *client, uint32_t events); /* false: it failed and is closed */
void client_close(struct client *client);
void clients_open(const struct scene *scene, uint32_t from, uint32_t to);
void clients_order(const struct scene *scene, struct order order);

/* ---- scenes.c ---- */

void scene_bulk(const struct scene *scene);
void scene_closed(const struct scene *scene);
void scene_paced(const struct scene *scene);
void scene_mix(const struct scene *scene);

/* ---- logins.c ---- */

void scene_rate(const struct scene *scene);
void scene_idle(const struct scene *scene);

#endif
