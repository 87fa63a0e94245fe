/* What a communicator does beside its caller: it meets the other ranks, then moves bytes. */
#define _GNU_SOURCE
#include "stand_in.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A thread that has nothing to move sleeps for so long; one that waits for ranks, for longer. */
enum { MOVING_US = 50, MEETING_US = 500 };

static size_t least(size_t one, size_t other) {
    return one < other ? one : other;
}

static size_t put(struct lane *lane, const unsigned char *from, size_t length) {
    uint64_t written = atomic_load(&lane->written);
    size_t count = least(length, LANE_BYTES - (written - atomic_load(&lane->read)));
    size_t at = written % LANE_BYTES, first = least(count, LANE_BYTES - at);
    memcpy(lane->bytes + at, from, first);
    memcpy(lane->bytes, from + first, count - first);
    atomic_store(&lane->written, written + count);
    return count;
}

static size_t take(struct lane *lane, unsigned char *to, size_t length) {
    uint64_t read = atomic_load(&lane->read);
    size_t count = least(length, atomic_load(&lane->written) - read);
    size_t at = read % LANE_BYTES, first = least(count, LANE_BYTES - at);
    memcpy(to, lane->bytes + at, first);
    memcpy(to + first, lane->bytes, count - first);
    atomic_store(&lane->read, read + count);
    return count;
}

static bool is_done(const struct transfer *transfer) {
    return transfer->moved == sizeof transfer->label + transfer->bytes;
}

/* Moves what can be moved now, and no more than `most` of the elements: first the label, then these. Gives the number
 * of bytes, or -1 where the two sides do not mean the same. */
static long advance(struct communicator *one, struct transfer *transfer, size_t most) {
    bool sends = transfer->sends;
    struct lane *lane = sends ? &one->shared->lanes[one->rank][transfer->peer]
                              : &one->shared->lanes[transfer->peer][one->rank];
    size_t label = sizeof transfer->label, before = transfer->moved;
    if (transfer->moved < label) {
        unsigned char *at = (unsigned char *)(sends ? &transfer->label : &transfer->heard) + transfer->moved;
        size_t left = label - transfer->moved;
        transfer->moved += sends ? put(lane, at, left) : take(lane, at, left);
        if (transfer->moved < label) {
            return (long)(transfer->moved - before);
        }
        if (!sends && memcmp(&transfer->label, &transfer->heard, label) != 0) {
            failed(INVALID_USAGE,
                   "rank %d expects operation %u of %llu elements of type %u from rank %d, which sends operation %u of "
                   "%llu of type %u",
                   one->rank, transfer->label.operation, (unsigned long long)transfer->label.count,
                   transfer->label.type, transfer->peer, transfer->heard.operation,
                   (unsigned long long)transfer->heard.count, transfer->heard.type);
            return -1;
        }
    }
    size_t at = transfer->moved - label, left = least(transfer->bytes - at, most);
    transfer->moved += sends ? put(lane, transfer->data + at, left) : take(lane, transfer->data + at, left);
    return (long)(transfer->moved - before);
}

/* One round over a group, as far as the bound. Transfers with one peer in one direction go in order. */
static long round_of(struct communicator *one, struct group *group, size_t most, bool *done) {
    bool taken[2][RANKS_MAX] = {{false}};
    long moved = 0;
    *done = true;
    for (size_t at = 0; at < group->count; at++) {
        struct transfer *transfer = &group->transfers[at];
        if (is_done(transfer) || taken[transfer->sends][transfer->peer]) {
            continue;
        }
        long more = advance(one, transfer, most);
        if (more < 0) {
            return -1;
        }
        moved += more;
        most -= least(most, (size_t)more);
        if (!is_done(transfer)) {
            taken[transfer->sends][transfer->peer] = true;
            *done = false;
        }
    }
    return moved;
}

