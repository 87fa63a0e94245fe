/* The functions that nccl.h names, with the checks that the real library leaves to its caller. */
#define _GNU_SOURCE
#include "stand_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define REFUSE() \
    if (is_refused(__func__)) return SYSTEM_ERROR

static const uint64_t ALIVE = 0x616c697665;
static const unsigned MAGIC = 0xcafebeef;
enum { VERSION = 22809 };

typedef struct communicator *ncclComm_t;
typedef struct { char internal[NAME_BYTES]; } ncclUniqueId;
/* As far as it is looked at. */
typedef struct { size_t size; unsigned magic, version; int blocking; } ncclConfig_t;

static _Thread_local int depth;
static _Thread_local struct group open_group;

API int ncclGetVersion(int *version) {
    REFUSE();
    *version = VERSION;
    return SUCCESS;
}

API const char *ncclGetErrorString(int code) {
    switch (code) {
    case SUCCESS: return "no error";
    case SYSTEM_ERROR: return "unhandled system error";
    case INTERNAL_ERROR: return "internal error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case IN_PROGRESS: return "operation in progress";
    default: return "unknown result code";
    }
}

API const char *ncclGetLastError(ncclComm_t one) {
    (void)one;
    return last_failure();
}

/* Names that this process made and may have to take away. */
enum { NAMES_MAX = 64 };
static char names[NAMES_MAX][NAME_BYTES];
static _Atomic unsigned names_made;

__attribute__((destructor)) static void clear(void) {
    for (unsigned at = 0; at < NAMES_MAX; at++) {
        if (names[at][0] != '\0') {
            unlink(names[at]);
        }
    }
}

API int ncclGetUniqueId(ncclUniqueId *id) {
    leave_line(__func__);
    REFUSE();
    int made = make_segment(id->internal);
    if (made == SUCCESS) {
        memcpy(names[atomic_fetch_add(&names_made, 1) % NAMES_MAX], id->internal, NAME_BYTES);
    }
    return made;
}

static int check_alive(ncclComm_t one, const char *function) {
    if (one == NULL) {
        return failed(INVALID_ARGUMENT, "%s: no communicator", function);
    }
    if (atomic_load(&one->alive) != ALIVE) {
        fprintf(stderr, "%s: the communicator was ended before\n", function);
        return failed(INVALID_ARGUMENT, "%s: the communicator was ended before", function);
    }
    return SUCCESS;
}

API int ncclCommInitRankConfig(ncclComm_t *made, int world, ncclUniqueId id, int rank, ncclConfig_t *config) {
    REFUSE();
    if (made == NULL || world < 1 || world > RANKS_MAX || rank < 0 || rank >= world) {
        return failed(INVALID_ARGUMENT, "rank %d of %d", rank, world);
    }
    if (config == NULL || config->magic != MAGIC || config->size < sizeof *config || config->blocking != 0) {
        return failed(INVALID_ARGUMENT, "only non-blocking communicators are made here");
    }
    if (memchr(id.internal, 0, NAME_BYTES) == NULL || strstr(id.internal, "ptv2-nccl-") == NULL) {
        return failed(INVALID_ARGUMENT, "the id was not made here");
    }
    if (fault("late") > 0) {
        pause_us(fault("late") * 1000);
    }
    struct communicator *one = calloc(1, sizeof *one);
    if (one == NULL) {
        return failed(SYSTEM_ERROR, "out of memory");
    }
    one->rank = rank;
    one->world = world;
    one->absent = fault("absent") >= 0;
    memcpy(one->name, id.internal, NAME_BYTES);
    atomic_store(&one->state, IN_PROGRESS);
    atomic_store(&one->alive, ALIVE);
    pthread_mutex_init(&one->lock, NULL);
    pthread_cond_init(&one->wake, NULL);
    if (pthread_create(&one->thread, NULL, serve, one) != 0) {
        free(one);
        return failed(SYSTEM_ERROR, "no thread");
    }
    *made = one;
    return IN_PROGRESS;
}

API int ncclCommGetAsyncError(ncclComm_t one, int *state) {
    REFUSE();
    int alive = check_alive(one, __func__);
    if (alive == SUCCESS) {
        *state = atomic_load(&one->state);
    }
    return alive;
}

