/* Runs a program and writes down, in order, everything it changes in the files below one directory.
 *
 *     watch JOURNAL DIRECTORY PROGRAM ARGUMENT...
 *
 * Every thread is traced; a seccomp filter lets only those system calls stop that change files or make them durable, so
 * that nothing is missed, whichever library makes the call. A record (journal.rs reads it) is written before the thread
 * that made the call goes on: what a program has told anybody stands in the journal.
 *
 * A record: u32 length of the rest | u8 kind | u64 inode | u64 a | u64 b | u16 length, path | u16 length, path | data.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4096

struct thread {
    pid_t id;
    long nr;
    uint64_t arg[6];
    uint64_t seen; /* length of the journal when the call began */
    char path[2][PATH_MAX];
};

static struct thread *threads[THREADS];
static int count;
static int journal;
static uint64_t length;
static const char *root;
static size_t root_len;
static volatile pid_t program;

static long trace(int request, pid_t thread, void *addr, void *data) {
    return syscall(SYS_ptrace, request, thread, addr, data);
}

static void die(const char *what) {
    perror(what);
    exit(125);
}

/* --- the filter --- */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_ARG(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define GIVE(what) BPF_STMT(BPF_RET | BPF_K, what)
/* Skips the next `n` instructions unless the call is this one. */
#define UNLESS(nr, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, n)
#define STOP(nr) UNLESS(nr, 1), GIVE(SECCOMP_RET_TRACE)
#define STOP_IF(nr, n, bits) \
    UNLESS(nr, 4), LOAD_ARG(n), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1), GIVE(SECCOMP_RET_TRACE), \
        GIVE(SECCOMP_RET_ALLOW)

static void filter(void) {
    static struct sock_filter code[] = {
        LOAD(nr),
        STOP(SYS_write), STOP(SYS_writev), STOP(SYS_pwrite64), STOP(SYS_pwritev), STOP(SYS_pwritev2),
        STOP(SYS_fsync), STOP(SYS_fdatasync), STOP(SYS_sync_file_range), STOP(SYS_sync), STOP(SYS_syncfs),
        STOP(SYS_ftruncate), STOP(SYS_truncate), STOP(SYS_fallocate),
        STOP(SYS_unlinkat), STOP(SYS_mkdirat), STOP(SYS_renameat2), STOP(SYS_linkat), STOP(SYS_symlinkat),
        STOP(SYS_copy_file_range), STOP(SYS_sendfile), STOP(SYS_splice), STOP(SYS_msync), STOP(SYS_openat2),
        STOP(SYS_io_uring_setup),
#ifdef SYS_open
        STOP(SYS_creat), STOP(SYS_unlink), STOP(SYS_rmdir), STOP(SYS_mkdir), STOP(SYS_rename), STOP(SYS_link),
        STOP(SYS_symlink),
        STOP_IF(SYS_open, 1, O_CREAT | O_TRUNC | O_DSYNC | O_DIRECT),
#endif
#ifdef SYS_renameat
        STOP(SYS_renameat),
#endif
        STOP_IF(SYS_openat, 2, O_CREAT | O_TRUNC | O_DSYNC | O_DIRECT),
        /* Shared and writable; what is mapped must be a file. */
        UNLESS(SYS_mmap, 6), LOAD_ARG(2), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_WRITE, 0, 3), LOAD_ARG(3),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_SHARED, 0, 1), GIVE(SECCOMP_RET_TRACE), GIVE(SECCOMP_RET_ALLOW),
        /* A program that hides its memory would hide what it writes: it is told that it does. */
        UNLESS(SYS_prctl, 4), LOAD_ARG(0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PR_SET_DUMPABLE, 0, 1),
        GIVE(SECCOMP_RET_ERRNO | 0), GIVE(SECCOMP_RET_ALLOW),
        GIVE(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof code / sizeof *code, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("watch: no_new_privs");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) die("watch: seccomp");
}

/* --- what is known of a thread --- */

static struct thread *known(pid_t id, int *fresh) {
    for (int i = 0; i < count; i++)
        if (threads[i]->id == id) return threads[i];
    if (count == THREADS) die("watch: too many threads");
    struct thread *thread = calloc(1, sizeof *thread);
    if (!thread) die("watch: memory");
    thread->id = id;
    *fresh = 1;
    return threads[count++] = thread;
}

