/* The servers of the benches the usual way on GLib's main loop: one GSource for each descriptor. */
#define _GNU_SOURCE
#include "peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

enum task { ECHO, IN, OUT, LINES, TEXT, REPLIES };

static char buffer[CHUNK];
static char chunk[CHUNK];
static char replies[CHUNK / 2 * sizeof REPLY];

struct connection {
    int fd;
    enum task task;
    guint64 seen;
    gsize owed;
    GString *carry; /* the start of a line; none while there is none */
};

static void finish(gpointer data) {
    struct connection *connection = data;
    close(connection->fd);
    if (connection->carry) g_string_free(connection->carry, TRUE);
    g_free(connection);
}

static volatile gsize sink;

static void line(enum task task, const char *start, gsize length) {
    sink += length;
    if (task == LINES || g_utf8_validate_len(start, length, NULL)) return;
    gchar *text = g_utf8_make_valid(start, length);
    sink += strlen(text);
    g_free(text);
}

/* How many lines; whether a block is full in `full`. */
static gsize split(struct connection *connection, const char *data, gsize length, gboolean *full) {
    const char *end = data + length, *newline;
    gsize count = 0;
    while ((newline = memchr(data, '\n', end - data))) {
        gsize more = newline - data;
        if (connection->carry) {
            g_string_append_len(connection->carry, data, more);
            more = connection->carry->len;
            line(connection->task, connection->carry->str, more);
            g_string_free(connection->carry, TRUE);
            connection->carry = NULL;
        } else {
            line(connection->task, data, more);
        }
        *full |= passes(&connection->seen, more + 1);
        count++;
        data = newline + 1;
    }
    if (data < end) {
        if (!connection->carry) connection->carry = g_string_new(NULL);
        g_string_append_len(connection->carry, data, end - data);
    }
    return count;
}

static gboolean writable(gint fd, GIOCondition condition, gpointer data) {
    struct connection *connection = data;
    (void)condition;
    while (connection->owed > 0) {
        ssize_t count = send(fd, chunk, MIN(connection->owed, CHUNK), MSG_NOSIGNAL);
        if (count < 0) return errno == EAGAIN ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
        connection->owed -= count;
    }
    return G_SOURCE_REMOVE;
}

static gboolean readable(gint fd, GIOCondition condition, gpointer data) {
    struct connection *connection = data;
    (void)condition;
    ssize_t count = recv(fd, buffer, CHUNK, 0);
    if (count < 0 && errno == EAGAIN) return G_SOURCE_CONTINUE;
    if (count <= 0) return G_SOURCE_REMOVE;
    received += count;
    gboolean full = FALSE;
    switch (connection->task) {
    case ECHO:
        if (send(fd, buffer, count, MSG_NOSIGNAL) < 0) return G_SOURCE_REMOVE;
        return G_SOURCE_CONTINUE;
    case IN: full = passes(&connection->seen, count); break;
    case OUT:
        connection->owed += BLOCK * count;
        if (writable(fd, 0, connection) == G_SOURCE_CONTINUE) g_unix_fd_add(fd, G_IO_OUT, writable, connection);
        return G_SOURCE_CONTINUE;
    case REPLIES: {
        gsize lines = split(connection, buffer, count, &full);
        if (lines && send(fd, replies, lines * strlen(REPLY), MSG_NOSIGNAL) < 0) return G_SOURCE_REMOVE;
        return G_SOURCE_CONTINUE;
    }
    default: split(connection, buffer, count, &full);
    }
    if (full && send(fd, ".", 1, MSG_NOSIGNAL) < 0) return G_SOURCE_REMOVE;
    return G_SOURCE_CONTINUE;
}

static gboolean incoming(gint fd, GIOCondition condition, gpointer data) {
    (void)condition;
    int accepted;
    while ((accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *connection = g_new0(struct connection, 1);
        connection->fd = accepted;
        connection->task = GPOINTER_TO_INT(data);
        g_unix_fd_add_full(G_PRIORITY_DEFAULT, accepted, G_IO_IN, readable, connection, finish);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean datagrams(gint fd, GIOCondition condition, gpointer all) {
    (void)condition;
    struct sockaddr_in from;
    for (int i = 0; i < 64; i++) {
        socklen_t size = sizeof from;
        ssize_t count = recvfrom(fd, buffer, CHUNK, 0, (struct sockaddr *)&from, &size);
        if (count < 0) break;
        if (all || *buffer == '?') sendto(fd, buffer, count, MSG_NOSIGNAL, (struct sockaddr *)&from, size);
    }
    return G_SOURCE_CONTINUE;
}

static int udp(const char *task) {
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof inet;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&inet, size) < 0) die(task);
    g_unix_fd_add(fd, G_IO_IN, datagrams, GINT_TO_POINTER(!strcmp(task, "udp")));
    if (getsockname(fd, (struct sockaddr *)&inet, &size) < 0) die(task);
    return ntohs(inet.sin_port);
}

static int start(const char *address, enum task task) {
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    gboolean tcp = !strcmp(address, "tcp");
    g_strlcpy(local.sun_path, address, sizeof local.sun_path);
    int fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr *name = tcp ? (struct sockaddr *)&inet : (struct sockaddr *)&local;
    socklen_t size = tcp ? sizeof inet : sizeof local;
    if (fd < 0 || bind(fd, name, size) < 0 || listen(fd, BACKLOG) < 0) die(address);
    g_unix_fd_add(fd, G_IO_IN, incoming, GINT_TO_POINTER(task));
    if (!tcp) return 0;
    if (getsockname(fd, name, &size) < 0) die(address);
    return ntohs(inet.sin_port);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *tasks[] = {"echo", "in", "out", "lines", "text", "replies"};
    enum task task = ECHO;
    for (guint i = 0; i < G_N_ELEMENTS(tasks); i++)
        if (!strcmp(argv[1], tasks[i])) task = i;
    for (guint i = 0; i < sizeof replies; i++) replies[i] = REPLY[i % strlen(REPLY)];
    if (!strcmp(argv[1], "foreign")) foreign();
    int port = g_str_has_prefix(argv[1], "udp") ? udp(argv[1]) : start(argv[2], task);
    printf("%d %d %d\n", port, getpid(), argc > 3 ? start("tcp", ECHO) : 0);
    fflush(stdout);
    if (argc > 3) watch(atof(argv[3]));
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
