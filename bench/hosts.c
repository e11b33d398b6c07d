/* The simulated session hosts: one loop for all of them. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* TPKT, X.224 Connection Confirm, RDP_NEG_RSP that selects TLS. */
static const uint8_t confirm[CONFIRM_SIZE] = {
    0x03, 0x00, 0x00, 0x13, 0x0e, 0xd0, 0x00, 0x00, 0x12, 0x34,
    0x00, 0x02, 0x1f, 0x08, 0x00, 0x01, 0x00, 0x00, 0x00,
};

struct visitor {
    int fd;
    bool listening, confirmed;
    bool due;      /* stands in the heap of what is due, and is freed there */
    uint32_t have; /* bytes of the order so far */
    uint32_t owed; /* rest of a burst that the socket did not take at once */
    uint64_t burst_at_ns;
    struct order order;
};

static int epoll;
static uint8_t scratch[BULK_SIZE];
static uint8_t pattern[BULK_SIZE];

static void watch(struct visitor *visitor, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = visitor};
    if (epoll_ctl(epoll, operation, visitor->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void leave(struct visitor *visitor)
{
    close(visitor->fd);
    visitor->fd = -1;
    if (!visitor->due)
        free(visitor);
}

static void schedule(struct visitor *visitor)
{
    visitor->due = true;
    due_add(visitor->burst_at_ns, visitor);
}

static void obey(struct visitor *visitor)
{
    struct order *order = &visitor->order;
    switch (order->act) {
    case ACT_ECHO:
    case ACT_SINK:
        break;
    case ACT_STREAM:
        watch(visitor, EPOLLIN | EPOLLOUT | EPOLLRDHUP, EPOLL_CTL_MOD);
        break;
    case ACT_BURSTS:
        if (order->bursts_per_s == 0 || order->size_min < BURST_HEAD_SIZE ||
            order->size_max > BULK_SIZE || order->size_max < order->size_min)
            die("hosts: an order for bursts that makes no sense");
        visitor->burst_at_ns = now_ns() + chance((uint32_t)(SECOND / order->bursts_per_s));
        schedule(visitor);
        break;
    default:
        die("hosts: unknown order %u: bytes were lost or changed", order->act);
    }
}

/* A burst goes out whole or leaves its rest to the next time that the socket is writable. */
static bool burst(struct visitor *visitor)
{
    struct order *order = &visitor->order;
    uint32_t size = order->size_min + chance(order->size_max - order->size_min + 1);
    struct burst head = {BURST_MAGIC, size, now_ns()};
    memcpy(scratch, &head, sizeof head);
    memcpy(scratch + sizeof head, pattern, size - sizeof head);
    ssize_t sent = send(visitor->fd, scratch, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN)
        return true; /* the client reads too slowly: this one is left out */
    if (sent < (ssize_t)sizeof head)
        return false;
    visitor->owed = size - (uint32_t)sent;
    if (visitor->owed)
        watch(visitor, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    return true;
}

static void bursts_due(void)
{
    uint64_t now = now_ns();
    for (struct visitor *visitor; (visitor = due_take(now)) != NULL;) {
        visitor->due = false;
        if (visitor->fd < 0) {
            free(visitor);
        } else if (visitor->owed == 0 && !burst(visitor)) {
            leave(visitor);
        } else {
            visitor->burst_at_ns += SECOND / visitor->order.bursts_per_s;
            schedule(visitor);
        }
    }
}

static bool writable(struct visitor *visitor)
{
    uint32_t size = visitor->order.act == ACT_STREAM ? BULK_SIZE : visitor->owed;
    ssize_t sent = send(visitor->fd, pattern, size, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    if (visitor->order.act == ACT_BURSTS && (visitor->owed -= (uint32_t)sent) == 0)
        watch(visitor, EPOLLIN, EPOLL_CTL_MOD);
    return true;
}

/* Before the order: nothing beyond it is read, so that the act begins with its own first byte. */
static bool readable_first(struct visitor *visitor)
{
    if (!visitor->confirmed) {
        ssize_t got = recv(visitor->fd, scratch, 4096, 0);
        if (got <= 0)
            return got < 0 && errno == EAGAIN;
        if (got < 4 || scratch[0] != 3)
            return false;
        /* It is sent in one piece and arrives so, but through a proxy that would cut it. */
        if (got != (scratch[2] << 8 | scratch[3]))
            die("hosts: a Connection Request came in pieces, or with something behind it");
        visitor->confirmed = true;
        return send(visitor->fd, confirm, sizeof confirm, MSG_NOSIGNAL) == sizeof confirm;
    }
    ssize_t got =
        recv(visitor->fd, (char *)&visitor->order + visitor->have, ORDER_SIZE - visitor->have, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    visitor->have += (uint32_t)got;
    if (visitor->have == ORDER_SIZE)
        obey(visitor);
    return true;
}

static bool readable(struct visitor *visitor)
{
    if (visitor->have < ORDER_SIZE)
        return readable_first(visitor);
    ssize_t got = recv(visitor->fd, scratch, BULK_SIZE, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    return visitor->order.act != ACT_ECHO || send(visitor->fd, scratch, (size_t)got, MSG_NOSIGNAL) == got;
}

static void admit(struct visitor *door)
{
    for (int budget = 64; budget > 0; budget--) {
        int fd = accept4(door->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED)
                die("hosts: accept: %s", strerror(errno));
            return;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct visitor *visitor = calloc(1, sizeof *visitor);
        if (visitor == NULL)
            die("out of memory");
        visitor->fd = fd;
        watch(visitor, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void listen_at(const char *address)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct visitor *door = calloc(1, sizeof *door);
    int on = 1;
    if (door == NULL || inet_pton(AF_INET, address, &place.sin_addr) != 1)
        die("hosts: not an IPv4 address: %s", address);
    door->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    door->listening = true;
    setsockopt(door->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(door->fd, (struct sockaddr *)&place, sizeof place) < 0 || listen(door->fd, 8192) < 0)
        die("hosts: %s: %s", address, strerror(errno));
    watch(door, EPOLLIN, EPOLL_CTL_ADD);
}

int hosts(int count, char **addresses)
{
    struct epoll_event events[EVENTS];
    memset(pattern, 0xa5, sizeof pattern);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++)
        listen_at(addresses[i]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = wait_until(epoll, events, due_next());
        for (int i = 0; i < ready; i++) {
            struct visitor *visitor = events[i].data.ptr;
            uint32_t what = events[i].events;
            if (visitor->listening)
                admit(visitor);
            else if (((what & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !readable(visitor)) ||
                     ((what & EPOLLOUT) && !writable(visitor)))
                leave(visitor);
        }
        bursts_due();
    }
}