API int ncclCommCount(ncclComm_t one, int *count) {
    int alive = check_alive(one, __func__);
    if (alive == SUCCESS) {
        *count = one->world;
    }
    return alive;
}

/* The communicator itself stays, so that whoever uses it later is found out. */
static void end(ncclComm_t one) {
    pthread_mutex_lock(&one->lock);
    atomic_store(&one->ending, true);
    pthread_cond_signal(&one->wake);
    pthread_mutex_unlock(&one->lock);
    pthread_join(one->thread, NULL);
    atomic_store(&one->alive, 0);
    unlink(one->name);
    if (one->shared != NULL) {
        munmap(one->shared, sizeof(struct segment));
    }
}

API int ncclCommAbort(ncclComm_t one) {
    REFUSE();
    int alive = check_alive(one, __func__);
    if (alive != SUCCESS) {
        return alive;
    }
    if (fault("abort-hangs") > 0) {
        pause_us(fault("abort-hangs") * 1000);
    }
    end(one);
    return fault("abort-fails") >= 0 ? failed(INTERNAL_ERROR, "the abort was told to fail") : SUCCESS;
}

API int ncclCommFinalize(ncclComm_t one) {
    REFUSE();
    int alive = check_alive(one, __func__);
    return alive == SUCCESS ? atomic_load(&one->state) : alive;
}

API int ncclCommDestroy(ncclComm_t one) {
    REFUSE();
    int alive = check_alive(one, __func__);
    if (alive == SUCCESS && atomic_load(&one->state) == IN_PROGRESS) {
        return failed(INVALID_USAGE, "destroyed while an operation is in progress");
    }
    if (alive == SUCCESS) {
        end(one);
    }
    return alive;
}

API int ncclGroupStart(void) {
    REFUSE();
    if (depth == 0) {
        memset(&open_group, 0, sizeof open_group);
    }
    depth++;
    return SUCCESS;
}

static void discard(struct group *group) {
    free(group->transfers);
    free(group->sum.others);
}

/* Whether a rank receives all that it sends itself. */
static bool pairs_up(const struct group *group) {
    long open = 0;
    for (size_t at = 0; at < group->count; at++) {
        if (group->transfers[at].peer == group->of->rank) {
            open += group->transfers[at].sends ? 1 : -1;
        }
    }
    return open == 0;
}

/* Hands a group to its communicator's thread. */
static int start(struct group *group) {
    static _Atomic long calls;
    ncclComm_t one = group->of;
    if (one == NULL) {
        return group->error;
    }
    int state = atomic_load(&one->state), error = group->error;
    if (error == SUCCESS && state == IN_PROGRESS) {
        error = failed(INVALID_USAGE, "an operation began while another is in progress");
    }
    if (error == SUCCESS && !pairs_up(group)) {
        error = failed(INVALID_USAGE, "a send to itself without its receive, or a receive without its send");
    }
    if (error != SUCCESS || state != SUCCESS) {
        discard(group);
        return error != SUCCESS ? error : state;
    }
    if (is_turn("stuck", &calls)) {
        leave_line("stuck");
        while (!atomic_load(&one->ending)) {
            pause_us(1000);
        }
        discard(group);
        return INTERNAL_ERROR;
    }
    pthread_mutex_lock(&one->lock);
    one->work = *group;
    one->has_work = true;
    atomic_store(&one->state, IN_PROGRESS);
    pthread_cond_signal(&one->wake);
    pthread_mutex_unlock(&one->lock);
    return IN_PROGRESS;
}

API int ncclGroupEnd(void) {
    if (is_refused(__func__)) {
        depth = 0;
        discard(&open_group);
        return SYSTEM_ERROR;
    }
    if (depth == 0) {
        return failed(INVALID_USAGE, "a group ends that never began");
    }
    if (--depth > 0) {
        return SUCCESS;
    }
    struct group whole = open_group;
    memset(&open_group, 0, sizeof open_group);
    return start(&whole);
}

