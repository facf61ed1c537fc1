/*
 * The floor of a move: bytes out of one process's memory, over a Unix stream socket, into another's memory; nothing is looked
 * at and nothing copied beside. Usage: pipe BYTES. Prints {"seconds": ...}, until the reader has confirmed the last byte.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As much memory as the device of the other measurement has, over and over. */
enum { MEMORY = 64 << 20, CHUNK = 1 << 20 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static uint8_t *touched(void) {
  uint8_t *memory = malloc(MEMORY);
  if (memory == NULL) exit(1);
  memset(memory, 0x5a, MEMORY);
  return memory;
}

static int receive(int fd, uint64_t bytes) {
  uint8_t *memory = touched();
  char ready = 'r';
  if (write(fd, &ready, 1) != 1) return 1;
  for (uint64_t done = 0; done < bytes;) {
    size_t at = done % MEMORY;
    size_t room = MEMORY - at < CHUNK ? MEMORY - at : CHUNK;
    ssize_t got = read(fd, memory + at, bytes - done < room ? bytes - done : room);
    if (got <= 0) return 1;
    done += got;
  }
  return write(fd, &ready, 1) != 1;
}

static int send_all(int fd, uint64_t bytes) {
  uint8_t *memory = touched();
  char ready;
  if (read(fd, &ready, 1) != 1) return 1;
  double start = now();
  for (uint64_t done = 0; done < bytes;) {
    size_t at = done % MEMORY;
    size_t room = MEMORY - at < CHUNK ? MEMORY - at : CHUNK;
    ssize_t sent = write(fd, memory + at, bytes - done < room ? bytes - done : room);
    if (sent <= 0) return 1;
    done += sent;
  }
  if (read(fd, &ready, 1) != 1) return 1;
  printf("{\"seconds\": %f}\n", now() - start);
  return 0;
}

int main(int argc, char **argv) {
  int ends[2];
  if (argc != 2 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 2;
  uint64_t bytes = strtoull(argv[1], NULL, 0);
  pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    close(ends[0]);
    return receive(ends[1], bytes);
  }
  close(ends[1]);
  int failed = send_all(ends[0], bytes);
  int status = 0;
  waitpid(child, &status, 0);
  return failed || status != 0;
}
