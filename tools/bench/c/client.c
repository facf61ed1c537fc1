/*
 * The benchmark client: takes any vfio-user socket and prints one JSON object for one measurement.
 *
 *   client SOCKET rtt    REGION OFFSET BYTES COUNT          one access in flight: reads, then writes
 *   client SOCKET pipe   REGION OFFSET BYTES COUNT WINDOW   reads with WINDOW in flight
 *   client SOCKET posted REGION OFFSET BYTES COUNT          writes without a reply, then one read that waits for all
 *   client SOCKET paced  REGION OFFSET BYTES COUNT HERTZ    one read every 1/HERTZ seconds
 *   client SOCKET load   REGION OFFSET BYTES MILLISECONDS   reads as fast as they go, for a time
 *   client SOCKET attach COUNT                              connect, VERSION, info calls, close
 *   client SOCKET dma    file|message BYTES COUNT           edu's DMA into guest memory, shared or by messages
 *   client SOCKET hold   [SOCKET...]                        attaches to each and waits for the end of its input
 *
 * Times are microseconds from before the send to after the whole reply.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, DMA_MAP, GET_INFO = 4, GET_REGION_INFO, GET_IRQ_INFO = 7, READ = 9, WRITE, DMA_READ, DMA_WRITE };
enum { TYPE = 0x0f, REPLY = 1, NO_REPLY = 0x10, ERROR = 0x20 };
enum { CONFIG_REGION = 7, COMMAND = 4, MEMORY_AND_MASTER = 6 };
/* Registers of edu, and where its buffer lies for its DMA engine. */
enum { DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98, EDU_BUFFER = 0x40000 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, GUEST_ADDRESS = 0x100000, GUEST_SIZE = 0x10000 };

struct header {
  uint16_t id, command;
  uint32_t size, flags, error;
};
struct access {
  struct header header;
  uint64_t offset;
  uint32_t region, count;
  uint8_t data[1 << 20];
};

static struct access request, reply;
static uint8_t *guest;
static int fd;
static uint16_t next_id;

static void die(const char *what) {
  fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void attach(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("socket path");
  strcpy(address.sun_path, path);
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address)) die(path);
}

static void put(const void *bytes, size_t size) {
  const uint8_t *at = bytes;
  while (size > 0) {
    ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
    if (n < 0) die("send");
    at += n;
    size -= n;
  }
}

static void get(void *bytes, size_t size) {
  uint8_t *at = bytes;
  while (size > 0) {
    ssize_t n = recv(fd, at, size, 0);
    if (n <= 0) die(n ? "recv" : "server closed the connection");
    at += n;
    size -= n;
  }
}

/* An error is an answer too: not every device has every region. */
static void finish(void) {
  get(&reply.header, sizeof reply.header);
  if (reply.header.size < sizeof reply.header || reply.header.size > sizeof reply) die("reply size");
  get((uint8_t *)&reply + sizeof reply.header, reply.header.size - sizeof reply.header);
}

/* The usual reply comes whole in one recv. */
static void finish_fast(size_t expected) {
  ssize_t n = recv(fd, &reply, expected, 0);
  if (n <= 0) die(n ? "recv" : "server closed the connection");
  if ((size_t)n < sizeof reply.header) get((uint8_t *)&reply + n, sizeof reply.header - n), n = sizeof reply.header;
  if (reply.header.flags & ERROR) {
    errno = reply.header.error;
    die("error reply");
  }
  if (reply.header.size > sizeof reply) die("reply size");
  if ((size_t)n < reply.header.size) get((uint8_t *)&reply + n, reply.header.size - n);
}

static void call(uint16_t command, const void *payload, size_t size) {
  uint8_t message[4096];
  struct header header = {next_id++, command, sizeof header + size, 0, 0};
  memcpy(message, &header, sizeof header);
  memcpy(message + sizeof header, payload, size);
  put(message, header.size);
  finish();
}

static void negotiate(void) {
  static const char version[] =
      "\0\0\0\0{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"pgsizes\":4096,\"max_dma_maps\":65535}}";
  call(VERSION, version, sizeof version);
}

static void describe(void) {
  uint32_t info[4] = {16};
  call(GET_INFO, info, sizeof info);
  for (uint32_t index = 0; index < 9; index++) {
    uint32_t region[8] = {32, 0, index};
    call(GET_REGION_INFO, region, sizeof region);
  }
  for (uint32_t index = 0; index < 5; index++) {
    uint32_t irq[4] = {16, 0, index};
    call(GET_IRQ_INFO, irq, sizeof irq);
  }
}

