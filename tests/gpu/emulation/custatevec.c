/* The part of cuStateVec 1.15 that an executor needs, on a CPU: for tests where there is no GPU.
 *
 * Written from the documentation in the public headers. Amplitudes lie in the memory of the
 * emulated driver (cuda.c) in the precision of the state, and matrices are applied one after another.
 *
 * It is as strict as the documentation allows. A queued matrix is read when it is applied, not when
 * it is queued. Results reach the caller's memory when the state is synchronised, and what a batch
 * was given must still be there then, or the process is aborted. On request, every updater leaves
 * the wires in another order, and a state that is used again begins in that one. Without a device, the updater aborts the process, as the library
 * does. What cannot be seen: fusion, real asynchrony, mixed up host and device pointers. */
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef double complex amplitude;
typedef int status;

enum { OK = 0, ALLOC_FAILED = 2, INVALID_VALUE = 3, NOT_SUPPORTED = 7, INSUFFICIENT_WORKSPACE = 8,
       INVALID_CONFIGURATION = 14, INVALID_WIRE = 16, CUDA_ERROR = 18 };
enum { SINGLE = 4, DOUBLE = 5 };
enum { DENSE = 1, DIAGONAL = 2 };
enum { STATE = 1, UPDATER = 2 };

int cuCtxSetCurrent(void *context);
int cuDeviceGetCount(int *count);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuMemAlloc_v2(uintptr_t *pointer, size_t bytes);
int cuMemFree_v2(uintptr_t pointer);

typedef struct {
    int kind, type, wires, device_wires, devices, fusion, threads;
} dictionary;

typedef struct {
    int wires, type;
    void *amplitudes;
    /* The wire that is bit i of an index. */
    int32_t order[64];
} state;

typedef struct operation {
    int kind, targets, controls;
    int32_t target[64], control[64], value[64];
    const void *matrix;
    int type, row_major, adjoint;
    struct operation *next;
} operation;

typedef struct {
    int type;
    operation *first, *last;
} updater;

/* How often each was called, for tests: see `emulated_calls`. */
enum { CREATED, ENQUEUED, DIAGONALS, APPLIED, SAMPLED, SUMMED, EXPECTED, BATCHED, KINDS };
static long calls[KINDS];
static int last_fusion, last_threads, last_devices;

long emulated_calls(int kind) { return calls[kind]; }
int emulated_fusion(void) { return last_fusion; }
int emulated_threads(void) { return last_threads; }
int emulated_devices(void) { return last_devices; }

/* Whether updaters leave wires in another order. */
static int scrambling;

void emulated_scrambling(int on) { scrambling = on; }

/* What is written to, or was read from, the caller's memory until the state is synchronised. */
typedef struct memory {
    void *there, *copy;
    size_t bytes;
    int is_result;
    struct memory *next;
} memory;

static memory *pending;

static void *later(const void *there, size_t bytes, int is_result) {
    memory *added = malloc(sizeof(memory));
    *added = (memory){(void *)there, malloc(bytes), bytes, is_result, pending};
    if (!is_result) memcpy(added->copy, there, bytes);
    pending = added;
    return added->copy;
}

static void *result(void *there, size_t bytes) {
    memset(there, 0xff, bytes);
    return later(there, bytes, 1);
}

static size_t bytes_of(int type) { return type == SINGLE ? sizeof(float complex) : sizeof(amplitude); }

static amplitude get(const void *from, int type, size_t index) {
    return type == SINGLE ? ((const float complex *)from)[index] : ((const amplitude *)from)[index];
}

static void set(void *to, int type, size_t index, amplitude value) {
    if (type == SINGLE)
        ((float complex *)to)[index] = (float complex)value;
    else
        ((amplitude *)to)[index] = value;
}

static double weight(const void *of, int type, size_t index) {
    amplitude value = get(of, type, index);
    return creal(value) * creal(value) + cimag(value) * cimag(value);
}

