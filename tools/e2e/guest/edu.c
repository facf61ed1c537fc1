/*
 * Drives QEMU's educational PCI device (or one that claims to be it) from inside a guest and prints one line a check:
 * "ok NAME" or "FAIL NAME: what was seen". Exit code 0 when every check passed, 1 when one failed, 2 when it could not
 * start.
 *
 *   edu vfio BDF msi|intx|none    the function is bound to vfio-pci; DMA goes through the guest's IOMMU
 *   edu uio BDF intx|none         the function is bound to uio_pci_generic; DMA uses physical addresses
 *
 * "none" expects that no interrupt arrives although the device says it raised one.
 *
 * Registers as in QEMU's docs/specs/edu.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  EDU_ID = 0x00,
  EDU_LIVENESS = 0x04,
  EDU_FACTORIAL = 0x08,
  EDU_STATUS = 0x20,
  EDU_IRQ_STATUS = 0x24,
  EDU_IRQ_RAISE = 0x60,
  EDU_IRQ_ACK = 0x64,
  EDU_DMA_SOURCE = 0x80,
  EDU_DMA_DESTINATION = 0x88,
  EDU_DMA_COUNT = 0x90,
  EDU_DMA_COMMAND = 0x98,
};
enum { STATUS_COMPUTING = 0x01, STATUS_IRQ = 0x80 };
enum { DMA_START = 1, DMA_FROM_DEVICE = 2, DMA_IRQ = 4 };
enum { IRQ_FACTORIAL = 0x1, IRQ_DMA = 0x100 };
#define DEVICE_BUFFER 0x40000u
#define BUFFER_SIZE 4096u
#define BAR_SIZE 0x100000u
#define PCI_COMMAND 0x04
#define COMMAND_MEMORY_MASTER 0x6
#define COMMAND_INTX_DISABLE 0x400
/* The device drives 28 address bits. */
#define DMA_LIMIT 0x10000000ull

struct machine {
  volatile uint8_t *bar;
  /* Memory that the device reaches, and its address there. */
  uint8_t *memory;
  uint64_t address;
  /* Waits for an interrupt; 1 when one came, 0 when none did in time. */
  int (*wait)(struct machine *m, int milliseconds);
  int fd, container, config, irq_index;
  uint64_t config_offset;
};

static int failures;

static void check(int good, const char *name, const char *format, ...) {
  if (good) {
    printf("ok %s\n", name);
    return;
  }
  va_list list;
  va_start(list, format);
  printf("FAIL %s: ", name);
  vprintf(format, list);
  printf("\n");
  va_end(list);
  failures++;
}

static void die(const char *what) {
  fprintf(stderr, "edu: %s: %s\n", what, strerror(errno));
  exit(2);
}

static uint32_t get32(struct machine *m, uint32_t at) { return *(volatile uint32_t *)(m->bar + at); }
static void set32(struct machine *m, uint32_t at, uint32_t value) { *(volatile uint32_t *)(m->bar + at) = value; }
static uint64_t get64(struct machine *m, uint32_t at) { return *(volatile uint64_t *)(m->bar + at); }
static void set64(struct machine *m, uint32_t at, uint64_t value) { *(volatile uint64_t *)(m->bar + at) = value; }

/* Gives up after five seconds. */
static int clears(struct machine *m, uint32_t at, uint64_t bit) {
  for (int i = 0; i < 5000; i++) {
    if (!((at >= EDU_DMA_SOURCE ? get64(m, at) : get32(m, at)) & bit)) return 1;
    usleep(1000);
  }
  return 0;
}

static int dma(struct machine *m, uint64_t from, uint64_t to, uint64_t count, uint64_t flags) {
  set64(m, EDU_DMA_SOURCE, from);
  set64(m, EDU_DMA_DESTINATION, to);
  set64(m, EDU_DMA_COUNT, count);
  set64(m, EDU_DMA_COMMAND, DMA_START | flags);
  return clears(m, EDU_DMA_COMMAND, DMA_START);
}

/* -- through vfio-pci ------------------------------------------------------------------------------------------- */

static void set_irq(struct machine *m, uint32_t action, int fd) {
  struct {
    struct vfio_irq_set head;
    int32_t fd;
  } set = {{.argsz = sizeof set, .index = m->irq_index, .count = 1}, fd};
  set.head.flags = action | (action == VFIO_IRQ_SET_ACTION_TRIGGER ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE);
  if (action != VFIO_IRQ_SET_ACTION_TRIGGER) set.head.argsz = sizeof set.head;
  if (ioctl(m->fd, VFIO_DEVICE_SET_IRQS, &set)) die("VFIO_DEVICE_SET_IRQS");
}

