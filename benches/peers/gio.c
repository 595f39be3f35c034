/* The servers of the benches on GIO: GSocketService, and the asynchronous streams of its connections. */
#include "peer.h"

#include <gio/gunixsocketaddress.h>
#include <netinet/tcp.h>
#include <netinet/in.h>

static char chunk[CHUNK];

struct connection {
    GSocketConnection *stream;
    GInputStream *input;
    GOutputStream *output;
    const char *task;
    guint64 seen;
    gsize left, size;
    char buffer[];
};

static void next(struct connection *connection);
static void next_line(struct connection *connection);

static void finish(struct connection *connection) {
    if (connection->input != g_io_stream_get_input_stream(G_IO_STREAM(connection->stream))) {
        g_object_unref(connection->input);
        g_object_unref(connection->output);
    }
    g_object_unref(connection->stream);
    g_free(connection);
}

/* ---- data ---- */

static void written(GObject *output, GAsyncResult *result, gpointer data) {
    struct connection *connection = data;
    if (!g_output_stream_write_all_finish(G_OUTPUT_STREAM(output), result, NULL, NULL)) return finish(connection);
    if (connection->left > 0) {
        connection->left -= CHUNK;
        g_output_stream_write_all_async(connection->output, chunk, CHUNK, 0, NULL, written, connection);
    } else {
        next(connection);
    }
}

static void readied(GObject *input, GAsyncResult *result, gpointer data) {
    struct connection *connection = data;
    gssize count = g_input_stream_read_finish(G_INPUT_STREAM(input), result, NULL);
    if (count <= 0) return finish(connection);
    received += count;
    const char *answer = connection->buffer;
    if (!strcmp(connection->task, "in")) {
        if (!passes(&connection->seen, count)) return next(connection);
        answer = ".";
        count = 1;
    } else if (!strcmp(connection->task, "out")) {
        answer = chunk;
        count = CHUNK;
        connection->left = BLOCK - CHUNK;
    }
    g_output_stream_write_all_async(connection->output, answer, count, 0, NULL, written, connection);
}

static void next(struct connection *connection) {
    g_input_stream_read_async(connection->input, connection->buffer, connection->size, 0, NULL, readied, connection);
}

/* ---- lines ---- */

static void flushed(GObject *output, GAsyncResult *result, gpointer data) {
    if (!g_output_stream_flush_finish(G_OUTPUT_STREAM(output), result, NULL)) return finish(data);
    next_line(data);
}

static void lined(GObject *input, GAsyncResult *result, gpointer data) {
    struct connection *connection = data;
    gsize length;
    gboolean bytes = !strcmp(connection->task, "lines");
    char *(*line)(GDataInputStream *, GAsyncResult *, gsize *, GError **) =
        bytes ? g_data_input_stream_read_line_finish : g_data_input_stream_read_line_finish_utf8;
    char *text = line(G_DATA_INPUT_STREAM(input), result, &length, NULL);
    if (!text) return finish(connection);
    g_free(text);
    received += length + 1;
    gboolean flush;
    if (!strcmp(connection->task, "replies")) {
        /* Goes into the buffer, and does not wait: that is flushed when no whole line is left. */
        g_output_stream_write_all(connection->output, REPLY, strlen(REPLY), NULL, NULL, NULL);
        gsize have;
        const void *rest = g_buffered_input_stream_peek_buffer(G_BUFFERED_INPUT_STREAM(input), &have);
        flush = !memchr(rest, '\n', have);
    } else {
        flush = passes(&connection->seen, length + 1);
        if (flush) g_output_stream_write_all(connection->output, ".", 1, NULL, NULL, NULL);
    }
    if (!flush) return next_line(connection);
    g_output_stream_flush_async(connection->output, 0, NULL, flushed, connection);
}

static void next_line(struct connection *connection) {
    g_data_input_stream_read_line_async(G_DATA_INPUT_STREAM(connection->input), 0, NULL, lined, connection);
}

/* ---- the service ---- */

