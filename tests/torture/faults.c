/* Counts the changes that a process makes to files below a folder, and fails the N-th, or all from the N-th on.
 *
 *     cc -shared -fPIC -o faults.so faults.c -ldl      and then      LD_PRELOAD=faults.so python ...
 *
 * `fail_at` arms it for this process. Counted are opening to create, writing, truncating, forcing to disk,
 * renaming, linking and making a folder: what a disk that is full, over quota or broken refuses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[4096], where[8192];
static long number, seen;
static int code, forever;

void fail_at(const char *folder, long nth, int error, int from_then_on) {
    snprintf(below, sizeof below, "%s", folder);
    number = nth, code = error, forever = from_then_on, seen = 0;
    where[0] = 0;
}

/* How many changes there were, and which one failed first. */
long changes(void) { return seen; }
const char *failed(void) { return where; }

static int fails(const char *what, const char *path) {
    if (!below[0] || strncmp(path, below, strlen(below))) return 0;
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (number <= 0 || (now != number && !(forever && now > number))) return 0;
    if (!where[0]) snprintf(where, sizeof where, "%s %s", what, path);
    errno = code;
    return 1;
}

static int fails_fd(const char *what, int fd) {
    char link[64], path[4096];
    if (!below[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(what, path);
}

static int fails_at(const char *what, int folder, const char *path) {
    char link[64], full[8192];
    if (!below[0]) return 0;
    if (path[0] == '/') return fails(what, path);
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, full, 4095);
    if (size < 0) return 0;
    snprintf(full + size, sizeof full - size, "/%s", path);
    return fails(what, full);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define BY_FD(type, name, parameters, arguments)                                                                   \
    type name parameters { return fails_fd(#name, fd) ? (type)-1 : REAL(name) arguments; }

BY_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
BY_FD(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BY_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
BY_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
BY_FD(int, ftruncate, (int fd, off_t size), (fd, size))
BY_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))
BY_FD(int, fsync, (int fd), (fd))
BY_FD(int, fdatasync, (int fd), (fd))

#define OPEN(name, folder, parameters, ...)                                                                        \
    int name parameters {                                                                                          \
        mode_t mode = 0;                                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                       \
            va_list more;                                                                                          \
            va_start(more, flags);                                                                                 \
            mode = va_arg(more, mode_t);                                                                           \
            va_end(more);                                                                                          \
        }                                                                                                          \
        if (flags & O_CREAT && fails_at("create", folder, path)) return -1;                                        \
        return REAL(name)(__VA_ARGS__, mode);                                                                      \
    }

OPEN(open, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPEN(openat, folder, (int folder, const char *path, int flags, ...), folder, path, flags)
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), folder, path, flags)

int mkdir(const char *path, mode_t mode) {
    return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    return fails_at("mkdir", folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}
int rename(const char *from, const char *to) {
    return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int from_folder, const char *from, int folder, const char *to) {
    return fails_at("rename", folder, to) ? -1 : REAL(renameat)(from_folder, from, folder, to);
}
int renameat2(int from_folder, const char *from, int folder, const char *to, unsigned flags) {
    return fails_at("rename", folder, to) ? -1 : REAL(renameat2)(from_folder, from, folder, to, flags);
}
int link(const char *from, const char *to) { return fails_at("link", AT_FDCWD, to) ? -1 : REAL(link)(from, to); }