static int event;

static int wait_vfio(struct machine *m, int milliseconds) {
  (void)m;
  struct pollfd p = {.fd = event, .events = POLLIN};
  if (poll(&p, 1, milliseconds) != 1) return 0;
  uint64_t count;
  if (read(event, &count, sizeof count) != sizeof count) die("eventfd");
  return 1;
}

/* A level interrupt was masked by the kernel when it fired; it comes again unless the device was quieted first. */
static void unmask_vfio(struct machine *m) {
  if (m->irq_index == VFIO_PCI_INTX_IRQ_INDEX) set_irq(m, VFIO_IRQ_SET_ACTION_UNMASK, -1);
}

static void open_vfio(struct machine *m, const char *bdf, int intx) {
  char path[128], link[PATH_MAX];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", bdf);
  ssize_t length = readlink(path, link, sizeof link - 1);
  if (length < 0) die("iommu_group");
  link[length] = 0;
  snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(link, '/') + 1);
  m->container = open("/dev/vfio/vfio", O_RDWR);
  int group = open(path, O_RDWR);
  if (m->container < 0 || group < 0) die(path);
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &m->container)) die("VFIO_GROUP_SET_CONTAINER");
  if (ioctl(m->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) die("VFIO_SET_IOMMU");
  m->fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
  if (m->fd < 0) die("VFIO_GROUP_GET_DEVICE_FD");

  struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
  struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
  if (ioctl(m->fd, VFIO_DEVICE_GET_REGION_INFO, &config)) die("config region");
  if (ioctl(m->fd, VFIO_DEVICE_GET_REGION_INFO, &bar)) die("BAR region");
  check(bar.size == BAR_SIZE, "bar-size", "%#llx", (unsigned long long)bar.size);
  m->config = m->fd;
  m->config_offset = config.offset;
  void *mapped = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, bar.offset);
  if (mapped == MAP_FAILED) die("mmap of BAR 0");
  m->bar = mapped;

  m->memory = mmap(NULL, 2 * BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  m->address = 0x5000000;
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof map,
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (uintptr_t)m->memory,
      .iova = m->address,
      .size = 2 * BUFFER_SIZE,
  };
  memset(m->memory, 0, 2 * BUFFER_SIZE);
  if (ioctl(m->container, VFIO_IOMMU_MAP_DMA, &map)) die("VFIO_IOMMU_MAP_DMA");

  m->irq_index = intx ? VFIO_PCI_INTX_IRQ_INDEX : VFIO_PCI_MSI_IRQ_INDEX;
  event = eventfd(0, EFD_NONBLOCK);
  set_irq(m, VFIO_IRQ_SET_ACTION_TRIGGER, event);
  m->wait = wait_vfio;
}

/* -- through uio_pci_generic ------------------------------------------------------------------------------------- */

static int wait_uio(struct machine *m, int milliseconds) {
  struct pollfd p = {.fd = m->fd, .events = POLLIN};
  if (poll(&p, 1, milliseconds) != 1) return 0;
  uint32_t count;
  if (read(m->fd, &count, sizeof count) != sizeof count) die("uio");
  return 1;
}

static uint64_t physical(const void *page) {
  int fd = open("/proc/self/pagemap", O_RDONLY);
  uint64_t entry = 0;
  if (fd < 0 || pread(fd, &entry, sizeof entry, (uintptr_t)page / 4096 * 8) != sizeof entry) die("pagemap");
  close(fd);
  return entry >> 63 ? (entry & ((1ull << 55) - 1)) * 4096 : 0;
}

static void open_uio(struct machine *m, const char *bdf) {
  char path[128];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/config", bdf);
  m->config = open(path, O_RDWR);
  if (m->config < 0) die(path);
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/resource0", bdf);
  int resource = open(path, O_RDWR | O_SYNC);
  if (resource < 0) die(path);
  void *mapped = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, resource, 0);
  if (mapped == MAP_FAILED) die("mmap of resource0");
  m->bar = mapped;
  glob_t found;
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/uio/uio*", bdf);
  if (glob(path, 0, NULL, &found)) die("uio device");
  snprintf(path, sizeof path, "/dev/%s", strrchr(found.gl_pathv[0], '/') + 1);
  m->fd = open(path, O_RDWR);
  if (m->fd < 0) die(path);
  /* One page that the device can address; two in a row are not needed here. */
  for (int i = 0; i < 4096 && !m->address; i++) {
    uint8_t *page = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    if (page == MAP_FAILED) die("mmap");
    memset(page, 1, BUFFER_SIZE);
    uint64_t at = physical(page);
    if (at && at + BUFFER_SIZE <= DMA_LIMIT) {
      m->memory = page;
      m->address = at;
    }
  }
  errno = ENOMEM;
  if (!m->address) die("no page below 256 MiB");
  m->wait = wait_uio;
}