static gboolean incoming(GSocketService *service, GSocketConnection *stream, GObject *source, gpointer task) {
    (void)service, (void)source;
    gboolean by_line = !strcmp(task, "text") || !strcmp(task, "lines") || !strcmp(task, "replies");
    /* What is idle keeps its buffer, so it is no larger than it need be. */
    gsize size = by_line ? 0 : strcmp(task, "in") ? 4096 : CHUNK;
    struct connection *connection = g_malloc0(sizeof *connection + size);
    g_socket_set_option(g_socket_connection_get_socket(stream), IPPROTO_TCP, TCP_NODELAY, 1, NULL);
    connection->stream = g_object_ref(stream);
    connection->input = g_io_stream_get_input_stream(G_IO_STREAM(stream));
    connection->output = g_io_stream_get_output_stream(G_IO_STREAM(stream));
    connection->task = task;
    connection->size = size;
    if (!by_line) {
        next(connection);
        return TRUE;
    }
    GDataInputStream *lines = g_data_input_stream_new(connection->input);
    g_buffered_input_stream_set_buffer_size(G_BUFFERED_INPUT_STREAM(lines), CHUNK);
    connection->input = G_INPUT_STREAM(lines);
    connection->output = g_buffered_output_stream_new_sized(connection->output, CHUNK);
    next_line(connection);
    return TRUE;
}

static int start(const char *address, const char *task) {
    GSocketService *service = g_socket_service_new();
    GSocketListener *listener = G_SOCKET_LISTENER(service);
    gboolean tcp = !strcmp(address, "tcp");
    GSocketAddress *name = tcp ? g_inet_socket_address_new_from_string("127.0.0.1", 0) : g_unix_socket_address_new(address);
    GSocketAddress *bound = NULL;
    g_socket_listener_set_backlog(listener, BACKLOG);
    if (!g_socket_listener_add_address(listener, name, G_SOCKET_TYPE_STREAM, 0, NULL, &bound, NULL)) die(address);
    g_signal_connect(service, "incoming", G_CALLBACK(incoming), (gpointer)task);
    g_socket_service_start(service);
    return tcp ? g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(bound)) : 0;
}

/* ---- datagrams ---- */

static gboolean datagrams(GSocket *socket, GIOCondition condition, gpointer all) {
    (void)condition;
    static char buffer[CHUNK];
    for (int i = 0; i < 64; i++) {
        GSocketAddress *from = NULL;
        gssize count = g_socket_receive_from(socket, &from, buffer, CHUNK, NULL, NULL);
        if (count < 0) break;
        if (all || *buffer == '?') g_socket_send_to(socket, from, buffer, count, NULL, NULL);
        g_object_unref(from);
    }
    return G_SOURCE_CONTINUE;
}

static int udp(const char *task) {
    GSocket *socket = g_socket_new(G_SOCKET_FAMILY_IPV4, G_SOCKET_TYPE_DATAGRAM, G_SOCKET_PROTOCOL_UDP, NULL);
    if (!g_socket_bind(socket, g_inet_socket_address_new_from_string("127.0.0.1", 0), FALSE, NULL)) die(task);
    g_socket_set_blocking(socket, FALSE);
    GSource *source = g_socket_create_source(socket, G_IO_IN, NULL);
    g_source_set_callback(source, G_SOURCE_FUNC(datagrams), GINT_TO_POINTER(!strcmp(task, "udp")), NULL);
    g_source_attach(source, NULL);
    return g_inet_socket_address_get_port(G_INET_SOCKET_ADDRESS(g_socket_get_local_address(socket, NULL)));
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    if (!strcmp(argv[1], "foreign")) foreign();
    int port = g_str_has_prefix(argv[1], "udp") ? udp(argv[1]) : start(argv[2], argv[1]);
    printf("%d %d %d\n", port, getpid(), argc > 3 ? start("tcp", "echo") : 0);
    fflush(stdout);
    if (argc > 3) watch(atof(argv[3]));
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
