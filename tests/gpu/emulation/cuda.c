/* A CUDA driver on a CPU, as far as an executor needs one: device memory is host memory.
 *
 * It is as strict as a driver may be: memory needs a context, and what was freed is back only after
 * the device was synchronised and the pool trimmed.
 *
 * Written from the public documentation of the driver API. What it has is set by environment
 * variables that are read when the library is loaded: EMULATED_GPUS (default 1),
 * EMULATED_GPU_BYTES of each (default 1 GiB) and EMULATED_CUDA (default 13000). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201 };

static int devices, synchronised;
static size_t total, used, freed;
static __thread void *current;

__attribute__((constructor)) static void configure(void) {
    const char *count = getenv("EMULATED_GPUS"), *bytes = getenv("EMULATED_GPU_BYTES");
    devices = count ? atoi(count) : 1;
    total = bytes ? strtoull(bytes, NULL, 10) : (size_t)1 << 30;
}

/* For tests: another machine from now on. */
void emulated_machine(int count, size_t bytes) {
    devices = count;
    total = bytes;
}

size_t emulated_bytes_in_use(void) { return used - freed; }

/* The process that was first to use the driver; a driver does not survive a fork. */
static pid_t starter;

int emulated_starter(void) { return starter; }

int cuInit(unsigned flags) {
    if (!starter) starter = getpid();
    return flags ? INVALID_VALUE : devices ? SUCCESS : NO_DEVICE;
}

int cuGetErrorName(int error, const char **name) {
    *name = error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
          : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
                                   : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}

int cuDriverGetVersion(int *version) {
    const char *cuda = getenv("EMULATED_CUDA");
    *version = cuda ? atoi(cuda) : 13000;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    *count = devices;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < 0 || ordinal >= devices ? INVALID_DEVICE : SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "emulated GPU");
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = total;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &devices;
    return device < 0 || device >= devices ? INVALID_DEVICE : SUCCESS;
}

int cuCtxSetCurrent(void *context) {
    current = context;
    return context == &devices ? SUCCESS : INVALID_VALUE;
}

int cuCtxSynchronize(void) {
    synchronised = 1;
    return current ? SUCCESS : INVALID_CONTEXT;
}

int cuDeviceGetDefaultMemPool(void **pool, int device) {
    *pool = &used;
    return device < 0 || device >= devices ? INVALID_DEVICE : SUCCESS;
}

int cuMemPoolTrimTo(void *pool, size_t kept) {
    if (pool != &used) return INVALID_VALUE;
    if (synchronised) used -= freed, freed = 0;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *all) {
    if (!current) return INVALID_CONTEXT;
    *free_bytes = used < total ? total - used : 0;
    *all = total;
    return SUCCESS;
}

/* The size stands in front of what is given, as nobody else knows it when it is taken back. */
int cuMemAlloc_v2(uintptr_t *pointer, size_t bytes) {
    if (!current) return INVALID_CONTEXT;
    if (!bytes) return INVALID_VALUE;
    if (used - freed + bytes > total) return OUT_OF_MEMORY;
    size_t *block = malloc(bytes + 64);
    if (!block) return OUT_OF_MEMORY;
    *block = bytes;
    used += bytes;
    *pointer = (uintptr_t)block + 64;
    return SUCCESS;
}

int cuMemFree_v2(uintptr_t pointer) {
    if (!current) return INVALID_CONTEXT;
    size_t *block = (size_t *)(pointer - 64);
    freed += *block;
    synchronised = 0;
    free(block);
    return SUCCESS;
}

int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *stream) {
    if (!current) return INVALID_CONTEXT;
    memcpy((void *)to, (const void *)from, bytes);
    return SUCCESS;
}
