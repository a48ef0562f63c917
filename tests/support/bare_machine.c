/* What tiles.c needs of a C library, for an emulated x86-64 without a system: output to the first serial port, and pages. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern uint64_t small_pages[], registers;
static const uintptr_t begin = 0x2000000, end = 0x2800000;
void *stdout;

static void put(char c) {
  uint8_t state;
  do __asm__ volatile("inb %1, %0" : "=a"(state) : "Nd"((uint16_t)0x3fd));
  while (!(state & 0x20));
  __asm__ volatile("outb %0, %1" ::"a"(c), "Nd"((uint16_t)0x3f8));
}

static void put_text(const char *text) {
  while (*text) put(*text++);
}

static void put_number(uint64_t value, unsigned base, int digits) {
  char text[24];
  int n = 0;
  do text[n++] = "0123456789abcdef"[value % base];
  while ((value /= base) || n < digits);
  while (n) put(text[--n]);
}

/* printf for %s, %d, %ld and %08x. */
int printf(const char *format, ...) {
  va_list values;
  va_start(values, format);
  for (; *format; format++) {
    if (*format != '%') {
      put(*format);
      continue;
    }
    format++;
    if (*format == 's') put_text(va_arg(values, const char *));
    if (*format == '0') put_number(va_arg(values, unsigned), 16, 8), format += 2;
    if (*format != 'd' && *format != 'l') continue;
    int64_t value = *format == 'l' ? va_arg(values, int64_t) : va_arg(values, int);
    format += *format == 'l';
    if (value < 0) put('-');
    put_number(value < 0 ? (uint64_t)-value : (uint64_t)value, 10, 1);
  }
  va_end(values);
  return 0;
}

int puts(const char *text) {
  put_text(text), put('\n');
  return 0;
}

int putchar(int c) {
  put((char)c);
  return c;
}

void *memset(void *to, int value, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile char *)to)[i] = (char)value;
  return to;
}

void *memcpy(void *to, const void *from, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
  return to;
}

int strcmp(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a - *b;
}

void exit(int code) {
  printf("ended by %d\n", code);
  for (;;) __asm__ volatile("hlt");
}

void *mmap(void *at, size_t size, int access, int flags, int file, long offset) {
  static uintptr_t next = begin;
  uintptr_t block = next;
  (void)at, (void)access, (void)flags, (void)file, (void)offset;
  next += (size + 4095) / 4096 * 4096;
  return next > end ? (void *)-1 : (void *)block;
}

/* Take one page away. */
int mprotect(void *at, size_t size, int access) {
  (void)size, (void)access;
  small_pages[((uintptr_t)at - begin) / 4096] = 0;
  __asm__ volatile("invlpg (%0)" ::"r"(at) : "memory");
  return 0;
}

/* The call for the tile registers, which need nobody's permission here. */
long syscall(long number, ...) {
  (void)number;
  return registers >> 18 & 1 ? 0 : -1;
}

long sysconf(int name) { return (void)name, 4096; }
int fflush(void *file) { return (void)file, 0; }
int getpid(void) { return 2; }
unsigned sleep(unsigned seconds) { return seconds; }
int reboot(int how) { return how; }
/* Of ARM's rounding, which is not used here. */
float nextafterf(float x, float y) { return (void)y, x; }
