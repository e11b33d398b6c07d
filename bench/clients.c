/* The simulated clients: from the dial to the Connection Confirm and the order. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int client_epoll;
struct client *clients;
uint64_t errors;

static const uint64_t OPENING_LIMIT = 30 * SECOND;
static const uint32_t OPENING_AT_ONCE = 64;

void clients_prepare(const struct scene *scene)
{
    client_epoll = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(scene->connections, sizeof *clients);
    if (clients == NULL)
        die("out of memory");
    for (uint32_t i = 0; i < scene->connections; i++)
        clients[i].fd = -1;
}

/* 127.64.0.1 and up; .0 and .255 are left out, for people and tools that take them for networks. */
static uint32_t source_address(uint32_t number)
{
    return htonl(0x7f400000u + (number / 254 << 8) + number % 254 + 1);
}

static void compose_request(uint8_t *request, uint32_t number)
{
    static const uint8_t head[] = {0x03, 0, 0, REQUEST_SIZE, REQUEST_SIZE - 5, 0xe0, 0, 0, 0, 0, 0};
    static const uint8_t negotiation[] = {0x01, 0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x00};
    char cookie[32];
    int length = snprintf(cookie, sizeof cookie, "Cookie: mstshash=%08x\r\n", number);
    memcpy(request, head, sizeof head);
    memcpy(request + sizeof head, cookie, (size_t)length);
    memcpy(request + sizeof head + length, negotiation, sizeof negotiation);
}

static void watch(struct client *client, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(client_epoll, operation, client->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

void client_close(struct client *client)
{
    close(client->fd);
    client->fd = -1;
    client->state = FREE;
}

static bool failed(struct client *client)
{
    errors++;
    client_close(client);
    return false;
}

static bool ask(struct client *client)
{
    uint8_t request[REQUEST_SIZE];
    compose_request(request, client->number);
    ssize_t sent = send(client->fd, request, sizeof request, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN))
        return true;
    if (sent != sizeof request)
        return false;
    client->state = ASKED;
    return true;
}

bool client_dial(struct client *client, const struct scene *scene, uint32_t number)
{
    struct sockaddr_in source = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = source_address(number % scene->sources)};
    struct sockaddr_in target = {.sin_family = AF_INET,
                                 .sin_port = htons(PORT),
                                 .sin_addr.s_addr = scene->target[number % (uint32_t)scene->targets]};
    int on = 1;
    *client = (struct client){.state = CONNECTING, .number = number, .begun_ns = now_ns()};
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(client->fd, (struct sockaddr *)&source, sizeof source) < 0)
        die("bind: %s", strerror(errno));
    if (connect(client->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        return failed(client);
    /* On loopback the connection usually stands by now: one wake-up less. */
    if (!ask(client))
        return failed(client);
    watch(client, client->state == ASKED ? EPOLLIN : EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
    return true;
}

bool client_progress(struct client *client, uint32_t events)
{
    uint8_t confirm[CONFIRM_SIZE];
    if (client->state == CONNECTING) {
        if (!ask(client))
            return failed(client);
        if (client->state == ASKED)
            watch(client, EPOLLIN, EPOLL_CTL_MOD);
    }
    if (client->state != ASKED || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return true;
    ssize_t got = recv(client->fd, confirm, CONFIRM_SIZE - client->confirmed, 0);
    if (got < 0 && errno == EAGAIN)
        return true;
    if (got <= 0 || (client->confirmed == 0 && confirm[0] != 3))
        return failed(client);
    client->confirmed += (uint32_t)got;
    if (client->confirmed == CONFIRM_SIZE)
        client->state = OPEN;
    return true;
}

/* Opens clients[from .. to-1] and waits until all of them have their Connection Confirm. */
void clients_open(const struct scene *scene, uint32_t from, uint32_t to)
{
    struct epoll_event events[EVENTS];
    uint64_t limit = now_ns() + OPENING_LIMIT;
    uint32_t dialled = from, open = from;
    while (open < to) {
        while (dialled < to && dialled - open < OPENING_AT_ONCE) {
            if (!client_dial(&clients[dialled], scene, scene->first + dialled))
                die("connection %u of %u was refused", dialled + 1, to);
            dialled++;
        }
        int ready = wait_until(client_epoll, events, limit);
        if (now_ns() >= limit)
            die("only %u of %u connections were open after 30 s", open, to);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (client->state == OPEN)
                die("an open connection was ended, or got bytes that nobody asked for");
            if (!client_progress(client, events[i].events))
                die("a connection was ended after %u of %u were open", open, to);
            open += client->state == OPEN;
        }
    }
}

void clients_order(const struct scene *scene, struct order order)
{
    for (uint32_t i = 0; i < scene->connections; i++)
        if (send(clients[i].fd, &order, sizeof order, MSG_NOSIGNAL) != sizeof order)
            die("connection %u was ended before its order", i + 1);
}
