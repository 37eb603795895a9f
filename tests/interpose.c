/* Counts what a process does to files, and makes chosen calls fail, or be its last. To be preloaded.
 *
 * Built and steered by crashing.py, through the environment:
 *   INTERPOSE_ROOT   only calls on files below this folder matter
 *   INTERPOSE_LOG    a file that gets a line for each of them, "CALL PATH", before it is done
 *   INTERPOSE_KILL   the process is killed in place of the call of this number, counted from 1
 *   INTERPOSE_FAIL   "CALL PART ERRNO FIRST COUNT": calls of that name ("write" is pwrite, "fsync" fdatasync
 *                    too) on a path that contains PART fail, COUNT of them from the FIRST on
 *   INTERPOSE_WHILE  ... but only while this file exists
 * Numbers are counted over all threads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 8192

static const char *root, *when;
static int log_fd = -1;
static long kill_at, count, fail_errno, fail_first, fail_count, failures;
static char fail_call[32], fail_part[1024];

/* A process that was forked from one that is not steered reads its environment anew with this. */
__attribute__((constructor)) void interpose_arm(void) {
    const char *text;
    root = getenv("INTERPOSE_ROOT");
    when = getenv("INTERPOSE_WHILE");
    kill_at = (text = getenv("INTERPOSE_KILL")) ? atol(text) : 0;
    fail_call[0] = 0;
    if ((text = getenv("INTERPOSE_FAIL")))
        sscanf(text, "%31s %1023s %ld %ld %ld", fail_call, fail_part, &fail_errno, &fail_first, &fail_count);
    if ((text = getenv("INTERPOSE_LOG")))
        log_fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    count = failures = 0;
}

static void path_of(int fd, const char *name, char *path) {
    char link[64];
    ssize_t length = 0;
    if (!name || name[0] != '/') {
        if (fd == AT_FDCWD)
            strcpy(link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = readlink(link, path, LONGEST / 2);
        if (length < 0)
            length = 0;
    }
    snprintf(path + length, LONGEST - length, "%s%s", name && length ? "/" : "", name ? name : "");
}

/* Note the call that is about to be made; 0, or the error number that it fails with. */
static int noted(const char *call, int fd, const char *name) {
    char path[LONGEST], line[LONGEST + 64];
    if (!root)
        return 0;
    int before = errno;
    path_of(fd, name, path);
    if (strncmp(path, root, strlen(root)) != 0 || path[strlen(root)] != '/') {
        errno = before;
        return 0;
    }
    if (log_fd >= 0) {
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        syscall(SYS_write, log_fd, line, length);
    }
    if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    int failing = fail_call[0] && strcmp(call, fail_call) == 0 && strstr(path, fail_part) &&
                  (!when || syscall(SYS_faccessat, AT_FDCWD, when, F_OK) == 0);
    errno = before;
    if (failing) {
        long number = __atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
        if (number >= fail_first && number < fail_first + fail_count)
            return (int)fail_errno;
    }
    return 0;
}

#define INTERPOSED(type, symbol, parameters, arguments, call, fd, name)                                     \
    type symbol parameters {                                                                                \
        static type(*real) parameters;                                                                      \
        if (!real)                                                                                          \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #symbol);                                           \
        int error = noted(call, fd, name);                                                                  \
        if (error) {                                                                                        \
            errno = error;                                                                                  \
            return -1;                                                                                      \
        }                                                                                                   \
        return real arguments;                                                                              \
    }

INTERPOSED(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), "write", fd, NULL)
INTERPOSED(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), "write",
           fd, NULL)
INTERPOSED(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
           "write", fd, NULL)
INTERPOSED(int, fsync, (int fd), (fd), "fsync", fd, NULL)
INTERPOSED(int, fdatasync, (int fd), (fd), "fsync", fd, NULL)
INTERPOSED(int, ftruncate, (int fd, off_t size), (fd, size), "ftruncate", fd, NULL)
INTERPOSED(int, ftruncate64, (int fd, off64_t size), (fd, size), "ftruncate", fd, NULL)
INTERPOSED(int, fchmod, (int fd, mode_t mode), (fd, mode), "fchmod", fd, NULL)
INTERPOSED(int, futimens, (int fd, const struct timespec times[2]), (fd, times), "utime", fd, NULL)
INTERPOSED(int, utimensat, (int fd, const char *name, const struct timespec times[2], int flags),
           (fd, name, times, flags), "utime", fd, name)
INTERPOSED(int, rename, (const char *old, const char *new), (old, new), "rename", AT_FDCWD, old)
INTERPOSED(int, renameat, (int fd, const char *old, int to, const char *new), (fd, old, to, new), "rename",
           fd, old)
INTERPOSED(int, renameat2, (int fd, const char *old, int to, const char *new, unsigned flags),
           (fd, old, to, new, flags), "rename", fd, old)
INTERPOSED(int, link, (const char *old, const char *new), (old, new), "link", AT_FDCWD, new)
INTERPOSED(int, linkat, (int fd, const char *old, int to, const char *new, int flags),
           (fd, old, to, new, flags), "link", to, new)
INTERPOSED(int, unlink, (const char *name), (name), "unlink", AT_FDCWD, name)
INTERPOSED(int, unlinkat, (int fd, const char *name, int flags), (fd, name, flags), "unlink", fd, name)
INTERPOSED(int, mkdir, (const char *name, mode_t mode), (name, mode), "mkdir", AT_FDCWD, name)
INTERPOSED(int, mkdirat, (int fd, const char *name, mode_t mode), (fd, name, mode), "mkdir", fd, name)
INTERPOSED(int, rmdir, (const char *name), (name), "rmdir", AT_FDCWD, name)

/* Opening counts where it may make or empty a file. */
#define OPENING(symbol, parameters, arguments, fd)                                                          \
    int symbol parameters {                                                                                 \
        static int(*real) parameters;                                                                       \
        mode_t mode = 0;                                                                                    \
        if (!real)                                                                                          \
            real = (int(*) parameters)dlsym(RTLD_NEXT, #symbol);                                            \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                \
            va_list rest;                                                                                   \
            va_start(rest, flags);                                                                          \
            mode = va_arg(rest, mode_t);                                                                    \
            va_end(rest);                                                                                   \
        }                                                                                                   \
        int error = flags & (O_CREAT | O_TRUNC) ? noted("open", fd, name) : 0;                              \
        if (error) {                                                                                        \
            errno = error;                                                                                  \
            return -1;                                                                                      \
        }                                                                                                   \
        return real arguments;                                                                              \
    }

OPENING(open, (const char *name, int flags, ...), (name, flags, mode), AT_FDCWD)
OPENING(open64, (const char *name, int flags, ...), (name, flags, mode), AT_FDCWD)
OPENING(openat, (int fd, const char *name, int flags, ...), (fd, name, flags, mode), fd)
OPENING(openat64, (int fd, const char *name, int flags, ...), (fd, name, flags, mode), fd)
