/* Check the sums of the tiles in tiles.h, made by tiles.py, against plain loops.  Runs as a program, or as the first process of
   an emulated machine.  Integers and float32 are compared bit by bit, with the rounding that the instruction documents. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef void function(int64_t rows, int64_t steps, const void *a, int64_t lda, const void *b, void *out);
enum semantics { INT8, DOT, AMX, BFDOT, WIDEN };
struct tile {
  const char *name;
  function *run;
  enum semantics semantics;
  int rows, width, group, input_bytes, weight_bytes, is_signed;
};
#define TILE(name, ...) extern function name;
#include "tiles.h"
#undef TILE
#define TILE(name, ...) {#name, name, __VA_ARGS__},
static const struct tile tiles[] = {
#include "tiles.h"
};

enum { MOST_ROWS = 64, MOST_K = 512, MOST_WIDTH = 32, LINE = 64 };
enum fill { RANDOM, LARGEST, SMALLEST, SPECIAL, FILLS };
static const int depths[] = {1, 3, 64, 100, 130, 256, 512};
static uint32_t levels[MOST_ROWS][MOST_K];
static int32_t weights[MOST_K][MOST_WIDTH];

static int permitted;

static uint32_t next(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 32);
}

/* A block of memory that ends where no memory may be touched. */
static char *at_the_end(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + 2 * page - 1) / page * page;
  char *block = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED || mprotect(block + whole, page, PROT_NONE)) exit(2);
  return block + whole - bytes;
}

static float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

static uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

static float wide(uint32_t bfloat16) { return from_bits(bfloat16 << 16); }

static float flushed(float x) { return to_bits(x) & 0x7f800000 ? x : from_bits(to_bits(x) & 0x80000000); }

/* A fused multiply-add as VDPBF16PS and TDPBF16PS do it: denormals are zero before and after. */
static float flushing_fma(float x, float y, float z) { return flushed(fmaf(flushed(x), flushed(y), flushed(z))); }

/* Arm's rounding to odd of a sum that a double holds exactly: cut off; the last bit tells whether anything was. */
static float to_odd(double x) {
  float y = (float)x;
  if (!isfinite(x) || (double)y == x) return y;
  if (fabs((double)y) > fabs(x)) y = nextafterf(y, 0);
  return from_bits(to_bits(y) | 1);
}

static uint32_t bfloat16(const struct tile *t, enum fill fill) {
  static const uint16_t special[] = {0x7f80, 0xff80, 0x7fc0, 0x0001, 0x8001, 0x0000, 0x8000, 0x0080, 0x7f7f};
  uint32_t r = next();
  /* A sum with the last of them is not exact in a double. */
  if (fill == SPECIAL && r % 64 == 0) return special[next() % (t->semantics == BFDOT ? 8 : 9)];
  /* Exponents near 0, so that a double holds the sum of two products. */
  return fill == LARGEST ? 0x3f7f : fill == SMALLEST ? 0xbf7f : (r & 0x8000) | (0x3f80 - (r >> 16) % 8 * 0x80) | (r & 0x7f);
}

static void choose(const struct tile *t, enum fill fill, int rows, int k) {
  memset(levels, 0, sizeof levels), memset(weights, 0, sizeof weights);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < k; j++)
      levels[i][j] = t->semantics != INT8 ? bfloat16(t, fill) : fill == LARGEST || fill == SMALLEST ? 255 : next() % 256;
  for (int j = 0; j < k; j++)
    for (int c = 0; c < t->width; c++)
      weights[j][c] = t->semantics != INT8 ? (int)bfloat16(t, fill == SMALLEST ? LARGEST : fill)
                      : fill == LARGEST    ? 127
                      : fill == SMALLEST   ? -127
                                           : (int)(next() % 255) - 127;
}

static uint32_t expected(const struct tile *t, int i, int c, int k) {
  if (t->semantics == INT8) {
    int32_t sum = 0;
    for (int j = 0; j < k; j++) sum += ((int32_t)levels[i][j] - (t->is_signed ? 128 : 0)) * weights[j][c];
    return (uint32_t)sum;
  }
  float sum = 0;
  for (int j = 0; j < k;) {
    if (t->semantics == AMX) {
      float even = 0, odd = 0;
      for (int stop = j + LINE / 2; j < stop; j += 2) {
        even = flushing_fma(wide(levels[i][j]), wide((uint32_t)weights[j][c]), even);
        odd = flushing_fma(wide(levels[i][j + 1]), wide((uint32_t)weights[j + 1][c]), odd);
      }
      sum = flushed(sum + flushed(even + odd));
      continue;
    }
    float x = wide(levels[i][j]), y = wide((uint32_t)weights[j][c]);
    float next_x = wide(levels[i][j + 1]), next_y = wide((uint32_t)weights[j + 1][c]);
    if (t->semantics == DOT) sum = flushing_fma(x, y, flushing_fma(next_x, next_y, sum));
    if (t->semantics == BFDOT)
      sum = to_odd((double)sum + to_odd((double)flushed(x) * flushed(y) + (double)flushed(next_x) * flushed(next_y)));
    if (t->semantics == WIDEN) sum = fmaf(next_x, next_y, fmaf(x, y, sum));
    j += 2;
  }
  return to_bits(sum);
}

