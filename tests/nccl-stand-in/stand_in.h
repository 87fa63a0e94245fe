/* A stand-in for libnccl.so, for tests on machines without a GPU.
 *
 * The same C interface, as far as ptv2 uses it, over host pointers and a file that the processes map. What the real
 * library answers with a hang, a crash or wrong numbers is an error here: counts or types that do not match, a send
 * outside of a group, a send to itself without its receive, an operation while another is in progress, a communicator
 * that was ended.
 *
 * Faults on demand stand in PTV2_STAND_IN, for example `hang=3,abort-fails`:
 *
 *   refuse=NAME      that function fails
 *   late=MS          this process comes to the meeting of the ranks so many milliseconds late
 *   absent           it never comes, although its call returns
 *   async-error=N    the N-th group of operations of this process fails in the middle
 *   hang=N           the N-th group stops in the middle, until it is aborted
 *   stuck=N          the N-th call that starts operations does not return, until it is aborted
 *   abort-fails      an abort does its work and says that it failed
 *   abort-hangs=MS   an abort takes so many milliseconds
 *
 * Where PTV2_STAND_IN_CALLS names a file, each call of ncclGetUniqueId leaves its name there, a line each; and so do
 * `hang` and `stuck` when they begin.
 *
 * The files are made in PTV2_STAND_IN_DIR, by default in /dev/shm. The last rank that comes removes the name.
 */
#ifndef STAND_IN_H
#define STAND_IN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The codes of ncclResult_t that are used here. */
enum {
    SUCCESS = 0,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    IN_PROGRESS = 7,
};

/* ncclFloat32 and ncclSum: all that is computed with. */
enum { FLOAT32 = 7, SUM = 0 };

enum { RANKS_MAX = 8, LANE_BYTES = 1 << 16, NAME_BYTES = 128 };

/* The bytes from one rank to another that were written and not yet read. One writes, one reads. */
struct lane {
    _Atomic uint64_t written;
    _Atomic uint64_t read;
    unsigned char bytes[LANE_BYTES];
};

/* What the processes of a communicator share. */
struct segment {
    _Atomic uint32_t joined;
    _Atomic uint32_t world;
    struct lane lanes[RANKS_MAX][RANKS_MAX]; /* from, to */
};

/* What goes before the elements of each transfer, so that both sides can be held against each other. */
struct label {
    uint64_t count;
    uint32_t type;
    uint32_t operation;
};

enum operation { POINT_TO_POINT = 1, ALL_GATHER = 2, ALL_REDUCE = 3 };

/* One direction between this rank and a peer. */
struct transfer {
    bool sends;
    int peer;
    unsigned char *data;
    size_t bytes;
    struct label label; /* what this side says */
    struct label heard; /* what a receiver was told */
    size_t moved;       /* of label and data */
};

/* Sums what the other ranks sent, once all of it is here. */
struct sum {
    const float *own;
    float *others; /* world times count; the own place is unused */
    float *out;
    size_t count;
};

/* What was said between a start and an end of a group. */
struct group {
    struct communicator *of;
    struct transfer *transfers;
    size_t count;
    struct sum sum;
    int error;
};

struct communicator {
    _Atomic uint64_t alive;
    int rank, world;
    char name[NAME_BYTES];
    struct segment *shared;
    _Atomic int state;
    _Atomic bool ending;
    bool absent;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct group work;
    bool has_work;
};

/* faults.c: the number after a fault's name, 0 without one, -1 where it is not wanted. */
long fault(const char *name);
/* Whether the next of a kind is the one that the fault names. */
bool is_turn(const char *name, _Atomic long *count);
/* Whether this function is to fail. */
bool is_refused(const char *function);
/* Leaves a line for a call, or what has begun, where somebody looks for it. */
void leave_line(const char *what);
/* Notes what ncclGetLastError says, and gives the code. */
int failed(int code, const char *format, ...);
const char *last_failure(void);
/* Sleeps. */
void pause_us(long us);

/* transfers.c: the thread of a communicator. */
void *serve(void *communicator);
/* Makes the file of a new communicator, and writes its name. */
int make_segment(char name[NAME_BYTES]);

#endif
