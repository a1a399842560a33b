// libcuda, libnvrtc and libcublasLt without a GPU, for tests of the host code: memory is the host's, a module holds whatever function is asked
// for, and products are computed. A launch does nothing but append a line to the file that FAKE_CUDA_LOG names; FAKE_CUDA_FAIL
// names functions that fail, each with a colon and the error's number; the other variables set versions and the device. Whatever is made is counted until
// it is given back.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

static int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text ? atoi(text) : otherwise;
}

static void note(const char* line) {
  const char* path = getenv("FAKE_CUDA_LOG");
  if (!path) return;
  FILE* file = fopen(path, "a");
  if (!file) return;
  fprintf(file, "%s\n", line);
  fclose(file);
}

static int failure(const char* name) {
  const size_t length = strlen(name);
  for (const char* text = getenv("FAKE_CUDA_FAIL"); text; text = strchr(text, ',')) {
    if (*text == ',') text++;
    if (strncmp(text, name, length) == 0 && text[length] == ':') return atoi(text + length + 1);
  }
  return 0;
}

static int held;

API int cuDriverGetVersion(int* version) { return *version = number("FAKE_CUDA_DRIVER", 13000), 0; }
API int cuInit(unsigned flags) { return failure("cuInit"); }
API int cuGetErrorName(int code, const char** text) {
  *text = code == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
          : code == 46  ? "CUDA_ERROR_DEVICE_UNAVAILABLE"
          : code == 100 ? "CUDA_ERROR_NO_DEVICE"
          : code == 999 ? "CUDA_ERROR_UNKNOWN"
                        : "CUDA_ERROR_ILLEGAL_ADDRESS";
  return 0;
}
API int cuGetErrorString(int code, const char** text) { return *text = "as the test wanted", 0; }
API int cuDeviceGetCount(int* count) { return *count = number("FAKE_CUDA_GPUS", 1), 0; }
API int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
API int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, (size_t)length, "Fake GPU"), 0; }
API int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = number("FAKE_CUDA_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 97 ? number("FAKE_CUDA_SHARED", 232448) : 132;
  return 0;
}
API int cuDevicePrimaryCtxRetain(void** context, int device) { return held = 0, *context = (void*)1, failure("cuDevicePrimaryCtxRetain"); }
API int cuDevicePrimaryCtxRelease_v2(int device) {
  char line[64];
  if (held) snprintf(line, sizeof line, "release, but %d things are held", held);
  return note(held ? line : "release"), 0;
}
API int cuCtxSetCurrent(void* context) { return 0; }
API int cuStreamCreate(void** stream, unsigned flags) { return held++, *stream = (void*)7, 0; }
API int cuStreamDestroy_v2(void* stream) { return held--, 0; }
API int cuStreamSynchronize(void* stream) { return failure("cuStreamSynchronize"); }
API int cuMemGetInfo_v2(size_t* available, size_t* total) {
  return *available = 3u << 20, *total = (size_t)80 << 30, failure("cuMemGetInfo");
}
API int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (bytes > (size_t)1 << 32) return 2;
  const int code = failure("cuMemAlloc");
  if (code) return code;
  held++;
  return *address = (uint64_t)(uintptr_t)aligned_alloc(512, (bytes + 511) / 512 * 512), 0;
}
API int cuMemFree_v2(uint64_t address) { return held--, free((void*)(uintptr_t)address), 0; }
API int cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
  const int code = failure("cuMemHostAlloc");
  if (code) return code;
  return held++, *address = aligned_alloc(512, (bytes + 511) / 512 * 512), 0;
}
API int cuMemFreeHost(void* address) { return held--, free(address), 0; }

// A graph is what was asked for between the begin and the end of a capture; nothing happens before it is launched.
typedef struct {
  enum { COPY, SET, LAUNCH, MULTIPLY } kind;
  uint64_t to, from;
  size_t bytes;
  unsigned char value;
  char line[512];
  void* product[9];
} Node;
typedef struct {
  int count;
  Node nodes[4096];
} Graph;
static Graph* capture;

static int multiply(void* const* product);
static int perform(const Node* node) {
  if (node->kind == COPY) memmove((void*)(uintptr_t)node->to, (const void*)(uintptr_t)node->from, node->bytes);
  else if (node->kind == SET) memset((void*)(uintptr_t)node->to, node->value, node->bytes);
  else if (node->kind == LAUNCH) note(node->line);
  else return multiply(node->product);
  return 0;
}
static int act(Node node) {
  if (!capture) return perform(&node);
  if (capture->count == 4096) return 1;
  return capture->nodes[capture->count++] = node, 0;
}
// The driver refuses what would wait while it captures.
static int busy(void) { return capture ? 900 : 0; }

