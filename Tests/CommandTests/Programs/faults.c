// SPDX-License-Identifier: MIT
/* Preloaded into a program: makes calls on certain files fail, or end the program, at a chosen one of them.
 *
 *     FAULT_PATH   part of the path of the files that are meant
 *     FAULT_CALLS  read, write, sync, name: which calls are meant, as a list with commas
 *     FAULT_KIND   error (with FAULT_ERRNO, from call FAULT_AT on), short (all reads and writes are of a few bytes),
 *                  eintr (every call fails with EINTR first), kill (SIGKILL before call FAULT_AT), none
 *     FAULT_LOG    file to which the number of calls is written at exit */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char * setting(const char * name) {
    const char * value = getenv(name);
    return value ? value : "";
}

static int is(const char * name, const char * value) { return strcmp(setting(name), value) == 0; }

static atomic_int calls;
static _Thread_local int interrupted;

/* What happens to this call: 0 nothing, 1 it fails with errno set. */
static int fault(const char * kind) {
    int call, at = atoi(setting("FAULT_AT"));
    if (!strstr(setting("FAULT_CALLS"), kind)) return 0;
    if (is("FAULT_KIND", "eintr")) {
        interrupted = !interrupted;
        errno = EINTR;
        return interrupted;
    }
    call = atomic_fetch_add(&calls, 1) + 1;
    if (at == 0 || call < at) return 0;
    if (is("FAULT_KIND", "kill")) raise(SIGKILL);
    if (!is("FAULT_KIND", "error")) return 0;
    errno = atoi(setting("FAULT_ERRNO"));
    return 1;
}

static int is_meant(int fd) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0 || !*setting("FAULT_PATH")) return 0;
    path[length] = 0;
    return strstr(path, setting("FAULT_PATH")) != NULL;
}

static size_t shortened(size_t count) {
    size_t most = 1 + (size_t) atomic_load(&calls) % 4099;
    return is("FAULT_KIND", "short") && count > most ? most : count;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t pread(int fd, void * buffer, size_t count, off_t offset) {
    if (is_meant(fd)) {
        if (fault("read")) return -1;
        count = shortened(count);
    }
    return REAL(pread)(fd, buffer, count, offset);
}

ssize_t read(int fd, void * buffer, size_t count) {
    if (is_meant(fd)) {
        if (fault("read")) return -1;
        count = shortened(count);
    }
    return REAL(read)(fd, buffer, count);
}

ssize_t pwrite(int fd, const void * buffer, size_t count, off_t offset) {
    if (is_meant(fd)) {
        if (fault("write")) return -1;
        count = shortened(count);
    }
    return REAL(pwrite)(fd, buffer, count, offset);
}

ssize_t write(int fd, const void * buffer, size_t count) {
    if (is_meant(fd)) {
        if (fault("write")) return -1;
        count = shortened(count);
    }
    return REAL(write)(fd, buffer, count);
}

int fsync(int fd) { return is_meant(fd) && fault("sync") ? -1 : REAL(fsync)(fd); }

int linkat(int from, const char * old, int to, const char * path, int flags) {
    if (strstr(path, setting("FAULT_PATH")) && fault("name")) return -1;
    return REAL(linkat)(from, old, to, path, flags);
}

int rename(const char * from, const char * to) {
    if (strstr(to, setting("FAULT_PATH")) && fault("name")) return -1;
    return REAL(rename)(from, to);
}

__attribute__((destructor)) static void log_calls(void) {
    FILE * file = *setting("FAULT_LOG") ? fopen(setting("FAULT_LOG"), "w") : NULL;
    if (!file) return;
    fprintf(file, "%d\n", atomic_load(&calls));
    fclose(file);
}
