/*
 * The floor: the least a vfio-user server can do. One client, one 64 KiB region, one recv and one send a message.
 * It answers what the benchmark client asks (VERSION, info calls, DMA_MAP, region reads and writes, reset) and checks
 * nothing else. Usage: floor SOCKET
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { VERSION = 1, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_IO_FDS, GET_IRQ_INFO, SET_IRQS, READ, WRITE };
enum { REPLY = 1, NO_REPLY = 0x10 };

struct header {
  uint16_t id, command;
  uint32_t size, flags, error;
};

static uint8_t in[1 << 21], out[1 << 21], memory[1 << 16];

static int answer(int fd, const struct header *request, size_t payload) {
  struct header *reply = (struct header *)out;
  if (request->flags & NO_REPLY) return 0;
  *reply = (struct header){request->id, request->command, sizeof *reply + payload, REPLY, 0};
  return send(fd, out, reply->size, MSG_NOSIGNAL) == (ssize_t)reply->size ? 0 : -1;
}

static int serve_message(int fd, const struct header *request) {
  const uint8_t *body = (const uint8_t *)(request + 1);
  uint8_t *reply = out + sizeof *request;
  uint32_t offset, count;
  switch (request->command) {
    case VERSION: {
      static const char json[] = "\0\0\0\0{\"capabilities\":{\"max_msg_fds\":8}}";
      memcpy(reply, json, sizeof json);
      return answer(fd, request, sizeof json);
    }
    case READ:
      memcpy(&offset, body, 4);
      memcpy(&count, body + 12, 4);
      if (count > sizeof memory) count = sizeof memory;
      memcpy(reply, body, 16);
      memcpy(reply + 16, memory + (offset & (sizeof memory - 1) & -count), count);
      return answer(fd, request, 16 + count);
    case WRITE:
      memcpy(&offset, body, 4);
      memcpy(&count, body + 12, 4);
      if (count > sizeof memory) count = sizeof memory;
      memcpy(memory + (offset & (sizeof memory - 1) & -count), body + 16, count);
      memcpy(reply, body, 16);
      return answer(fd, request, 16);
    case GET_INFO: {
      const uint32_t info[4] = {16, 3, 9, 5};
      memcpy(reply, info, sizeof info);
      return answer(fd, request, sizeof info);
    }
    case GET_REGION_INFO: {
      const uint64_t size = sizeof memory;
      const uint32_t words[4] = {32, 3, 0, 0};
      memset(reply, 0, 32);
      memcpy(reply, words, sizeof words);
      memcpy(reply + 8, body + 8, 4);
      memcpy(reply + 16, &size, 8);
      return answer(fd, request, 32);
    }
    case DMA_UNMAP:
      memcpy(reply, body, 24);
      return answer(fd, request, 24);
    default:
      return answer(fd, request, 0);
  }
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  unlink(argv[1]);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4)) return perror(argv[1]), 1;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    size_t have = 0;
    for (ssize_t n; (n = recv(fd, in + have, sizeof in - have, 0)) > 0;) {
      size_t at = 0;
      have += n;
      while (have - at >= sizeof(struct header)) {
        struct header request;
        memcpy(&request, in + at, sizeof request);
        if (request.size < sizeof request || request.size > sizeof in) goto gone;
        if (have - at < request.size) break;
        if (serve_message(fd, (const struct header *)(in + at))) goto gone;
        at += request.size;
      }
      memmove(in, in + at, have -= at);
    }
  gone:
    close(fd);
  }
}