API int cuStreamBeginCapture_v2(void* stream, int mode) { return capture = calloc(1, sizeof(Graph)), note("capture"), failure("cuStreamBeginCapture"); }
API int cuStreamEndCapture(void* stream, Graph** graph) { return held++, *graph = capture, capture = NULL, note("captured"), failure("cuStreamEndCapture"); }
API int cuGraphInstantiateWithFlags(Graph** executable, const Graph* graph, uint64_t flags) {
  const int code = failure("cuGraphInstantiate");
  if (code) return code;
  *executable = malloc(sizeof(Graph));
  return held++, memcpy(*executable, graph, sizeof(Graph)), 0;
}
API int cuGraphDestroy(Graph* graph) { return held--, free(graph), 0; }
API int cuGraphExecDestroy(Graph* executable) { return held--, free(executable), note("graph forgotten"), 0; }
API int cuGraphLaunch(const Graph* graph, void* stream) {
  note("graph");
  for (int i = 0; i < graph->count; i++) perform(&graph->nodes[i]);
  return failure("cuGraphLaunch");
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  return busy() ? busy() : act((Node){.kind = COPY, .to = to, .from = (uint64_t)(uintptr_t)from, .bytes = bytes});
}
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  return busy() ? busy() : act((Node){.kind = COPY, .to = (uint64_t)(uintptr_t)to, .from = from, .bytes = bytes});
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
  return act((Node){.kind = COPY, .to = to, .from = from, .bytes = bytes});
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
  return act((Node){.kind = SET, .to = to, .bytes = bytes, .value = value});
}
API int cuEventCreate(void** event, unsigned flags) { return held++, *event = (void*)9, 0; }
API int cuEventDestroy_v2(void* event) { return held--, 0; }
API int cuEventRecord(void* event, void* stream) { return 0; }
API int cuEventSynchronize(void* event) { return failure("cuEventSynchronize"); }
API int cuEventElapsedTime(float* milliseconds, void* start, void* end) { return *milliseconds = 1.5f, 0; }
API int cuModuleLoadData(void** module, const void* image) {
  const int code = failure("cuModuleLoadData");
  return code ? code : (held++, *module = (void*)image, 0);
}
API int cuModuleUnload(void* module) { return held--, 0; }
API int cuModuleGetFunction(const char** function, void* module, const char* name) {
  if (strstr(name, "absent")) return 500;
  return *function = strdup(name), 0;
}
API int cuFuncSetAttribute(const char* function, int attribute, int value) {
  char line[256];
  snprintf(line, sizeof line, "shared %s %d", function, value);
  return note(line), failure("cuFuncSetAttribute");
}
API int cuLaunchKernel(const char* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                       void* stream, void** parameters, void** extra) {
  Node node = {.kind = LAUNCH};
  const uint64_t* slots = parameters[0];
  snprintf(node.line, sizeof node.line, "launch %s %u,%u,%u %u,%u,%u %u slots %llx %llx workspace %d", function, gx, gy, gz, bx, by, bz, shared,
           (unsigned long long)slots[0], (unsigned long long)slots[1], *(void**)parameters[1] != NULL);
  return act(node), failure("cuLaunchKernel");
}

API int nvrtcVersion(int* major, int* minor) {
  const int version = number("FAKE_CUDA_NVRTC", 13000);
  return *major = version / 1000, *minor = version % 1000 / 10, 0;
}
// As the real one: Blackwell is known from 12.8 on.
API int nvrtcGetNumSupportedArchs(int* count) { return *count = number("FAKE_CUDA_NVRTC", 13000) < 12080 ? 4 : 6, 0; }
API int nvrtcGetSupportedArchs(int* list) {
  const int known[] = {80, 86, 89, 90, 100, 120};
  int count;
  nvrtcGetNumSupportedArchs(&count);
  return memcpy(list, known, (size_t)count * sizeof(int)), 0;
}
API const char* nvrtcGetErrorString(int code) { return "NVRTC_ERROR_COMPILATION"; }
API int nvrtcCreateProgram(char** program, const char* text, const char* name, int headers, const char** texts, const char** names) {
  char line[512];
  snprintf(line, sizeof line, "compile %s headers", name);
  for (int i = 0; i < headers; i++) strcat(strcat(line, " "), names[i]);
  note(line);
  held++;
  *program = malloc(strlen(text) + 8);
  return sprintf(*program, "code: %s", strstr(text, "mistake") ? "mistake" : name), 0;
}
API int nvrtcCompileProgram(char* program, int count, const char** options) { return strstr(program, "mistake") ? 6 : 0; }
API int nvrtcDestroyProgram(char** program) { return held--, free(*program), 0; }
API int nvrtcGetProgramLogSize(char* program, size_t* size) { return *size = strlen(program) + 1, 0; }
API int nvrtcGetProgramLog(char* program, char* log) { return strcpy(log, program), 0; }
API int nvrtcGetCUBINSize(char* program, size_t* size) { return *size = strlen(program) + 1, 0; }
API int nvrtcGetCUBIN(char* program, char* code) { return strcpy(code, program), 0; }

