// The HTTP client of the benchmarks on libcurl's easy interface: `libcurl_http URL [CA]`. For each task that is written to it, `PATH COUNT`,
// it prints the CPU time that took, in nanoseconds. One handle for all.

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static size_t drop(char *bytes, size_t size, size_t count, void *data) {
    (void)bytes, (void)data;
    return size * count;
}

static long long cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURL *curl = curl_easy_init();
    char path[64], url[1024];
    int times;
    while (scanf("%63s %d", path, &times) == 2) {
        snprintf(url, sizeof url, "%s%s", arguments[1], path);
        curl_easy_setopt(curl, CURLOPT_URL, url);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
        curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
        curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 100L << 10);
        if (count > 2) curl_easy_setopt(curl, CURLOPT_CAINFO, arguments[2]);
        long long before = cpu();
        for (int n = 0; n < times; n++) {
            CURLcode code = curl_easy_perform(curl);
            if (code != CURLE_OK) {
                fprintf(stderr, "libcurl: %s\n", curl_easy_strerror(code));
                return 1;
            }
        }
        printf("%lld\n", cpu() - before);
        fflush(stdout);
    }
    curl_easy_cleanup(curl);
    return 0;
}