/* What the server asks of our memory comes in front of the reply that we wait for. */
static void serve_dma(void) {
  struct {
    struct header header;
    uint64_t address, count;
    uint8_t data[GUEST_SIZE];
  } *in = (void *)&reply, *out = (void *)&request;
  const size_t fixed = sizeof in->header + 16;
  uint8_t *place = guest + (in->address - GUEST_ADDRESS);
  if (in->address < GUEST_ADDRESS || in->address - GUEST_ADDRESS > GUEST_SIZE - in->count || in->count > GUEST_SIZE) {
    die("address of a DMA");
  }
  out->header = (struct header){in->header.id, in->header.command, fixed, REPLY, 0};
  out->address = in->address;
  out->count = in->count;
  if (in->header.command == DMA_READ) {
    memcpy(out->data, place, in->count);
    out->header.size += in->count;
  } else {
    memcpy(place, in->data, in->count);
  }
  put(out, out->header.size);
}

static void await_reply(void) {
  for (finish(); (reply.header.flags & TYPE) != REPLY; finish()) serve_dma();
  if (reply.header.flags & ERROR) {
    errno = reply.header.error;
    die("error reply");
  }
}

static uint64_t access_register(uint16_t command, uint32_t region, uint64_t offset, uint64_t value, uint32_t count) {
  request.header = (struct header){next_id++, command, 32 + (command == WRITE ? count : 0), 0, 0};
  request.region = region;
  request.offset = offset;
  request.count = count;
  memcpy(request.data, &value, count);
  put(&request, request.header.size);
  await_reply();
  value = 0;
  memcpy(&value, reply.data, command == READ ? count : 0);
  return value;
}

/* Guest memory as QEMU has it: with share=on a file that the server maps, else known by its address alone. */
static void map_guest(int shared) {
  struct {
    struct header header;
    uint32_t argsz, flags;
    uint64_t offset, address, size;
  } message = {{next_id++, DMA_MAP, sizeof message, 0, 0}, 32, 3, 0, GUEST_ADDRESS, GUEST_SIZE};
  int file = memfd_create("guest", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, GUEST_SIZE)) die("memfd");
  guest = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (guest == MAP_FAILED) die("mmap");
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof file)];
  } control = {.header = {CMSG_LEN(sizeof file), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&control.header), &file, sizeof file);
  struct iovec part = {&message, sizeof message};
  struct msghdr with_file = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct msghdr without = {.msg_iov = &part, .msg_iovlen = 1};
  if (sendmsg(fd, shared ? &with_file : &without, MSG_NOSIGNAL) != sizeof message) die("sendmsg");
  await_reply();
}

/* Four registers set it up, a fifth access sees that it is done; edu's buffer and our memory have other contents each time. */
static double one_dma(uint64_t bytes, uint8_t mark) {
  double start = now();
  memset(guest, mark, bytes);
  for (int direction = 0; direction <= DMA_TO_MEMORY; direction += DMA_TO_MEMORY) {
    access_register(WRITE, 0, DMA_SOURCE, direction ? EDU_BUFFER : GUEST_ADDRESS, 8);
    access_register(WRITE, 0, DMA_DESTINATION, direction ? GUEST_ADDRESS + GUEST_SIZE / 2 : EDU_BUFFER, 8);
    access_register(WRITE, 0, DMA_COUNT, bytes, 8);
    access_register(WRITE, 0, DMA_COMMAND, DMA_START | direction, 8);
    while (access_register(READ, 0, DMA_COMMAND, 0, 8) & DMA_START);
  }
  double took = now() - start;
  if (memcmp(guest, guest + GUEST_SIZE / 2, bytes)) die("DMA moved other bytes");
  return took;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const char *name, double *times, size_t count, double elapsed) {
  qsort(times, count, sizeof *times, ascending);
  printf("\"%s\":{\"count\":%zu,\"perSecond\":%.0f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, count,
         count / elapsed * 1e6, times[count / 2], times[count * 9 / 10], times[count * 99 / 100], times[count - 1]);
}

static void prepare(uint16_t command, uint32_t flags, const char **argv) {
  request.header = (struct header){0, command, 0, flags, 0};
  request.region = strtoul(argv[0], NULL, 0);
  request.offset = strtoull(argv[1], NULL, 0);
  request.count = strtoul(argv[2], NULL, 0);
  if (request.count > sizeof request.data) die("bytes");
  request.header.size = 32 + (command == WRITE ? request.count : 0);
}

static double one(size_t expected) {
  double start = now();
  request.header.id = next_id++;
  put(&request, request.header.size);
  finish_fast(expected);
  return now() - start;
}