static int64_t bits_at(size_t index, const int32_t *wires, int count) {
    int64_t bits = 0;
    for (int k = 0; k < count; k++) bits |= (int64_t)(index >> wires[k] & 1) << k;
    return bits;
}

static int distinct(int wires, const int32_t *a, int many, const int32_t *b, int more) {
    uint64_t seen = 0;
    for (int k = 0; k < many + more; k++) {
        int wire = k < many ? a[k] : b[k - many];
        if (wire < 0 || wire >= wires || seen >> wire & 1) return 0;
        seen |= (uint64_t)1 << wire;
    }
    return 1;
}

static void bits_of(const state *vector, const int32_t *wires, int count, int32_t *bits) {
    for (int k = 0; k < count; k++)
        for (int bit = 0; bit < vector->wires; bit++)
            if (vector->order[bit] == wires[k]) bits[k] = bit;
}

/* A copy of a matrix: its diagonal, or all of it, row by row. */
static amplitude *copied(const void *matrix, int type, int kind, int row_major, int adjoint, int targets) {
    size_t size = (size_t)1 << targets, count = kind == DENSE ? size * size : size;
    amplitude *copy = malloc(count * sizeof(amplitude));
    for (size_t i = 0; i < count; i++) {
        size_t from = kind == DENSE && row_major == adjoint ? i % size * size + i / size : i;
        copy[i] = adjoint ? conj(get(matrix, type, from)) : get(matrix, type, from);
    }
    return copy;
}

static void apply(void *amplitudes, int type, int wires, const amplitude *matrix, int kind,
                  const int32_t *target, int targets, const int32_t *control, const int32_t *value, int controls) {
    size_t size = (size_t)1 << targets, all = (size_t)1 << wires, wanted = 0, fixed = 0, acted = 0;
    size_t *offset = malloc(size * sizeof(size_t));
    amplitude *before = malloc(size * sizeof(amplitude));
    for (int k = 0; k < targets; k++) acted |= (size_t)1 << target[k];
    for (int k = 0; k < controls; k++) {
        fixed |= (size_t)1 << control[k];
        if (!value || value[k]) wanted |= (size_t)1 << control[k];
    }
    for (size_t i = 0; i < size; i++) {
        offset[i] = 0;
        for (int k = 0; k < targets; k++) offset[i] |= (i >> k & 1) << target[k];
    }
    for (size_t base = 0; base < all; base++) {
        if (base & acted || (base & fixed) != wanted) continue;
        for (size_t i = 0; i < size; i++) before[i] = get(amplitudes, type, base | offset[i]);
        for (size_t i = 0; i < size; i++) {
            amplitude sum = kind == DIAGONAL ? matrix[i] * before[i] : 0;
            for (size_t j = 0; kind == DENSE && j < size; j++) sum += matrix[i * size + j] * before[j];
            set(amplitudes, type, base | offset[i], sum);
        }
    }
    free(offset);
    free(before);
}

/* ---- errors and handles ---- */

size_t custatevecGetVersion(void) { return 11500; }

const char *custatevecGetErrorName(status error) {
    switch (error) {
        case ALLOC_FAILED: return "CUSTATEVEC_STATUS_ALLOC_FAILED";
        case INVALID_VALUE: return "CUSTATEVEC_STATUS_INVALID_VALUE";
        case NOT_SUPPORTED: return "CUSTATEVEC_STATUS_NOT_SUPPORTED";
        case INSUFFICIENT_WORKSPACE: return "CUSTATEVEC_STATUS_INSUFFICIENT_WORKSPACE";
        case INVALID_CONFIGURATION: return "CUSTATEVEC_STATUS_INVALID_CONFIGURATION";
        case INVALID_WIRE: return "CUSTATEVEC_STATUS_INVALID_WIRE";
        case CUDA_ERROR: return "CUSTATEVEC_STATUS_CUDA_ERROR";
    }
    return "CUSTATEVEC_STATUS_SUCCESS";
}

const char *custatevecGetErrorString(status error) { return custatevecGetErrorName(error); }

/* ---- configuration and life of a state ---- */

