/* Loads a plugin on a thread that ends, unloads it, and runs the main loop to which it has attached sources. */
#include <dlfcn.h>
#include <glib.h>
#include <stdio.h>

static void *plugin;

static gpointer use_plugin(gpointer path) {
    plugin = dlopen(path, RTLD_NOW);
    if (plugin == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return GINT_TO_POINTER(-1);
    }
    return GINT_TO_POINTER(((int (*)(void))dlsym(plugin, "plugin_start"))());
}

int main(int count, char **arguments) {
    GThread *thread = g_thread_new("plugin", use_plugin, arguments[count - 1]);
    int port = GPOINTER_TO_INT(g_thread_join(thread));
    if (port <= 0 || dlclose(plugin) != 0) return 1;
    for (int turn = 0; turn < 100; turn++) g_main_context_iteration(NULL, FALSE);
    printf("still there\n");
    return 0;
}