static void forget(pid_t id) {
    for (int i = 0; i < count; i++)
        if (threads[i]->id == id) {
            free(threads[i]);
            threads[i] = threads[--count];
            return;
        }
}

static int read_memory(pid_t thread, uint64_t at, void *to, size_t len) {
    struct iovec local = { to, len }, remote = { (void *)(uintptr_t)at, len };
    return process_vm_readv(thread, &local, 1, &remote, 1, 0) == (ssize_t)len ? 0 : -1;
}

static int below(const char *path) {
    return strncmp(path, root, root_len) == 0 && (path[root_len] == 0 || path[root_len] == '/');
}

/* Where a file that is open lies; empty unless it is below the directory. */
static int file_of(struct thread *thread, int file, char *path, uint64_t *inode) {
    char link[64];
    struct stat found;
    snprintf(link, sizeof link, "/proc/%d/fd/%d", thread->id, file);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    path[len < 0 ? 0 : len] = 0;
    if (len < 0 || !below(path) || stat(link, &found)) return 0;
    *inode = found.st_ino;
    return 1;
}

/* Makes the path at an address whole. */
static void path_at(struct thread *thread, int directory, uint64_t at, char *path) {
    char name[PATH_MAX], link[64];
    size_t len = 0;
    do {
        /* Up to the end of a page, for the next may not be there. */
        size_t step = 4096 - (at + len) % 4096;
        if (step > sizeof name - len) step = sizeof name - len;
        if (step == 0 || read_memory(thread->id, at + len, name + len, step)) die("watch: a path cannot be read");
        len += step;
    } while (!memchr(name, 0, len));
    if (name[0] == '/') {
        strcpy(path, name);
        return;
    }
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/%d/cwd", thread->id);
    else snprintf(link, sizeof link, "/proc/%d/fd/%d", thread->id, directory);
    ssize_t base = readlink(link, path, PATH_MAX - 1);
    if (base < 0) die("watch: a directory cannot be read");
    snprintf(path + base, PATH_MAX - base, "/%s", name);
}

/* --- records --- */

static void record(char kind, uint64_t inode, uint64_t a, uint64_t b, const char *one, const char *two,
                   const void *data, size_t data_len) {
    uint16_t one_len = strlen(one), two_len = strlen(two);
    uint32_t len = 1 + 3 * 8 + 2 + one_len + 2 + two_len + data_len;
    struct iovec parts[] = {
        { &len, 4 }, { &kind, 1 }, { &inode, 8 }, { &a, 8 }, { &b, 8 }, { &one_len, 2 }, { (void *)one, one_len },
        { &two_len, 2 }, { (void *)two, two_len }, { (void *)data, data_len },
    };
    if (writev(journal, parts, 10) != (ssize_t)len + 4) die("watch: the journal cannot be written");
    length += len + 4;
}

static void unforeseen(struct thread *thread, const char *path) {
    record('X', 0, thread->nr, 0, path, "", "", 0);
}

/* At the beginning of a call: names, before they change. */
static void begin(struct thread *thread) {
    uint64_t *arg = thread->arg;
    thread->seen = length;
    thread->path[0][0] = thread->path[1][0] = 0;
    switch (thread->nr) {
#ifdef SYS_open
    case SYS_open: case SYS_creat: case SYS_unlink: case SYS_rmdir: case SYS_mkdir:
        path_at(thread, AT_FDCWD, arg[0], thread->path[0]);
        break;
    case SYS_rename: case SYS_link:
        path_at(thread, AT_FDCWD, arg[0], thread->path[0]);
        path_at(thread, AT_FDCWD, arg[1], thread->path[1]);
        break;
    case SYS_symlink:
        path_at(thread, AT_FDCWD, arg[1], thread->path[0]);
        break;
#endif
    case SYS_truncate:
        path_at(thread, AT_FDCWD, arg[0], thread->path[0]);
        break;
    case SYS_symlinkat:
        path_at(thread, arg[1], arg[2], thread->path[0]);
        break;
    case SYS_openat: case SYS_openat2: case SYS_unlinkat: case SYS_mkdirat:
        path_at(thread, arg[0], arg[1], thread->path[0]);
        break;
#ifdef SYS_renameat
    case SYS_renameat:
#endif
    case SYS_renameat2: case SYS_linkat:
        path_at(thread, arg[0], arg[1], thread->path[0]);
        path_at(thread, arg[2], arg[3], thread->path[1]);
        break;
    }
}