status custatevecExConfigureStateVectorSingleDevice(dictionary **made, int type, int wires, int device_wires,
                                                    int device, uint32_t capability) {
    if ((type != SINGLE && type != DOUBLE) || wires < 1 || device_wires > wires) return INVALID_VALUE;
    *made = calloc(1, sizeof(dictionary));
    **made = (dictionary){.kind = STATE, .type = type, .wires = wires, .device_wires = device_wires, .devices = 1};
    return OK;
}

status custatevecExConfigureStateVectorMultiDevice(dictionary **made, int type, int wires, int device_wires,
                                                   const int32_t *ids, int devices, int network, uint32_t capability) {
    if (devices & (devices - 1) || devices << device_wires != 1 << wires) return INVALID_VALUE;
    status done = custatevecExConfigureStateVectorSingleDevice(made, type, wires, device_wires, ids[0], capability);
    if (done == OK) (*made)->devices = devices;
    return done;
}

status custatevecExDictionaryDestroy(dictionary *made) {
    free(made);
    return OK;
}

status custatevecExStateVectorSetZeroState(state *vector) {
    memset(vector->amplitudes, 0, bytes_of(vector->type) << vector->wires);
    set(vector->amplitudes, vector->type, 0, 1);
    return OK;
}

status custatevecExStateVectorCreateSingleProcess(state **vector, const dictionary *made, void *const *streams,
                                                  int count, void *manager) {
    int present;
    uintptr_t memory;
    cuDeviceGetCount(&present);
    if (!present) return CUDA_ERROR;
    if (made->kind != STATE || made->devices > present) return INVALID_CONFIGURATION;
    if (!streams != !count) return INVALID_VALUE;
    void *context;
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxSetCurrent(context);
    if (cuMemAlloc_v2(&memory, bytes_of(made->type) << made->wires)) return ALLOC_FAILED;
    calls[CREATED]++;
    last_devices = made->devices;
    *vector = malloc(sizeof(state));
    **vector = (state){.wires = made->wires, .type = made->type, .amplitudes = (void *)memory};
    for (int wire = 0; wire < made->wires; wire++) (*vector)->order[wire] = wire;
    return custatevecExStateVectorSetZeroState(*vector);
}

status custatevecExStateVectorDestroy(state *vector) {
    cuMemFree_v2((uintptr_t)vector->amplitudes);
    free(vector);
    return OK;
}

status custatevecExStateVectorSetMathMode(state *vector, int mode) { return mode < 0 || mode > 2 ? INVALID_VALUE : OK; }

status custatevecExStateVectorSynchronize(state *vector) {
    while (pending) {
        memory *next = pending->next;
        if (pending->is_result) {
            memcpy(pending->there, pending->copy, pending->bytes);
        } else if (memcmp(pending->there, pending->copy, pending->bytes)) {
            fputs("what a call reads was changed before it was done\n", stderr);
            abort();
        }
        free(pending->copy);
        free(pending);
        pending = next;
    }
    return OK;
}

enum { WIRE_ORDERING = 3 };

status custatevecExStateVectorGetProperty(const state *vector, int property, void *value, size_t bytes) {
    if (property != WIRE_ORDERING || bytes < vector->wires * sizeof(int32_t)) return INVALID_VALUE;
    memcpy(value, vector->order, vector->wires * sizeof(int32_t));
    return OK;
}

status custatevecExStateVectorReassignWireOrdering(state *vector, const int32_t *order, int32_t length) {
    if (length != vector->wires || !distinct(length, order, length, NULL, 0)) return INVALID_VALUE;
    memcpy(vector->order, order, length * sizeof(int32_t));
    return OK;
}

