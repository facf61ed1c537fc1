/*
 * Writes numbered records to a disk, or finds out which of them a disk has.
 *
 *   journal write DISK    writes until the power fails; prints "journal DISK: written N" and "journal DISK: flushed N",
 *                         N being the number of records that the disk said it has, and has for good
 *   journal read DISK     prints the number of records from the first on that are there whole, then the number of those
 *                         that are there after one that is not
 *
 * Records are as large as a page and go past the page cache. Fast ones first, with a flush after each BATCH, then slow
 * ones, so that whoever watches can choose a moment between two flushes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD = 4096, BATCH = 40, FAST = 10 * BATCH, MOST = 20 * BATCH, PAUSE_US = 25000 };

static void die(const char *what) {
  fprintf(stderr, "journal: %s: %s\n", what, strerror(errno));
  exit(2);
}

/* No two records have a word in common. */
static void fill(uint32_t *record, uint32_t number) {
  for (uint32_t i = 0; i < RECORD / 4; i++) record[i] = (number * (RECORD / 4) + i + 1) * 2654435761u;
}

static void write_records(int fd, const char *disk, uint32_t *record) {
  for (uint32_t n = 0; n < MOST; n++) {
    fill(record, n);
    if (pwrite(fd, record, RECORD, (off_t)n * RECORD) != RECORD) die("write");
    if (n >= FAST) {
      printf("journal %s: written %u\n", disk, n + 1);
      usleep(PAUSE_US);
    }
    if ((n + 1) % BATCH) continue;
    if (fdatasync(fd)) die("flush");
    printf("journal %s: flushed %u\n", disk, n + 1);
  }
}

static void read_records(int fd, uint32_t *record) {
  static uint32_t expected[RECORD / 4];
  uint32_t whole = 0, after = 0;
  for (uint32_t n = 0; n < MOST; n++) {
    if (pread(fd, record, RECORD, (off_t)n * RECORD) != RECORD) die("read");
    fill(expected, n);
    if (memcmp(record, expected, RECORD)) continue;
    if (n == whole) whole++;
    else after++;
  }
  printf("%u %u\n", whole, after);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  int writes = argc == 3 && !strcmp(argv[1], "write");
  if (argc != 3 || (!writes && strcmp(argv[1], "read"))) {
    fprintf(stderr, "usage: journal write|read DISK\n");
    return 2;
  }
  int fd = open(argv[2], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
  if (fd < 0) die(argv[2]);
  void *record;
  if (posix_memalign(&record, RECORD, RECORD)) die("memory");
  if (writes) write_records(fd, argv[2], record);
  else read_records(fd, record);
  return 0;
}