/* In the ranks' order, so that all get the same bits. */
static void add_up(struct communicator *one, struct sum *sum) {
    for (size_t at = 0; at < sum->count; at++) {
        float total = 0;
        for (int rank = 0; rank < one->world; rank++) {
            float value = rank == one->rank ? sum->own[at] : sum->others[(size_t)rank * sum->count + at];
            total = rank == 0 ? value : total + value;
        }
        sum->out[at] = total;
    }
}

static int run(struct communicator *one, struct group *group) {
    static _Atomic long errors, hangs;
    bool fails = is_turn("async-error", &errors), hangs_now = is_turn("hang", &hangs), done = false;
    size_t all = 0, moved = 0;
    if (hangs_now) {
        leave_line("hang");
    }
    for (size_t at = 0; at < group->count; at++) {
        all += group->transfers[at].bytes;
    }
    /* The middle: half of what is sent, before anything is received. */
    size_t middle = fails || hangs_now ? all / 4 : SIZE_MAX;
    while (!done && !atomic_load(&one->ending)) {
        if (moved >= middle && fails) {
            return failed(SYSTEM_ERROR, "a cable was pulled after %zu of %zu bytes", moved, all);
        }
        long more = moved >= middle ? 0 : round_of(one, group, middle - moved, &done);
        if (more < 0) {
            return INVALID_USAGE;
        }
        moved += (size_t)more;
        if (more == 0 && !done) {
            pause_us(MOVING_US);
        }
    }
    if (done && group->sum.out != NULL) {
        add_up(one, &group->sum);
    }
    return done ? SUCCESS : INTERNAL_ERROR;
}

int make_segment(char name[NAME_BYTES]) {
    const char *folder = getenv("PTV2_STAND_IN_DIR");
    memset(name, 0, NAME_BYTES);
    int length = snprintf(name, NAME_BYTES, "%s/ptv2-nccl-XXXXXX", folder == NULL ? "/dev/shm" : folder);
    if (length >= NAME_BYTES) {
        return failed(SYSTEM_ERROR, "the folder's name is too long");
    }
    int file = mkstemp(name);
    if (file < 0 || ftruncate(file, sizeof(struct segment)) != 0) {
        return failed(SYSTEM_ERROR, "%s cannot be made", name);
    }
    close(file);
    return SUCCESS;
}

/* Maps the file that the id names, and waits until all ranks have. */
static int meet(struct communicator *one) {
    int file = open(one->name, O_RDWR | O_CLOEXEC);
    if (file < 0) {
        return failed(SYSTEM_ERROR, "%s cannot be opened: nobody listens for this id any more", one->name);
    }
    void *mapped = mmap(NULL, sizeof(struct segment), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) {
        return failed(SYSTEM_ERROR, "%s cannot be mapped", one->name);
    }
    one->shared = mapped;
    uint32_t world = (uint32_t)one->world, expected = 0;
    if (!atomic_compare_exchange_strong(&one->shared->world, &expected, world) && expected != world) {
        return failed(INVALID_ARGUMENT, "rank %d says %u ranks, another %u", one->rank, world, expected);
    }
    if (atomic_fetch_add(&one->shared->joined, 1) + 1 == world) {
        unlink(one->name);
    }
    while (atomic_load(&one->shared->joined) < world) {
        if (atomic_load(&one->ending)) {
            return INTERNAL_ERROR;
        }
        pause_us(MEETING_US);
    }
    return SUCCESS;
}

void *serve(void *communicator) {
    struct communicator *one = communicator;
    /* One that is absent goes without having met the others, who would take it for connected. */
    if (!one->absent) {
        atomic_store(&one->state, meet(one));
    }
    pthread_mutex_lock(&one->lock);
    while (!atomic_load(&one->ending)) {
        if (!one->has_work) {
            pthread_cond_wait(&one->wake, &one->lock);
            continue;
        }
        pthread_mutex_unlock(&one->lock);
        int found = run(one, &one->work);
        free(one->work.transfers);
        free(one->work.sum.others);
        pthread_mutex_lock(&one->lock);
        one->has_work = false;
        atomic_store(&one->state, found);
    }
    pthread_mutex_unlock(&one->lock);
    return NULL;
}