static int same(const struct tile *t, uint32_t got, uint32_t wanted, enum fill fill) {
  if (t->semantics == INT8 || fill != SPECIAL) return got == wanted;
  float x = from_bits(got), y = from_bits(wanted);
  if (isnan(x) || isnan(y)) return isnan(x) && isnan(y);
  /* A sum with the smallest number is not exact in a double. */
  return t->semantics == BFDOT ? isinf(x) == isinf(y) : got == wanted;
}

static int check(const struct tile *t, enum fill fill, int rows, int k, long *sums, int is_told) {
  int padded = (k + LINE / t->weight_bytes - 1) / (LINE / t->weight_bytes) * (LINE / t->weight_bytes);
  int row_words = padded * t->input_bytes / 4, lda = row_words + 5, wrong = 0;
  size_t a_bytes = (size_t)((rows - 1) * lda + row_words) * 4, out_bytes = (size_t)rows * (size_t)t->width * 4;
  static char *ends[3];
  for (int i = 0; i < 3; i++)
    if (!ends[i]) ends[i] = at_the_end(1 << 20) + (1 << 20);
  char *a = ends[0] - a_bytes, *b = ends[1] - (size_t)padded * (size_t)t->width * (size_t)t->weight_bytes, *out = ends[2] - out_bytes;
  choose(t, fill, rows, k);
  memset(a, 0x7f, a_bytes), memset(out - LINE, 0x55, out_bytes + LINE);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < padded; j++) {
      uint32_t x = t->input_bytes == 4 ? levels[i][j] << 16 : levels[i][j] - (t->is_signed ? 128 : 0);
      memcpy(a + (size_t)(i * lda) * 4 + (size_t)(j * t->input_bytes), &x, (size_t)t->input_bytes);
    }
  for (int j = 0; j < padded; j++)
    for (int c = 0; c < t->width; c++) {
      size_t place = (size_t)((j / t->group * t->width + c) * t->group + j % t->group);
      memcpy(b + place * (size_t)t->weight_bytes, &weights[j][c], (size_t)t->weight_bytes);
    }
  t->run(rows, (k + t->group - 1) / t->group, a, lda, b, out);
#ifdef __x86_64__
  if (permitted) {
    unsigned char state[64];
    __asm__ volatile("sttilecfg %0" : "=m"(state));
    for (int i = 0; i < 64; i++) wrong |= state[i];
    if (wrong && !is_told) printf("%s: tile registers are in use after it\n", t->name);
  }
#endif
  for (int i = 0; i < LINE; i++)
    if (out[i - LINE] != 0x55) wrong = 1;
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < t->width; c++, ++*sums) {
      uint32_t got, wanted = expected(t, i, c, k);
      memcpy(&got, out + (size_t)(i * t->width + c) * 4, 4);
      if (!same(t, got, wanted, fill) && !wrong++ && !is_told)
        printf("%s: %d rows, k %d, fill %d: row %d column %d is %08x, not %08x\n", t->name, rows, k, fill, i, c, got, wanted);
    }
  return wrong;
}

int main(int count, char **arguments) {
  int wrong = 0;
#ifdef __x86_64__
  if (count < 2 || strcmp(arguments[1], "--without-permission"))
    permitted = !syscall(SYS_arch_prctl, 0x1023, 18);
  printf("tile registers of AMX: %s\n", permitted ? "permitted" : "not permitted");
#endif
  for (unsigned n = 0; n < sizeof tiles / sizeof *tiles; n++) {
    long sums = 0;
    int here = 0;
    for (int rows = 1; rows <= tiles[n].rows; rows++)
      for (unsigned d = 0; d < sizeof depths / sizeof *depths; d++)
        for (int fill = 0; fill < FILLS; fill++) here += check(&tiles[n], (enum fill)fill, rows, depths[d], &sums, here) != 0;
    printf("%s: %ld sums, %s\n", tiles[n].name, sums, here ? "WRONG" : "equal");
    fflush(stdout);
    wrong += here;
  }
  printf("%s\n", wrong ? "FAILED" : "PASSED");
  fflush(stdout);
  if (getpid() == 1) sleep(1), reboot(RB_POWER_OFF);
  return wrong != 0;
}