static void wrote(struct thread *thread, uint64_t inode, const char *path, uint64_t at, const struct iovec *parts,
                  int count, size_t len) {
    char *data = malloc(len ? len : 1);
    size_t have = 0;
    if (!data) die("watch: memory");
    for (int i = 0; i < count && have < len; i++) {
        size_t step = parts[i].iov_len < len - have ? parts[i].iov_len : len - have;
        if (read_memory(thread->id, (uintptr_t)parts[i].iov_base, data + have, step))
            die("watch: what was written cannot be read");
        have += step;
    }
    record('W', inode, at, 0, path, "", data, have);
    free(data);
}

/* Where the next write of an open file goes, and how it was opened. */
static void position(struct thread *thread, int file, uint64_t *at, unsigned *flags) {
    char name[64], line[128];
    snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", thread->id, file);
    FILE *info = fopen(name, "r");
    if (!info) die("watch: fdinfo");
    while (fgets(line, sizeof line, info)) {
        unsigned long long pos;
        if (sscanf(line, "pos: %llu", &pos) == 1) *at = pos;
        sscanf(line, "flags: %o", flags);
    }
    fclose(info);
}

static void written(struct thread *thread, size_t len) {
    uint64_t *arg = thread->arg, inode, at = 0;
    struct iovec parts[IOV_MAX];
    int count = 1;
    unsigned flags = 0;
    char path[PATH_MAX];
    if (!file_of(thread, arg[0], path, &inode)) return;
    if (thread->nr == SYS_write || thread->nr == SYS_pwrite64) {
        parts[0] = (struct iovec){ (void *)(uintptr_t)arg[1], len };
    } else {
        count = arg[2];
        if (count > IOV_MAX || read_memory(thread->id, arg[1], parts, count * sizeof *parts))
            die("watch: a vector cannot be read");
    }
    position(thread, arg[0], &at, &flags);
    if (thread->nr == SYS_write || thread->nr == SYS_writev) at -= len;
    else if (flags & O_APPEND) return unforeseen(thread, path);
    else at = arg[3];
    if (thread->nr == SYS_pwritev2 && arg[5]) return unforeseen(thread, path);
    wrote(thread, inode, path, at, parts, count, len);
}

/* At the end of a call that succeeded. */
static void end(struct thread *thread, int64_t result) {
    uint64_t *arg = thread->arg, inode = 0;
    const char *one = thread->path[0], *two = thread->path[1];
    char path[PATH_MAX] = "";
    switch (thread->nr) {
    case SYS_write: case SYS_writev: case SYS_pwrite64: case SYS_pwritev: case SYS_pwritev2:
        if (result > 0) written(thread, result);
        return;
    case SYS_fsync: case SYS_fdatasync:
        if (file_of(thread, arg[0], path, &inode)) record('S', inode, thread->seen, 0, path, "", "", 0);
        return;
    case SYS_sync_file_range:
        if (file_of(thread, arg[0], path, &inode)) record('G', inode, arg[1], arg[2], path, "", "", 0);
        return;
    case SYS_ftruncate:
        if (file_of(thread, arg[0], path, &inode)) record('T', inode, arg[1], 0, path, "", "", 0);
        return;
    case SYS_fallocate:
        if (!file_of(thread, arg[0], path, &inode)) return;
        if (arg[1]) return unforeseen(thread, path);
        return record('A', inode, arg[2] + arg[3], 0, path, "", "", 0);
#ifdef SYS_open
    case SYS_open:
#endif
    case SYS_openat: {
        uint64_t flags = arg[thread->nr == SYS_openat ? 2 : 1];
        if (!file_of(thread, result, path, &inode)) return;
        if (flags & (O_DSYNC | O_DIRECT) || (flags & O_TMPFILE) == O_TMPFILE) return unforeseen(thread, path);
        return record('O', inode, (flags & O_TRUNC) != 0, 0, path, "", "", 0);
    }
#ifdef SYS_open
    case SYS_unlink:
        if (below(one)) record('U', 0, 0, 0, one, "", "", 0);
        return;
    case SYS_rmdir:
        if (below(one)) record('E', 0, 0, 0, one, "", "", 0);
        return;
    case SYS_mkdir:
        if (below(one)) record('D', 0, 0, 0, one, "", "", 0);
        return;
    case SYS_rename:
#endif
#ifdef SYS_renameat
    case SYS_renameat:
#endif
    rename:
        if (below(one) != below(two)) unforeseen(thread, two);
        else if (below(one)) record('R', 0, 0, 0, one, two, "", 0);
        return;
    case SYS_renameat2:
        if (arg[4] & ~1u) return unforeseen(thread, two);
        goto rename;
    case SYS_unlinkat:
        if (below(one)) record(arg[2] & AT_REMOVEDIR ? 'E' : 'U', 0, 0, 0, one, "", "", 0);
        return;
    case SYS_mkdirat:
        if (below(one)) record('D', 0, 0, 0, one, "", "", 0);
        return;
    case SYS_mmap:
        if ((int)arg[4] >= 0 && file_of(thread, arg[4], path, &inode)) unforeseen(thread, path);
        return;
    case SYS_msync: case SYS_sync: case SYS_syncfs:
        /* Anonymous memory aside there is nothing to msync; more durable than is known is only too strict. */
        return;
    case SYS_copy_file_range:
        if (file_of(thread, arg[2], path, &inode)) unforeseen(thread, path);
        return;
    case SYS_sendfile:
        if (file_of(thread, arg[0], path, &inode)) unforeseen(thread, path);
        return;
    case SYS_splice:
        if (file_of(thread, arg[2], path, &inode)) unforeseen(thread, path);
        return;
    case SYS_openat2:
        if (file_of(thread, result, path, &inode)) unforeseen(thread, path);
        return;
    case SYS_io_uring_setup:
        return unforeseen(thread, "io_uring");
    default: /* creat, truncate, links */
        if (below(one) || below(two)) unforeseen(thread, one);
    }
}