/* Bit i of an index becomes bit `permutation[i]`, with the wire that it is. */
status custatevecExStateVectorPermuteIndexBits(state *vector, const int32_t *permutation, int32_t length, int gather) {
    if (gather || length != vector->wires) return INVALID_VALUE;
    size_t all = (size_t)1 << vector->wires, size = bytes_of(vector->type);
    char *before = malloc(all * size);
    int32_t order[64];
    memcpy(before, vector->amplitudes, all * size);
    memcpy(order, vector->order, sizeof order);
    for (int bit = 0; bit < length; bit++) vector->order[permutation[bit]] = order[bit];
    for (size_t i = 0; i < all; i++) {
        size_t to = 0;
        for (int bit = 0; bit < length; bit++) to |= (i >> bit & 1) << permutation[bit];
        memcpy((char *)vector->amplitudes + to * size, before + i * size, size);
    }
    free(before);
    return OK;
}

status custatevecExStateVectorGetState(const state *vector, void *to, int type, int64_t begin, int64_t end, int32_t copies) {
    if (type != vector->type || begin < 0 || begin > end || end > (int64_t)1 << vector->wires) return INVALID_VALUE;
    size_t size = bytes_of(type);
    memcpy(to, (const char *)vector->amplitudes + begin * size, (end - begin) * size);
    return OK;
}

status custatevecExStateVectorGetResourcesFromDeviceSubSV(state *vector, int32_t part, int32_t *device, void **pointer,
                                                          void **stream, void **handle) {
    static int any_handle;
    if (part) return INVALID_VALUE;
    *device = 0;
    *pointer = vector->amplitudes;
    *stream = NULL;
    if (handle) *handle = &any_handle;
    return OK;
}

/* ---- reading a state ---- */

status custatevecExAbs2SumArray(const state *vector, double *sums, const int32_t *wires, int count,
                                const int32_t *mask, const int32_t *masked, int masks) {
    calls[SUMMED]++;
    if (!distinct(vector->wires, wires, count, masked, masks)) return INVALID_WIRE;
    int32_t bits[64];
    bits_of(vector, wires, count, bits);
    sums = memset(result(sums, sizeof(double) << count), 0, sizeof(double) << count);
    for (size_t i = 0; i < (size_t)1 << vector->wires; i++)
        sums[bits_at(i, bits, count)] += weight(vector->amplitudes, vector->type, i);
    return OK;
}

typedef struct {
    double point;
    int shot;
} draw;

static int by_point(const void *a, const void *b) {
    double x = ((const draw *)a)->point, y = ((const draw *)b)->point;
    return (x > y) - (x < y);
}

/* The outcome of a shot is where its number falls among the summed weights, in order of indices. */
status custatevecExSample(const state *vector, int64_t *outcomes, const int32_t *wires, int count,
                          const double *points, int shots, int order, const double *sums) {
    calls[SAMPLED]++;
    if (order) return NOT_SUPPORTED;
    if (count < 1) return INVALID_VALUE;
    if (!distinct(vector->wires, wires, count, NULL, 0)) return INVALID_WIRE;
    size_t last = ((size_t)1 << vector->wires) - 1, index = 0;
    double norm = 0, sum = weight(vector->amplitudes, vector->type, 0);
    for (size_t i = 0; i <= last; i++) norm += weight(vector->amplitudes, vector->type, i);
    int32_t bits[64];
    bits_of(vector, wires, count, bits);
    outcomes = result(outcomes, shots * sizeof(int64_t));
    draw *draws = malloc(shots * sizeof(draw));
    for (int shot = 0; shot < shots; shot++) draws[shot] = (draw){points[shot], shot};
    qsort(draws, shots, sizeof(draw), by_point);
    for (int k = 0; k < shots; k++) {
        while (sum <= draws[k].point * norm && index < last) sum += weight(vector->amplitudes, vector->type, ++index);
        outcomes[draws[k].shot] = bits_at(index, bits, count);
    }
    free(draws);
    return OK;
}

