/* A pretended driver and a pretended NCCL, in one library: what src/driver.rs and src/nccl/api.rs call,
 * over the host's memory. Streams are threads that take their work in order, so that what is asynchronous
 * on a GPU is so here; collectives wait for all their ranks, and for ever where ranks differ, until they
 * are aborted. Kernels do nothing: launches are written down.
 *
 * Everything is under one lock: this is for tests of order, arithmetic and failures, not of speed. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 7
#define DEVICE_HOPPER 4
#define DEVICE_OLD 5
#define DEVICE_ADA 6
#define RANKS 8
#define PENDING 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* --- streams and events --- */

typedef struct Event { uint64_t asked, done; } Event;

typedef struct Comm Comm;
typedef struct Collective {
    int kind, root; /* kinds: 0 all-gather, 1 broadcast, 2 reduce-scatter, 3 reduce */
    char *send, *receive;
    size_t bytes;
    Comm *comm;
    uint64_t number;
} Collective;

enum { COPY, FILL, FREE, RECORD, WAIT, COLLECTIVE };
typedef struct Work {
    int what;
    char *to;
    const char *from;
    size_t bytes;
    Event *event;
    uint64_t mark;
    Collective collective;
    struct Work *next;
} Work;

typedef struct Stream { Work *first, **last; int busy; } Stream;

static void collect(Collective *);

static void *run(void *argument) {
    Stream *stream = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->first) pthread_cond_wait(&changed, &lock);
        Work *work = stream->first;
        switch (work->what) {
        case COPY: memcpy(work->to, work->from, work->bytes); break;
        case FILL: memset(work->to, (int)work->mark, work->bytes); break;
        case FREE: free(work->to); break;
        case RECORD: work->event->done = work->mark; break;
        case WAIT: while (work->event->done < work->mark) pthread_cond_wait(&changed, &lock); break;
        case COLLECTIVE: collect(&work->collective); break;
        }
        stream->first = work->next;
        if (!stream->first) stream->last = &stream->first;
        free(work);
        pthread_cond_broadcast(&changed);
    }
    return 0;
}

static Stream *new_stream(void) {
    Stream *stream = calloc(1, sizeof *stream);
    stream->last = &stream->first;
    pthread_t thread;
    pthread_create(&thread, 0, run, stream);
    pthread_detach(thread);
    return stream;
}

static void push(Stream *stream, Work work) {
    Work *copy = malloc(sizeof *copy);
    *copy = work;
    copy->next = 0;
    pthread_mutex_lock(&lock);
    *stream->last = copy;
    stream->last = &copy->next;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* --- the driver --- */

int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *version) {
    const char *given = getenv("PRETENDED_DRIVER");
    *version = given ? atoi(given) : 13000;
    return 0;
}
int cuGetErrorName(int code, const char **name) { (void)code; *name = "CUDA_ERROR_PRETENDED"; return 0; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 75: *value = device == DEVICE_HOPPER ? 9 : device == DEVICE_OLD ? 7 : 8; break;
    case 76: *value = device == DEVICE_OLD ? 5 : device == DEVICE_ADA ? 9 : 0; break;
    case 16: *value = 132; break; /* multiprocessors */
    case 97: *value = (device == DEVICE_HOPPER ? 227 : device == DEVICE_ADA ? 99 : 163) * 1024; break; /* shared memory of a block */
    default: return 1;
    }
    return 0;
}
int cuDeviceGetName(char *name, int length, int device) { (void)device; strncpy(name, "pretended", length); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }

static __thread int current, depth, stack[64];
int cuCtxPushCurrent_v2(void *context) { stack[depth++] = current; current = (int)(intptr_t)context; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = (void *)(intptr_t)current; current = stack[--depth]; return 0; }

/* Modules, functions and launches; what is written down is the thread's own. */
typedef struct { char name[32], target[16]; int parameter, shared; } Function;
typedef struct {
    char name[32], target[16];
    unsigned blocks, threads, shared, begins_early;
    int parameter; /* bytes */
    unsigned char bytes[2048];
} Launch;

static __thread Launch launches[16];
static __thread int launched, launch_fails, work_fails;

/* For tests: takes what was launched since the last time. */
int pretend_launches(Launch *to) {
    int count = launched;
    memcpy(to, launches, count * sizeof *to);
    launched = 0;
    return count;
}
/* For tests: what launches and waits return from now on. */
void pretend_failures(int launch, int work) { launch_fails = launch; work_fails = work; }