int main(int argc, const char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: client SOCKET MODE ...; see the source\n"), 2;
  const char *mode = argv[2];
  double begin;
  if (!strcmp(mode, "hold")) {
    for (int i = 1; i < argc; i++) {
      if (i == 2) continue;
      attach(argv[i]);
      negotiate();
      describe();
    }
    puts("{}");
    fflush(stdout);
    while (getchar() != EOF);
    return 0;
  }
  if (argc < 4) return fprintf(stderr, "usage: client SOCKET MODE ...; see the source\n"), 2;
  if (!strcmp(mode, "attach")) {
    size_t count = strtoul(argv[3], NULL, 0);
    double *times = calloc(count, sizeof *times);
    begin = now();
    for (size_t i = 0; i < count; i++) {
      double start = now();
      attach(argv[1]);
      negotiate();
      describe();
      times[i] = now() - start;
      close(fd);
    }
    printf("{");
    report("attach", times, count, now() - begin);
    return puts("}"), 0;
  }
  if (argc == 6 && !strcmp(mode, "dma")) {
    size_t bytes = strtoul(argv[4], NULL, 0), count = strtoul(argv[5], NULL, 0);
    double *times = calloc(count, sizeof *times);
    attach(argv[1]);
    negotiate();
    access_register(WRITE, CONFIG_REGION, COMMAND, MEMORY_AND_MASTER, 2);
    map_guest(!strcmp(argv[3], "file"));
    for (size_t i = 0; i < count / 5 + 1; i++) one_dma(bytes, ~i);
    begin = now();
    for (size_t i = 0; i < count; i++) times[i] = one_dma(bytes, i);
    printf("{");
    report("dma", times, count, now() - begin);
    return puts("}"), 0;
  }
  if (argc < 7) return fprintf(stderr, "usage: client SOCKET MODE REGION OFFSET BYTES COUNT\n"), 2;
  attach(argv[1]);
  negotiate();
  size_t count = strtoul(argv[6], NULL, 0), warm = count / 5 + 1;
  double *times = calloc(count, sizeof *times);
  printf("{");
  if (!strcmp(mode, "rtt")) {
    prepare(READ, 0, argv + 3);
    for (size_t i = 0; i < warm; i++) one(32 + request.count);
    begin = now();
    for (size_t i = 0; i < count; i++) times[i] = one(32 + request.count);
    report("read", times, count, now() - begin);
    printf(",");
    memcpy(request.data, reply.data, request.count);
    prepare(WRITE, 0, argv + 3);
    for (size_t i = 0; i < warm; i++) one(32);
    begin = now();
    for (size_t i = 0; i < count; i++) times[i] = one(32);
    report("write", times, count, now() - begin);
  } else if (!strcmp(mode, "pipe")) {
    size_t window = argc > 7 ? strtoul(argv[7], NULL, 0) : 16, sent = 0;
    double *starts = calloc(count, sizeof *starts);
    prepare(READ, 0, argv + 3);
    for (size_t i = 0; i < warm; i++) one(32 + request.count);
    begin = now();
    for (size_t done = 0; done < count; done++) {
      for (; sent < count && sent < done + window; sent++) {
        starts[sent] = now();
        request.header.id = next_id++;
        put(&request, request.header.size);
      }
      finish_fast(32 + request.count);
      times[done] = now() - starts[done];
    }
    report("pipelined", times, count, now() - begin);
  } else if (!strcmp(mode, "posted")) {
    double start = now();
    prepare(WRITE, NO_REPLY, argv + 3);
    for (size_t i = 0; i < count; i++) {
      double t = now();
      request.header.id = next_id++;
      put(&request, request.header.size);
      times[i] = now() - t;
    }
    prepare(READ, 0, argv + 3);
    one(32 + request.count);
    report("posted", times, count, now() - start);
  } else if (!strcmp(mode, "paced")) {
    double period = 1e6 / (argc > 7 ? strtod(argv[7], NULL) : 1000), next;
    prepare(READ, 0, argv + 3);
    for (size_t i = 0; i < 2; i++) one(32 + request.count);
    next = begin = now();
    for (size_t i = 0; i < count; i++) {
      double wait = (next += period) - now();
      if (wait > 0) {
        struct timespec t = {wait / 1e6, (long)(wait * 1e3) % 1000000000};
        nanosleep(&t, NULL);
      }
      times[i] = one(32 + request.count);
    }
    report("paced", times, count, now() - begin);
  } else if (!strcmp(mode, "load")) {
    double until = now() + count * 1e3, sum = 0;
    size_t done = 0;
    prepare(READ, 0, argv + 3);
    begin = now();
    while (now() < until) sum += one(32 + request.count), done++;
    printf("\"load\":{\"count\":%zu,\"perSecond\":%.0f,\"mean\":%.3f}", done, done / (now() - begin) * 1e6, sum / done);
  } else {
    return fprintf(stderr, "client: no mode %s\n", mode), 2;
  }
  return puts("}"), 0;
}
