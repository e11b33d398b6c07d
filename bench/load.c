/* The command line of the load generator; load.h says what it does. */
#include "load.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static const struct {
    const char *name;
    void (*play)(const struct scene *);
} scenes[] = {
    {"bulk", scene_bulk}, {"closed", scene_closed}, {"paced", scene_paced},
    {"mix", scene_mix},   {"rate", scene_rate},     {"idle", scene_idle},
};

static uint32_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value > 10000000)
        die("not a number: %s", text);
    return (uint32_t)value;
}

static int targets(char *list, uint32_t *target)
{
    int count = 0;
    for (char *address; (address = strsep(&list, ",")) != NULL; count++)
        if (count == 16 || inet_pton(AF_INET, address, &target[count]) != 1)
            die("not a list of at most 16 IPv4 addresses: %s", address);
    return count;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"target", required_argument, 0, 't'},     {"connections", required_argument, 0, 'c'},
        {"per-second", required_argument, 0, 'p'}, {"sources", required_argument, 0, 's'},
        {"first", required_argument, 0, 'f'},      {"warm", required_argument, 0, 'w'},
        {"seconds", required_argument, 0, 'd'},    {"up", no_argument, 0, 'u'},
        {"proxy-pids", required_argument, 0, 'P'}, {"load-pids", required_argument, 0, 'L'},
        {"quiet", required_argument, 0, 'q'},
        {0},
    };
    struct scene scene = {
        .connections = 1, .per_s = 20, .sources = 1000000, .warm_s = 0.3, .seconds = 1};
    const char *proxy_pids = NULL, *load_pids = NULL;
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    /* Ends with the program that started it; and wakes when something is due, not 50 us later. */
    prctl(PR_SET_PDEATHSIG, 9);
    prctl(PR_SET_TIMERSLACK, 1);

    if (argc >= 3 && strcmp(argv[1], "hosts") == 0)
        return hosts(argc - 2, argv + 2);
    if (argc < 2)
        die("usage: load hosts ADDRESS... | load SCENE [--option value]...");
    scene.name = argv[1];
    for (int option; (option = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1;) {
        switch (option) {
        case 't': scene.targets = targets(optarg, scene.target); break;
        case 'c': scene.connections = number(optarg); break;
        case 'p': scene.per_s = number(optarg); break;
        case 's': scene.sources = number(optarg); break;
        case 'f': scene.first = number(optarg); break;
        case 'w': scene.warm_s = atof(optarg); break;
        case 'd': scene.seconds = atof(optarg); break;
        case 'q': scene.quiet_s = atof(optarg); break;
        case 'u': scene.up = true; break;
        case 'P': proxy_pids = optarg; break;
        case 'L': load_pids = optarg; break;
        default: return 2;
        }
    }
    if (scene.targets == 0 || scene.connections == 0 || scene.per_s == 0 || scene.sources == 0)
        die("--target is needed, and no number may be 0");
    cpu_watch(proxy_pids, load_pids);
    clients_prepare(&scene);
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        if (strcmp(scene.name, scenes[i].name) == 0) {
            scenes[i].play(&scene);
            return 0;
        }
    }
    die("unknown scene %s", scene.name);
}