/* --- the loop --- */

static void forward(int signal) {
    if (program > 0) kill(program, signal);
}

static void stopped(pid_t id, int status) {
    int fresh = 0, event = status >> 16, signal = WSTOPSIG(status);
    struct thread *thread = known(id, &fresh);
    struct ptrace_syscall_info info;
    if (event == PTRACE_EVENT_SECCOMP || signal == (SIGTRAP | 0x80)) {
        if (trace(PTRACE_GET_SYSCALL_INFO, id, (void *)sizeof info, &info) < 0) return; /* it was killed */
        if (event == PTRACE_EVENT_SECCOMP) {
            thread->nr = info.seccomp.nr;
            for (int i = 0; i < 6; i++) thread->arg[i] = info.seccomp.args[i];
            begin(thread);
            trace(PTRACE_SYSCALL, id, 0, 0); /* on to its end */
            return;
        }
        if (!info.exit.is_error) end(thread, info.exit.rval);
        signal = 0;
    } else if (event || (fresh && signal == SIGSTOP)) {
        signal = 0;
    }
    trace(PTRACE_CONT, id, 0, (void *)(long)signal);
}

int main(int argc, char **argv) {
    if (argc < 4) return 125;
    root = argv[2];
    root_len = strlen(root);
    pid_t child = fork();
    if (child < 0) die("watch: fork");
    if (child == 0) {
        if (trace(PTRACE_TRACEME, 0, 0, 0)) die("watch: ptrace");
        raise(SIGSTOP);
        filter();
        execvp(argv[3], argv + 3);
        die("watch: exec");
    }
    journal = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) die("watch: the journal cannot be opened");
    length = lseek(journal, 0, SEEK_END);
    int status;
    if (waitpid(child, &status, __WALL) != child || !WIFSTOPPED(status)) die("watch: the program did not start");
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
                   PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
    if (trace(PTRACE_SETOPTIONS, child, 0, (void *)options)) die("watch: ptrace options");
    int fresh;
    known(child, &fresh);
    program = child;
    struct sigaction action = { .sa_handler = forward, .sa_flags = SA_RESTART };
    for (int i = 0; i < 3; i++) sigaction((int[]){ SIGTERM, SIGINT, SIGHUP }[i], &action, 0);
    trace(PTRACE_CONT, child, 0, 0);
    for (;;) {
        pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0 && errno == EINTR) continue;
        if (id < 0) die("watch: wait");
        if (WIFSTOPPED(status)) {
            stopped(id, status);
            continue;
        }
        forget(id);
        if (id == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}
