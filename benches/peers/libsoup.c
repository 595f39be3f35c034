// The HTTP client of the benchmarks on libsoup 3, one asynchronous request after the other: `libsoup URL`. For each task that is written to
// it, `PATH COUNT`, it prints the CPU time that took, in nanoseconds.

#include <libsoup/soup.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static GMainLoop *loop;
static SoupSession *session;
static char url[1024];
static int left;

static void next(void);

static void answered(GObject *source, GAsyncResult *result, gpointer data) {
    (void)data;
    GError *error = NULL;
    GBytes *body = soup_session_send_and_read_finish(SOUP_SESSION(source), result, &error);
    if (!body) {
        fprintf(stderr, "libsoup: %s\n", error->message);
        exit(1);
    }
    g_bytes_unref(body);
    next();
}

static void next(void) {
    if (left-- == 0) {
        g_main_loop_quit(loop);
        return;
    }
    SoupMessage *message = soup_message_new("GET", url);
    soup_session_send_and_read_async(session, message, G_PRIORITY_DEFAULT, NULL, answered, NULL);
    g_object_unref(message);
}

static long long cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    char path[64];
    loop = g_main_loop_new(NULL, FALSE);
    session = soup_session_new();
    while (scanf("%63s %d", path, &left) == 2) {
        snprintf(url, sizeof url, "%s%s", arguments[1], path);
        long long before = cpu();
        next();
        g_main_loop_run(loop);
        printf("%lld\n", cpu() - before);
        fflush(stdout);
    }
    return 0;
}