static uint16_t command(struct machine *m) {
  uint16_t value = 0;
  if (pread(m->config, &value, 2, m->config_offset + PCI_COMMAND) != 2) die("reading COMMAND");
  return value;
}

static void set_command(struct machine *m, uint16_t value) {
  if (pwrite(m->config, &value, 2, m->config_offset + PCI_COMMAND) != 2) die("writing COMMAND");
}

/* -- the checks -------------------------------------------------------------------------------------------------- */

struct options {
  int vfio, interrupts;
};

/* Expects one interrupt (or none, where they are off), then quiets the device and makes the line usable again. */
static void interrupt(struct machine *m, const struct options *o, const char *name, uint32_t expected) {
  int came = m->wait(m, o->interrupts ? 5000 : 300);
  uint32_t status = get32(m, EDU_IRQ_STATUS);
  check(came == o->interrupts, name, "%s", came ? "an interrupt came" : "no interrupt came");
  char text[64];
  snprintf(text, sizeof text, "%s-status", name);
  check(status == expected, text, "%#x instead of %#x", status, expected);
  set32(m, EDU_IRQ_ACK, status);
  snprintf(text, sizeof text, "%s-ack", name);
  check(get32(m, EDU_IRQ_STATUS) == 0, text, "%#x", get32(m, EDU_IRQ_STATUS));
  if (!came) return;
  if (o->vfio) unmask_vfio(m);
  else set_command(m, command(m) & ~COMMAND_INTX_DISABLE);
  snprintf(text, sizeof text, "%s-quiet", name);
  check(!m->wait(m, 100), text, "it came again after it was acknowledged");
}

static void registers(struct machine *m) {
  check(get32(m, EDU_ID) == 0x010000ed, "identification", "%#x", get32(m, EDU_ID));
  static const uint32_t patterns[] = {0, 0xffffffff, 0x12345678, 0xa5a5a5a5};
  for (unsigned i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    set32(m, EDU_LIVENESS, patterns[i]);
    uint32_t seen = get32(m, EDU_LIVENESS);
    char name[32];
    snprintf(name, sizeof name, "liveness-%08x", patterns[i]);
    check(seen == ~patterns[i], name, "%#x", seen);
  }
  static const uint32_t factorials[][2] = {{0, 1}, {5, 120}, {12, 479001600}, {13, 1932053504}};
  set32(m, EDU_STATUS, 0);
  for (unsigned i = 0; i < sizeof factorials / sizeof *factorials; i++) {
    set32(m, EDU_FACTORIAL, factorials[i][0]);
    int done = clears(m, EDU_STATUS, STATUS_COMPUTING);
    char name[32];
    snprintf(name, sizeof name, "factorial-%u", factorials[i][0]);
    check(done && get32(m, EDU_FACTORIAL) == factorials[i][1], name, "%u", get32(m, EDU_FACTORIAL));
  }
}

static void transfers(struct machine *m) {
  static const struct {
    uint32_t offset, count;
  } shapes[] = {{0, BUFFER_SIZE}, {0, 1}, {3, 13}, {1024, 2048}, {BUFFER_SIZE - 8, 8}};
  for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    uint32_t offset = shapes[i].offset, count = shapes[i].count;
    uint8_t sent[BUFFER_SIZE], expected[BUFFER_SIZE];
    for (unsigned j = 0; j < BUFFER_SIZE; j++) sent[j] = j * 7 + j / 251 + i * 31;
    memcpy(m->memory, sent, BUFFER_SIZE);
    int out = dma(m, m->address + offset, DEVICE_BUFFER + offset, count, 0);
    /* Only what the device writes back may change. */
    memset(m->memory, 0xee, BUFFER_SIZE);
    memset(expected, 0xee, BUFFER_SIZE);
    memcpy(expected + offset, sent + offset, count);
    int in = dma(m, DEVICE_BUFFER + offset, m->address + offset, count, DMA_FROM_DEVICE);
    unsigned wrong = 0;
    while (wrong < BUFFER_SIZE && m->memory[wrong] == expected[wrong]) wrong++;
    char name[32];
    snprintf(name, sizeof name, "dma-%u+%u", offset, count);
    check(out && in && wrong == BUFFER_SIZE, name, "%s, first wrong byte %u: %#x instead of %#x",
          out && in ? "finished" : "never finished", wrong, wrong < BUFFER_SIZE ? m->memory[wrong] : 0,
          wrong < BUFFER_SIZE ? expected[wrong] : 0);
  }
}