typedef struct {
  int type;
  uint64_t rows, cols;
  int64_t pitch;
  int batch;
  int64_t stride;
} Layout;
typedef struct {
  int attributes[64];
} Descriptor;

API size_t cublasLtGetVersion(void) { return (size_t)number("FAKE_CUDA_CUBLASLT", 130000); }
API const char* cublasLtGetStatusString(int code) { return "CUBLAS_STATUS_NOT_SUPPORTED"; }
API int cublasLtCreate(void** handle) {
  const int code = failure("cublasLtCreate");
  return code ? code : (held++, *handle = (void*)3, 0);
}
API int cublasLtDestroy(void* handle) { return held--, 0; }
API int cublasLtMatmulDescCreate(Descriptor** descriptor, int compute, int scale) {
  *descriptor = calloc(1, sizeof(Descriptor));
  held++;
  return compute == 68 && scale == 0 ? 0 : 7;
}
API int cublasLtMatmulDescDestroy(Descriptor* descriptor) { return held--, free(descriptor), 0; }
API int cublasLtMatmulDescSetAttribute(Descriptor* descriptor, int attribute, const int* value, size_t bytes) {
  return descriptor->attributes[attribute] = *value, 0;
}
API int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t cols, int64_t pitch) {
  *layout = calloc(1, sizeof(Layout));
  **layout = (Layout){type, rows, cols, pitch, 1, 0};
  return held++, 0;
}
API int cublasLtMatrixLayoutDestroy(Layout* layout) { return held--, free(layout), 0; }
API int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
  if (attribute == 5) layout->batch = *(const int*)value;
  if (attribute == 6) layout->stride = *(const int64_t*)value;
  return 0;
}
API int cublasLtMatmulPreferenceCreate(void** preference) { return held++, *preference = (void*)5, 0; }
API int cublasLtMatmulPreferenceDestroy(void* preference) { return held--, 0; }
API int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) { return 0; }
API int cublasLtMatmulAlgoGetHeuristic(void* handle, Descriptor* descriptor, Layout* a, Layout* b, Layout* c, Layout* d, void* preference,
                                       int wanted, char* results, int* found) {
  char line[256];
  snprintf(line, sizeof line, "heuristic %d %d", a->type, c->type);
  note(line);
  if (failure("cublasLtMatmulAlgoGetHeuristic")) return failure("cublasLtMatmulAlgoGetHeuristic");
  memset(results, 0, 96);
  return *found = failure("heuristic") || a->type > 14 ? 0 : 1, 0;
}

static float get(const void* data, int type, int64_t at) {
  if (type == 0) return ((const float*)data)[at];
  const uint32_t bits = (uint32_t)((const uint16_t*)data)[at] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static void put(void* data, int type, int64_t at, float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (type == 0) ((float*)data)[at] = value;
  else ((uint16_t*)data)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static int multiply(void* const* product) {
  const Descriptor* descriptor = product[0];
  const float *alpha = product[1], *beta = product[6];
  const void *a = product[2], *b = product[4];
  const Layout *la = product[3], *lb = product[5], *lc = product[8];
  void* c = product[7];
  const int ta = descriptor->attributes[3], tb = descriptor->attributes[4];
  const uint64_t depth = ta ? la->rows : la->cols;
  for (int p = 0; p < lc->batch; p++)
    for (uint64_t col = 0; col < lc->cols; col++)
      for (uint64_t row = 0; row < lc->rows; row++) {
        float sum = 0;
        for (uint64_t i = 0; i < depth; i++)
          sum += get(a, la->type, p * la->stride + (int64_t)(ta ? i + row * la->pitch : row + i * la->pitch)) *
                 get(b, lb->type, p * lb->stride + (int64_t)(tb ? col + i * lb->pitch : i + col * lb->pitch));
        const int64_t at = p * lc->stride + (int64_t)(row + col * lc->pitch);
        put(c, lc->type, at, *alpha * sum + (*beta == 0 ? 0 : *beta * get(c, lc->type, at)));
      }
  return 0;
}
API int cublasLtMatmul(void* handle, Descriptor* descriptor, float* alpha, void* a, Layout* la, void* b, Layout* lb, float* beta, void* c,
                       Layout* lc, void* d, Layout* ld, const void* algorithm, void* workspace, size_t bytes, void* stream) {
  const int code = act((Node){.kind = MULTIPLY, .product = {descriptor, alpha, a, la, b, lb, beta, d, lc}});
  return code ? code : failure("cublasLtMatmul");
}
API int cublasLtMatmulAlgoConfigGetAttribute(const void* algorithm, int attribute, int* value, size_t bytes, size_t* written) {
  return *value = number("FAKE_CUDA_ALGORITHM", 60) + attribute, *written = 4, 0;
}