status custatevecExComputeExpectationOnPauliBasis(const state *vector, double *values, const int32_t **paulis, int terms,
                                                  const int32_t **wires, const int32_t *lengths) {
    calls[EXPECTED]++;
    values = result(values, terms * sizeof(double));
    for (int term = 0; term < terms; term++) {
        size_t flips = 0;
        double value = 0;
        if (!distinct(vector->wires, wires[term], lengths[term], NULL, 0)) return INVALID_VALUE;
        int32_t bits[64];
        bits_of(vector, wires[term], lengths[term], bits);
        for (int k = 0; k < lengths[term]; k++)
            if (paulis[term][k] == 1 || paulis[term][k] == 2) flips |= (size_t)1 << bits[k];
        for (size_t i = 0; i < (size_t)1 << vector->wires; i++) {
            amplitude factor = 1; /* <i|P|i ^ flips> */
            for (int k = 0; k < lengths[term]; k++) {
                int bit = i >> bits[k] & 1;
                if (paulis[term][k] == 2) factor *= bit ? I : -I;
                if (paulis[term][k] == 3 && bit) factor = -factor;
            }
            value += creal(conj(get(vector->amplitudes, vector->type, i)) * factor *
                           get(vector->amplitudes, vector->type, i ^ flips));
        }
        values[term] = value;
    }
    return OK;
}

/* ---- the updater: a queue of matrices ---- */

typedef struct {
    int32_t name;
    char padding[12];
    int32_t value;
    char rest[28];
} setting;

status custatevecExConfigureSVUpdater(dictionary **made, int type, const setting *settings, int count) {
    if (type != SINGLE && type != DOUBLE) return INVALID_VALUE;
    *made = calloc(1, sizeof(dictionary));
    **made = (dictionary){.kind = UPDATER, .type = type};
    for (int k = 0; k < count; k++) {
        if (settings[k].name == 0) (*made)->threads = settings[k].value;
        if (settings[k].name == 1) (*made)->fusion = settings[k].value;
    }
    if ((*made)->threads < 0 || (*made)->threads > 32 || (*made)->fusion < 0 || (*made)->fusion > 10) return INVALID_VALUE;
    return OK;
}

status custatevecExSVUpdaterCreate(updater **queue, const dictionary *made, void *manager) {
    *queue = calloc(1, sizeof(updater));
    (*queue)->type = made->type;
    last_fusion = made->fusion;
    last_threads = made->threads;
    return OK;
}

status custatevecExSVUpdaterClear(updater *queue) {
    while (queue->first) {
        operation *next = queue->first->next;
        free(queue->first);
        queue->first = next;
    }
    queue->last = NULL;
    return OK;
}

status custatevecExSVUpdaterDestroy(updater *queue) {
    custatevecExSVUpdaterClear(queue);
    free(queue);
    return OK;
}

status custatevecExSVUpdaterEnqueueMatrix(updater *queue, const void *matrix, int type, int kind, int row_major, int adjoint,
                                          const int32_t *target, int targets, const int32_t *control,
                                          const int32_t *value, int controls) {
    int present;
    cuDeviceGetCount(&present);
    if (!present) {
        fputs("terminate called after throwing an instance of 'std::runtime_error'\n"
              "  what():  cudaErrorInsufficientDriver\n", stderr);
        abort();
    }
    calls[ENQUEUED]++;
    calls[DIAGONALS] += kind == DIAGONAL;
    if (queue->type == DOUBLE && type != DOUBLE) return INVALID_VALUE;
    if ((kind != DENSE && kind != DIAGONAL) || targets > (kind == DENSE ? 15 : 30)) return INVALID_VALUE;
    operation *added = calloc(1, sizeof(operation));
    *added = (operation){.kind = kind, .targets = targets, .controls = controls};
    added->matrix = matrix;
    added->type = type, added->row_major = row_major, added->adjoint = adjoint;
    memcpy(added->target, target, targets * sizeof(int32_t));
    for (int k = 0; k < controls; k++) {
        added->control[k] = control[k];
        added->value[k] = value ? value[k] : 1;
    }
    if (queue->last) queue->last->next = added;
    else queue->first = added;
    queue->last = added;
    return OK;
}