/* Many transfers back to back, each with other bytes. */
static void stress(struct machine *m, int rounds) {
  int wrong = 0;
  for (int i = 0; i < rounds; i++) {
    uint8_t sent[256];
    for (unsigned j = 0; j < sizeof sent; j++) sent[j] = i * 13 + j;
    memcpy(m->memory, sent, sizeof sent);
    if (!dma(m, m->address, DEVICE_BUFFER, sizeof sent, 0)) wrong++;
    memset(m->memory, 0, sizeof sent);
    if (!dma(m, DEVICE_BUFFER, m->address + 1024, sizeof sent, DMA_FROM_DEVICE)) wrong++;
    if (memcmp(m->memory + 1024, sent, sizeof sent)) wrong++;
  }
  check(wrong == 0, "dma-repeated", "%d of %d went wrong", wrong, rounds);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc != 4) {
    fprintf(stderr, "usage: edu vfio BDF msi|intx|none | edu uio BDF intx|none\n");
    return 2;
  }
  struct options o = {.vfio = !strcmp(argv[1], "vfio"), .interrupts = !!strcmp(argv[3], "none")};
  struct machine m = {0};
  if (o.vfio) open_vfio(&m, argv[2], !strcmp(argv[3], "intx"));
  else open_uio(&m, argv[2]);
  set_command(&m, (command(&m) | COMMAND_MEMORY_MASTER) & ~COMMAND_INTX_DISABLE);

  registers(&m);
  transfers(&m);
  stress(&m, 5);

  set32(&m, EDU_IRQ_RAISE, 0x40);
  interrupt(&m, &o, "irq-raised", 0x40);
  set32(&m, EDU_STATUS, STATUS_IRQ);
  set32(&m, EDU_FACTORIAL, 10);
  interrupt(&m, &o, "irq-factorial", IRQ_FACTORIAL);
  check(get32(&m, EDU_FACTORIAL) == 3628800, "factorial-10", "%u", get32(&m, EDU_FACTORIAL));
  set32(&m, EDU_STATUS, 0);
  check(dma(&m, m.address, DEVICE_BUFFER, 64, DMA_IRQ), "irq-dma-done", "never finished");
  interrupt(&m, &o, "irq-dma", IRQ_DMA);

  /* Without bus mastering the device must not reach memory. */
  memset(m.memory, 0x11, BUFFER_SIZE);
  dma(&m, m.address, DEVICE_BUFFER, 64, 0);
  set_command(&m, command(&m) & ~0x4);
  memset(m.memory, 0x22, BUFFER_SIZE);
  dma(&m, DEVICE_BUFFER, m.address, 64, DMA_FROM_DEVICE);
  check(m.memory[0] == 0x22 && m.memory[63] == 0x22, "no-master-no-dma", "%#x", m.memory[0]);
  set_command(&m, command(&m) | 0x4);
  dma(&m, DEVICE_BUFFER, m.address, 64, DMA_FROM_DEVICE);
  check(m.memory[0] == 0x11, "master-again", "%#x", m.memory[0]);

  if (o.vfio) {
    /* An address that the IOMMU has no entry for: nothing arrives, nothing breaks. */
    struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = m.address, .size = 2 * BUFFER_SIZE};
    memset(m.memory, 0x33, BUFFER_SIZE);
    if (ioctl(m.container, VFIO_IOMMU_UNMAP_DMA, &unmap)) die("VFIO_IOMMU_UNMAP_DMA");
    dma(&m, DEVICE_BUFFER, m.address, 64, DMA_FROM_DEVICE);
    check(m.memory[0] == 0x33, "unmapped-no-dma", "%#x", m.memory[0]);
    check(get32(&m, EDU_ID) == 0x010000ed, "alive-after-fault", "%#x", get32(&m, EDU_ID));
  }
  printf("%s\n", failures ? "edu: FAILED" : "edu: all checks passed");
  return failures ? 1 : 0;
}