/* Takes a transfer into the open group. */
static int add(ncclComm_t one, enum operation operation, int peer, const void *data, size_t count, bool sends) {
    struct group *group = &open_group;
    if (group->of != NULL && group->of != one) {
        return failed(INVALID_USAGE, "two communicators in one group");
    }
    if (peer < 0 || peer >= one->world) {
        return failed(INVALID_ARGUMENT, "there is no rank %d of %d", peer, one->world);
    }
    if (data == NULL && count > 0) {
        return failed(INVALID_ARGUMENT, "%zu elements at no address", count);
    }
    struct transfer *more = realloc(group->transfers, (group->count + 1) * sizeof *more);
    if (more == NULL) {
        return failed(SYSTEM_ERROR, "out of memory");
    }
    struct label label = {count, FLOAT32, operation};
    more[group->count++] = (struct transfer){
        .sends = sends, .peer = peer, .data = (void *)data, .bytes = count * sizeof(float), .label = label};
    group->transfers = more;
    group->of = one;
    return SUCCESS;
}

static int check(ncclComm_t one, int type, const char *function) {
    int alive = check_alive(one, function);
    if (alive == SUCCESS && type != FLOAT32) {
        return failed(INVALID_ARGUMENT, "%s: type %d is not served here", function, type);
    }
    return alive;
}

/* A group fails with the first error in it. */
static int noted(int error) {
    if (error != SUCCESS && open_group.error == SUCCESS) {
        open_group.error = error;
    }
    return error;
}

static int one_way(ncclComm_t one, const void *data, size_t count, int type, int peer, bool sends) {
    int error = check(one, type, sends ? "ncclSend" : "ncclRecv");
    if (error == SUCCESS && depth == 0) {
        return failed(INVALID_USAGE, "a send or receive outside of a group waits for its peer for ever");
    }
    return noted(error == SUCCESS ? add(one, POINT_TO_POINT, peer, data, count, sends) : error);
}

API int ncclSend(const void *data, size_t count, int type, int peer, ncclComm_t one, void *stream) {
    (void)stream;
    REFUSE();
    return one_way(one, data, count, type, peer, true);
}

API int ncclRecv(void *data, size_t count, int type, int peer, ncclComm_t one, void *stream) {
    (void)stream;
    REFUSE();
    return one_way(one, data, count, type, peer, false);
}

API int ncclAllGather(const void *from, void *to, size_t count, int type, ncclComm_t one, void *stream) {
    (void)stream;
    REFUSE();
    int error = check(one, type, __func__);
    if (error != SUCCESS) {
        return noted(error);
    }
    if (from == NULL || to == NULL) {
        return noted(failed(INVALID_ARGUMENT, "%s: %zu elements at no address", __func__, count));
    }
    ncclGroupStart();
    float *out = to;
    memmove(out + (size_t)one->rank * count, from, count * sizeof(float));
    open_group.of = one;
    for (int peer = 0; peer < one->world; peer++) {
        if (peer != one->rank) {
            noted(add(one, ALL_GATHER, peer, from, count, true));
            noted(add(one, ALL_GATHER, peer, out + (size_t)peer * count, count, false));
        }
    }
    return ncclGroupEnd();
}

API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, ncclComm_t one, void *stream) {
    (void)stream;
    REFUSE();
    int error = check(one, type, __func__);
    if (error != SUCCESS) {
        return noted(error);
    }
    if (from == NULL || to == NULL || op != SUM || open_group.sum.out != NULL) {
        return noted(failed(INVALID_ARGUMENT, "%s: one sum of elements at an address is served here", __func__));
    }
    float *others = calloc((size_t)one->world * count + 1, sizeof *others);
    if (others == NULL) {
        return noted(failed(SYSTEM_ERROR, "out of memory"));
    }
    ncclGroupStart();
    open_group.of = one;
    open_group.sum = (struct sum){.own = from, .others = others, .out = to, .count = count};
    for (int peer = 0; peer < one->world; peer++) {
        if (peer != one->rank) {
            noted(add(one, ALL_REDUCE, peer, from, count, true));
            noted(add(one, ALL_REDUCE, peer, others + (size_t)peer * count, count, false));
        }
    }
    return ncclGroupEnd();
}