int cuModuleLoadData(void **module, const char *image) {
    if (!strstr(image, ".version") || !strstr(image, ".target ")) return 218;
    *module = (void *)image;
    return 0;
}
int cuModuleUnload(void *module) { (void)module; return 0; }
int cuModuleGetFunction(Function **function, const char *module, const char *name) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, ".entry %s(", name);
    const char *entry = strstr(module, wanted);
    if (!entry) return 500;
    Function *made = calloc(1, sizeof *made);
    snprintf(made->name, sizeof made->name, "%s", name);
    sscanf(strstr(module, ".target "), ".target %15s", made->target);
    made->parameter = atoi(strchr(entry, '[') + 1);
    *function = made;
    return 0;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
    if (attribute != 8 || value > 227 * 1024) return 1;
    function->shared = value;
    return 0;
}
typedef struct {
    unsigned id, padding;
    int value[16];
} LaunchAttribute;
typedef struct {
    unsigned x, y, z, threads, threads_y, threads_z, shared;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned attribute_count;
} LaunchConfig;
int cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **parameters, void **extra) {
    unsigned x = config->x, threads = config->threads, shared = config->shared;
    if (launch_fails) return launch_fails;
    if (config->y != 1 || config->z != 1 || config->threads_y != 1 || config->threads_z != 1 || extra || x == 0 ||
        threads > 1024)
        return 1;
    if (config->attribute_count > 1) return 1;
    if (config->attribute_count == 1 && (config->attributes->id != 6 || config->attributes->value[0] != 1)) return 1;
    if (shared > 48 * 1024 && (int)shared > function->shared) return 1;
    if (launched == 16 || function->parameter > 2048) abort();
    Launch *launch = &launches[launched++];
    *launch = (Launch){.blocks = x, .threads = threads, .shared = shared, .parameter = function->parameter,
                       .begins_early = config->attribute_count};
    memcpy(launch->name, function->name, sizeof launch->name);
    memcpy(launch->target, function->target, sizeof launch->target);
    memcpy(launch->bytes, parameters[0], function->parameter);
    return 0;
}

/* A map says what it was made of: type, dimensions, swizzle; address; sizes; strides; boxes. */
int cuTensorMapEncodeTiled(uint64_t *map, int type, unsigned dimensions, uint64_t address, const uint64_t *sizes,
                           const uint64_t *strides, const unsigned *boxes, const unsigned *steps, int interleave,
                           int swizzle, int promotion, int fill) {
    int element = type == 7 ? 4 : type == 6 || type == 9 ? 2 : 0;
    if (!element || dimensions < 1 || dimensions > 3 || (uint64_t)(uintptr_t)map % 64 || address % 16) return 1;
    if (interleave || promotion != 3 || fill || (swizzle != 0 && swizzle != 3)) return 1;
    if (boxes[0] * element % 16 || (swizzle == 3 && boxes[0] * element > 128)) return 1;
    for (unsigned i = 0; i < dimensions; i++) {
        if (!sizes[i] || sizes[i] > (uint64_t)1 << 32 || !boxes[i] || boxes[i] > 256 || steps[i] != 1) return 1;
        if (i && (strides[i - 1] % 16 || strides[i - 1] >> 40)) return 1;
        map[2 + i] = sizes[i];
        if (i) map[4 + i] = strides[i - 1];
        map[7 + i] = boxes[i];
    }
    map[0] = type | dimensions << 8 | swizzle << 16;
    map[1] = address;
    return 0;
}

