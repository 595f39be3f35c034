// The FTP client of the benchmarks on libcurl: `libcurl URL DIRECTORY [CA]`. For each task that is written to it, it prints the
// CPU time that took, in nanoseconds. One handle and one session for all, and the buffer sizes of the program curl.

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILES 500

static CURL *curl;
static CURLM *multi;
static const char *url, *directory, *ca;

static void fail(const char *what) {
    fprintf(stderr, "libcurl: %s\n", what);
    exit(1);
}

static void begin(const char *remote) {
    char address[1024];
    snprintf(address, sizeof address, "%s/%s", url, remote);
    // Keeps the session.
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, address);
    curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 100L << 10);
    // One command for each file, as the others have it.
    curl_easy_setopt(curl, CURLOPT_FTP_FILEMETHOD, (long)CURLFTPMETHOD_NOCWD);
    if (ca) {
        curl_easy_setopt(curl, CURLOPT_USE_SSL, (long)CURLUSESSL_ALL);
        curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    }
}

// As curl_easy_perform does it, which at times sleeps a second for nothing, though.
static void end(void) {
    int running = 1, left;
    curl_multi_add_handle(multi, curl);
    while (!curl_multi_perform(multi, &running) && running) curl_multi_poll(multi, NULL, 0, 20, NULL);
    CURLMsg *message = curl_multi_info_read(multi, &left);
    if (!message) fail("no result");
    if (message->data.result != CURLE_OK) fail(curl_easy_strerror(message->data.result));
    curl_multi_remove_handle(multi, curl);
}

static FILE *open_local(const char *name, const char *mode) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, mode);
    if (!file) fail(path);
    return file;
}

static void down(const char *remote, const char *local) {
    FILE *file = open_local(local, "w");
    begin(remote);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, file);
    end();
    if (fclose(file)) fail("fclose");
}

static void up(const char *local, const char *remote) {
    FILE *file = open_local(local, "r");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    begin(remote);
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_READDATA, file);
    curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)size);
    end();
    fclose(file);
}

struct text {
    char *bytes;
    size_t length;
};

static size_t append(char *bytes, size_t size, size_t count, void *data) {
    struct text *text = data;
    text->bytes = realloc(text->bytes, text->length + size * count);
    memcpy(text->bytes + text->length, bytes, size * count);
    text->length += size * count;
    return size * count;
}

static void names(void) {
    struct text text = {0};
    begin("names/");
    curl_easy_setopt(curl, CURLOPT_DIRLISTONLY, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &text);
    end();
    free(text.bytes);
}

static long long cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void run(const char *task) {
    if (!strcmp(task, "down")) {
        down("big", "big");
    } else if (!strcmp(task, "up")) {
        up("big", "up/libcurl");
    } else if (!strcmp(task, "names")) {
        names();
    } else if (!strcmp(task, "files")) {
        for (int number = 0; number < FILES; number++) {
            char remote[32], local[32];
            snprintf(remote, sizeof remote, "files/%d", number);
            snprintf(local, sizeof local, "%d", number);
            down(remote, local);
        }
    } else {
        fail(task);
    }
}

int main(int count, char **arguments) {
    if (count < 3) fail("URL DIRECTORY [CA]");
    url = arguments[1];
    directory = arguments[2];
    ca = count > 3 ? arguments[3] : NULL;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    curl = curl_easy_init();
    multi = curl_multi_init();
    char task[32];
    while (scanf("%31s", task) == 1) {
        long long before = cpu();
        run(task);
        printf("%lld\n", cpu() - before);
        fflush(stdout);
    }
    curl_easy_cleanup(curl);
    curl_multi_cleanup(multi);
    return 0;
}
