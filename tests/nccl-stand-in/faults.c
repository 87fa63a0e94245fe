/* Faults on demand, and what was said of the last failure. */
#define _POSIX_C_SOURCE 200809L
#include "stand_in.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last[512] = "";

/* What stands after `name=` in the wishes, NULL where the name is not among them. */
static const char *wish(const char *name) {
    const char *at = getenv("PTV2_STAND_IN");
    size_t length = strlen(name);
    while (at != NULL && *at != '\0') {
        if (strncmp(at, name, length) == 0 && strchr("=,", at[length]) != NULL) {
            return at[length] == '=' ? at + length + 1 : "";
        }
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
    return NULL;
}

long fault(const char *name) {
    const char *value = wish(name);
    return value == NULL ? -1 : strtol(value, NULL, 10);
}

bool is_turn(const char *name, _Atomic long *count) {
    return atomic_fetch_add(count, 1) + 1 == fault(name);
}

bool is_refused(const char *function) {
    const char *value = wish("refuse");
    size_t length = strlen(function);
    if (value == NULL || strncmp(value, function, length) != 0 || strchr(",", value[length]) == NULL) {
        return false;
    }
    failed(SYSTEM_ERROR, "%s was told to fail", function);
    return true;
}

void leave_line(const char *what) {
    const char *place = getenv("PTV2_STAND_IN_CALLS");
    FILE *file = place == NULL ? NULL : fopen(place, "a");
    if (file != NULL) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

int failed(int code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    pthread_mutex_lock(&lock);
    vsnprintf(last, sizeof last, format, values);
    pthread_mutex_unlock(&lock);
    va_end(values);
    return code;
}

const char *last_failure(void) {
    return last;
}

void pause_us(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}