/* The queue stays as it is: it can be applied again. */
status custatevecExSVUpdaterApply(updater *queue, state *vector, const double *numbers, int count) {
    calls[APPLIED]++;
    if (vector->type != queue->type) return INVALID_VALUE;
    for (operation *each = queue->first; each; each = each->next)
        if (!distinct(vector->wires, each->target, each->targets, each->control, each->controls)) return INVALID_WIRE;
    for (operation *each = queue->first; each; each = each->next) {
        int32_t target[64], control[64];
        bits_of(vector, each->target, each->targets, target);
        bits_of(vector, each->control, each->controls, control);
        amplitude *matrix = copied(each->matrix, each->type, each->kind, each->row_major, each->adjoint, each->targets);
        apply(vector->amplitudes, vector->type, vector->wires, matrix, each->kind, target, each->targets, control,
              each->value, each->controls);
        free(matrix);
    }
    int32_t turned[64];
    for (int bit = 0; bit < vector->wires; bit++) turned[bit] = (bit + 1) % vector->wires;
    return scrambling ? custatevecExStateVectorPermuteIndexBits(vector, turned, vector->wires, 0) : OK;
}

/* ---- many small states at once ---- */

status custatevecApplyMatrixBatchedGetWorkspaceSize(void *handle, int type, uint32_t wires, uint32_t states, int64_t stride,
                                                    int map, const int32_t *indices, const void *matrices, int matrix_type,
                                                    int row_major, int adjoint, uint32_t count, uint32_t targets,
                                                    uint32_t controls, int compute, size_t *bytes) {
    *bytes = count > 1 ? count * (bytes_of(matrix_type) << 2 * targets) : 0;
    return OK;
}

status custatevecApplyMatrixBatched(void *handle, void *amplitudes, int type, uint32_t wires, uint32_t states, int64_t stride,
                                    int map, const int32_t *indices, const void *matrices, int matrix_type, int row_major,
                                    int adjoint, uint32_t count, const int32_t *target, uint32_t targets,
                                    const int32_t *control, const int32_t *value, uint32_t controls, int compute,
                                    void *workspace, size_t workspace_bytes) {
    size_t needed, size = bytes_of(matrix_type) << 2 * targets;
    calls[BATCHED]++;
    custatevecApplyMatrixBatchedGetWorkspaceSize(handle, type, wires, states, stride, map, indices, matrices, matrix_type,
                                                 row_major, adjoint, count, targets, controls, compute, &needed);
    if (workspace_bytes < needed) return INSUFFICIENT_WORKSPACE;
    if (!distinct(wires, target, targets, control, controls) || stride < (int64_t)1 << wires) return INVALID_VALUE;
    later(matrices, count * size, 0);
    if (map) later(indices, states * sizeof(int32_t), 0);
    for (uint32_t each = 0; each < states; each++) {
        uint32_t which = map ? (uint32_t)indices[each] : 0;
        if (which >= count) return INVALID_VALUE;
        amplitude *matrix = copied((const char *)matrices + which * size, matrix_type, DENSE, row_major, adjoint, targets);
        apply((char *)amplitudes + each * stride * bytes_of(type), type, wires, matrix, DENSE, target, targets, control,
              value, controls);
        free(matrix);
    }
    return OK;
}

status custatevecAbs2SumArrayBatched(void *handle, const void *amplitudes, int type, uint32_t wires, uint32_t states,
                                     int64_t stride, double *sums, int64_t sums_stride, const int32_t *ordering,
                                     uint32_t count, const int64_t *mask, const int32_t *masked, uint32_t masks) {
    if (sums_stride != (int64_t)1 << count) return NOT_SUPPORTED; /* results are taken for one block */
    sums = result(sums, states * sizeof(double) << count);
    for (uint32_t each = 0; each < states; each++) {
        const char *from = (const char *)amplitudes + each * stride * bytes_of(type);
        memset(sums + each * sums_stride, 0, sizeof(double) << count);
        for (size_t i = 0; i < (size_t)1 << wires; i++)
            sums[each * sums_stride + bits_at(i, ordering, count)] += weight(from, type, i);
    }
    return OK;
}