int cuStreamCreate(Stream **stream, unsigned flags) { (void)flags; *stream = new_stream(); return 0; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) {
    return priority == -5 ? cuStreamCreate(stream, flags) : 1;
}
int cuStreamDestroy_v2(Stream *stream) { (void)stream; return 0; } /* its thread stays, as its work may */
int cuStreamSynchronize(Stream *stream) {
    pthread_mutex_lock(&lock);
    while (stream->first) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return work_fails;
}
int cuEventCreate(Event **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof **event); return 0; }
int cuEventDestroy_v2(Event *event) { (void)event; return 0; } /* work that names it may be left */
int cuEventRecord(Event *event, Stream *stream) {
    pthread_mutex_lock(&lock);
    uint64_t mark = ++event->asked;
    pthread_mutex_unlock(&lock);
    push(stream, (Work){.what = RECORD, .event = event, .mark = mark});
    return 0;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    uint64_t mark = event->asked;
    pthread_mutex_unlock(&lock);
    push(stream, (Work){.what = WAIT, .event = event, .mark = mark});
    return 0;
}
/* For tests: holds what is given to a stream from now on, until it is released. */
Event *pretend_hold(Stream *stream) {
    Event *event = calloc(1, sizeof *event);
    push(stream, (Work){.what = WAIT, .event = event, .mark = 1});
    return event;
}
void pretend_release(Event *event) {
    pthread_mutex_lock(&lock);
    event->done = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
int cuEventQuery(Event *event) {
    pthread_mutex_lock(&lock);
    int done = event->done >= event->asked;
    pthread_mutex_unlock(&lock);
    return done ? 0 : 600;
}
int cuEventSynchronize(Event *event) {
    pthread_mutex_lock(&lock);
    while (event->done < event->asked) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuEventElapsedTime(float *time, Event *from, Event *to) { (void)from; (void)to; *time = 1; return 0; }

int cuMemAllocAsync(uint64_t *address, size_t bytes, Stream *stream) {
    (void)stream;
    char *memory = malloc(bytes);
    if (!memory) return 2;
    *address = (uint64_t)(uintptr_t)memory;
    return 0;
}
int cuMemFreeAsync(uint64_t address, Stream *stream) {
    push(stream, (Work){.what = FREE, .to = (char *)(uintptr_t)address});
    return 0;
}
int cuDeviceCanAccessPeer(int *can, int device, int peer) { *can = device != peer; return 0; }
int cuDeviceGetMemPool(void **pool, int device) { *pool = (void *)(intptr_t)(device + 1); return 0; }
int cuMemPoolSetAccess(void *pool, const int *access, size_t count) {
    /* location type "device", a number, "read and write" */
    return count == 1 && access[0] == 1 && access[1] != (int)(intptr_t)pool - 1 && access[2] == 3 ? 0 : 1;
}
int cuMemAllocHost_v2(void **memory, size_t bytes) { *memory = malloc(bytes); return *memory ? 0 : 2; }
int cuMemFreeHost(void *memory) { free(memory); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    push(stream, (Work){.what = COPY, .to = (char *)(uintptr_t)to, .from = from, .bytes = bytes});
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    push(stream, (Work){.what = COPY, .to = to, .from = (char *)(uintptr_t)from, .bytes = bytes});
    return 0;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream *stream) {
    push(stream, (Work){.what = FILL, .to = (char *)(uintptr_t)to, .bytes = bytes, .mark = value});
    return 0;
}

/* --- NCCL --- */

typedef struct { char bytes[128]; } Id;
typedef struct Group {
    uint64_t id;
    int size, here;
    Collective *come[PENDING][RANKS]; /* by number and rank */
    int gone[PENDING];
    struct Group *next;
} Group;
struct Comm { Group *group; int rank, size, device, blocking, aborted, error; uint64_t number; };

static Group *groups;
static uint64_t ids;
static int version = 22907, left_open, refused;

/* For tests. */
void pretend_version(int given) { version = given; }
void pretend_error(Comm *comm, int code) { comm->error = code; }
int pretend_left_open(void) { return left_open; }
void pretend_refusal(int code) { refused = code; }

int ncclGetVersion(int *given) { *given = version; return 0; }
int ncclGetUniqueId(Id *id) {
    pthread_mutex_lock(&lock);
    memset(id, 0, sizeof *id);
    *(uint64_t *)id->bytes = ++ids;
    pthread_mutex_unlock(&lock);
    return 0;
}
const char *ncclGetErrorString(int code) { return code == 6 ? "remote process exited or there was a network error" : "pretended error"; }
const char *ncclGetLastError(Comm *comm) { (void)comm; return "pretended detail\n"; }

int ncclCommInitRankConfig(Comm **comm, int size, Id id, int rank, const char *config) {
    size_t bytes;
    uint32_t magic;
    int blocking;
    memcpy(&bytes, config, sizeof bytes);
    memcpy(&magic, config + 8, sizeof magic);
    memcpy(&blocking, config + 16, sizeof blocking);
    if (bytes != 24 || magic != 0xcafebeef || rank < 0 || rank >= size || size > RANKS) return 4;
    pthread_mutex_lock(&lock);
    Group *group = groups;
    while (group && group->id != *(uint64_t *)id.bytes) group = group->next;
    if (!group) {
        group = calloc(1, sizeof *group);
        group->id = *(uint64_t *)id.bytes;
        group->size = size;
        group->next = groups;
        groups = group;
    }
    group->here++;
    left_open++;
    *comm = calloc(1, sizeof **comm);
    **comm = (Comm){.group = group, .rank = rank, .size = size, .device = current - 1, .blocking = blocking};
    pthread_cond_broadcast(&changed);
    while (blocking && group->here < size) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return blocking ? 0 : 7;
}
int ncclCommGetAsyncError(Comm *comm, int *state) {
    pthread_mutex_lock(&lock);
    *state = comm->error ? comm->error : comm->group->here < comm->size ? 7 : 0;
    pthread_mutex_unlock(&lock);
    return 0;
}
int ncclCommCount(Comm *comm, int *count) { *count = comm->size; return 0; }
int ncclCommUserRank(Comm *comm, int *rank) { *rank = comm->rank; return 0; }
int ncclCommCuDevice(Comm *comm, int *device) { *device = comm->device; return 0; }
int ncclCommFinalize(Comm *comm) { (void)comm; return 0; }
int ncclCommDestroy(Comm *comm) {
    (void)comm; /* work that names it may be left */
    pthread_mutex_lock(&lock);
    left_open--;
    pthread_mutex_unlock(&lock);
    return 0;
}
int ncclCommAbort(Comm *comm) {
    pthread_mutex_lock(&lock);
    comm->aborted = 1;
    left_open--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return 0;
}
int ncclGroupStart(void) { return 0; }
int ncclGroupEnd(void) { return 0; }

/* Whether all ranks have come to the collective, and to the same. */
static int agreed(Collective **come, int size) {
    for (int rank = 0; rank < size; rank++)
        if (!come[rank] || come[rank]->kind != come[0]->kind || come[rank]->bytes != come[0]->bytes ||
            come[rank]->root != come[0]->root)
            return 0;
    return 1;
}

/* Sums of what the ranks have at `offset`, this rank's first. */
static void sum(Collective *own, Collective **come, size_t offset) {
    float *sums = malloc(own->bytes);
    for (int n = 0; n < own->comm->size; n++) {
        const float *from = (float *)(come[(own->comm->rank + n) % own->comm->size]->send + offset);
        for (size_t i = 0; i < own->bytes / 4; i++) sums[i] = n ? sums[i] + from[i] : from[i];
    }
    memcpy(own->receive, sums, own->bytes);
    free(sums);
}

static void collect(Collective *own) {
    Comm *comm = own->comm;
    Group *group = comm->group;
    Collective **come = group->come[own->number % PENDING];
    int *gone = &group->gone[own->number % PENDING];
    come[comm->rank] = own;
    pthread_cond_broadcast(&changed);
    while (!agreed(come, comm->size) && !comm->aborted) pthread_cond_wait(&changed, &lock);
    if (comm->aborted) {
        come[comm->rank] = 0;
        return;
    }
    switch (own->kind) {
    case 0:
        for (int rank = 0; rank < comm->size; rank++)
            memmove(own->receive + rank * own->bytes, come[rank]->send, own->bytes);
        break;
    case 1: memmove(own->receive, come[own->root]->send, own->bytes); break;
    case 2: sum(own, come, comm->rank * own->bytes); break;
    case 3: if (own->root == comm->rank) sum(own, come, 0); break;
    }
    ++*gone;
    pthread_cond_broadcast(&changed);
    while (*gone < comm->size && *gone && !comm->aborted) pthread_cond_wait(&changed, &lock);
    come[comm->rank] = 0;
    if (*gone == comm->size) *gone = 0;
    pthread_cond_broadcast(&changed);
}

static int start(Comm *comm, Stream *stream, Collective collective) {
    if (refused) return refused;
    collective.comm = comm;
    collective.number = comm->number++;
    push(stream, (Work){.what = COLLECTIVE, .collective = collective});
    return comm->blocking ? 0 : 7;
}
int ncclAllGather(void *send, void *receive, size_t count, int type, Comm *comm, Stream *stream) {
    if (type != 0) return 4;
    return start(comm, stream, (Collective){.kind = 0, .send = send, .receive = receive, .bytes = count});
}
int ncclBroadcast(void *send, void *receive, size_t count, int type, int root, Comm *comm, Stream *stream) {
    if (type != 0) return 4;
    return start(comm, stream, (Collective){.kind = 1, .root = root, .send = send, .receive = receive, .bytes = count});
}
int ncclReduceScatter(void *send, void *receive, size_t count, int type, int op, Comm *comm, Stream *stream) {
    if (type != 7 || op != 0) return 4;
    return start(comm, stream, (Collective){.kind = 2, .send = send, .receive = receive, .bytes = 4 * count});
}
int ncclReduce(void *send, void *receive, size_t count, int type, int op, int root, Comm *comm, Stream *stream) {
    if (type != 7 || op != 0) return 4;
    return start(comm, stream, (Collective){.kind = 3, .root = root, .send = send, .receive = receive, .bytes = 4 * count});
}
