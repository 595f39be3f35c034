/* What the C peers share: SERVER TASK ADDRESS [SECONDS]. The address is "tcp" or the path of a unix socket. With SECONDS it
 * watches how it is itself while it is flooded, tells its figures, and ends. */
#include <gio/gio.h>
#include <glib-unix.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* As in benches/suite/load.rs. */
#define BACKLOG 1024
#define BLOCK 8192000
#define CHUNK 65536
#define REPLY "ok\n"

static guint64 received;

/* Counts on; true when another block is full. */
static inline gboolean passes(guint64 *seen, gsize more) {
    guint64 before = *seen / BLOCK;
    *seen += more;
    return *seen / BLOCK > before;
}

static G_GNUC_NORETURN void die(const char *what) {
    perror(what);
    exit(1);
}

/* ---- a program around the server ---- */

static gboolean never(gint fd, GIOCondition condition, gpointer data) {
    (void)fd, (void)condition, (void)data;
    return G_SOURCE_CONTINUE;
}

static gboolean tick(gpointer data) {
    (void)data;
    return G_SOURCE_CONTINUE;
}

/* Descriptors and timers of others on the same context. */
static void foreign(void) {
    for (int i = 0; i < 20; i++) g_unix_fd_add(eventfd(0, EFD_CLOEXEC), G_IO_IN, never, NULL);
    for (int i = 0; i < 10; i++) g_timeout_add(100, tick, NULL);
}

/* ---- how it is under a flood, as in benches/suite/fairness.rs ---- */

static struct {
    gint64 due, last, begun;
    guint ticks, timers;
    gdouble late[4096];
    GMainLoop *loop;
} watched;

static gboolean redraw(gpointer data) {
    (void)data;
    gint64 now = g_get_monotonic_time();
    watched.ticks++;
    while (watched.due <= now) watched.due += 16000;
    g_timeout_add_full(120, (watched.due - now + 999) / 1000, redraw, NULL, NULL);
    return G_SOURCE_REMOVE;
}

static gboolean timer(gpointer data) {
    (void)data;
    gint64 now = g_get_monotonic_time();
    if (watched.timers < G_N_ELEMENTS(watched.late))
        watched.late[watched.timers++] = MAX(0, (now - watched.last) / 1000.0 - 50);
    watched.last = now;
    return G_SOURCE_CONTINUE;
}

static int compare(const void *one, const void *other) {
    gdouble difference = *(const gdouble *)one - *(const gdouble *)other;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

static gboolean over(gpointer data) {
    gdouble seconds = (g_get_monotonic_time() - watched.begun) / 1e6;
    qsort(watched.late, watched.timers, sizeof *watched.late, compare);
    gdouble late = watched.timers ? watched.late[MIN(watched.timers * 99 / 100, watched.timers - 1)] : 0;
    printf("%f %f %f\n", watched.ticks / seconds, watched.timers ? late : seconds * 1000, received / seconds);
    fflush(stdout);
    exit(0);
    return GPOINTER_TO_INT(data);
}

static void watch(double seconds) {
    watched.begun = watched.last = g_get_monotonic_time();
    watched.due = watched.begun + 16000;
    g_timeout_add_full(120, 16, redraw, NULL, NULL);
    g_timeout_add(50, timer, NULL);
    /* More urgent than the flood, or it would never end. */
    g_timeout_add_full(G_PRIORITY_HIGH, seconds * 1000, over, NULL, NULL);
}
