// SPDX-License-Identifier: Apache-2.0
// Random code around a `syscall`, run from random registers: patch_fuzz SEED BATCHES. Every piece stands in two places, once in
// pages that are writable too, where nobody patches, and once in text, where the first execution traps and later ones go through
// whatever the call site was made into. Both must leave the same registers, flags, vector registers and stack, red zone included,
// from each of three entries: the piece's start, the instruction before the `syscall`, the `syscall` itself. Prints a digest of all
// that the pieces left, which must be the same on every kernel; a difference is printed with what is needed to see it again.
#include <fcntl.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kPieces = 32, kPage = 4096, kStack = 1024, kEntries = 3, kRuns = 4 };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

static uint64_t seed_state;
static uint32_t rnd(void) {
  seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(seed_state >> 33);
}
static uint32_t below(uint32_t n) { return rnd() % n; }

struct state {
  uint64_t regs[16], flags;
  uint8_t fx[512] __attribute__((aligned(16)));
};
// Used by the code below at fixed addresses.
struct state in_state, out_state;
uint64_t target, own_stack, exit_address;
static uint8_t stack[kStack] __attribute__((aligned(64)));
static uint8_t stack_before[kStack];
static uint64_t buffer[16];
static int32_t word = 5;

// enter(): the callee-saved registers aside, then everything as in_state says. leave: the reverse, into out_state.
__asm__(
    ".text\n.globl enter\nenter:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, own_stack\nfxrstor64 in_state+144\n"
    "pushq in_state+128\npopfq\n"
    "mov in_state, %rax\nmov in_state+8, %rcx\nmov in_state+16, %rdx\nmov in_state+24, %rbx\nmov in_state+40, %rbp\n"
    "mov in_state+48, %rsi\nmov in_state+56, %rdi\nmov in_state+64, %r8\nmov in_state+72, %r9\nmov in_state+80, %r10\n"
    "mov in_state+88, %r11\nmov in_state+96, %r12\nmov in_state+104, %r13\nmov in_state+112, %r14\nmov in_state+120, %r15\n"
    "mov in_state+32, %rsp\njmp *target\n"
    ".globl leave\nleave:\n"
    "mov %rsp, out_state+32\nmov own_stack, %rsp\n"
    "mov %rax, out_state\nmov %rcx, out_state+8\nmov %rdx, out_state+16\nmov %rbx, out_state+24\nmov %rbp, out_state+40\n"
    "mov %rsi, out_state+48\nmov %rdi, out_state+56\nmov %r8, out_state+64\nmov %r9, out_state+72\nmov %r10, out_state+80\n"
    "mov %r11, out_state+88\nmov %r12, out_state+96\nmov %r13, out_state+104\nmov %r14, out_state+112\nmov %r15, out_state+120\n"
    "pushfq\npopq out_state+128\nfxsave64 out_state+144\ncld\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
void enter(void);
void leave(void);

struct piece {
  uint8_t bytes[kPage];
  uint32_t at, entry[kEntries];
};
static struct piece pieces[kPieces];

static void emit(struct piece *p, const void *bytes, size_t n) {
  memcpy(p->bytes + p->at, bytes, n);
  p->at += (uint32_t)n;
}
#define EMIT(p, ...) emit(p, (uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))
static void emit32(struct piece *p, uint32_t v) { emit(p, &v, 4); }

// mov $value, %reg: as short as a compiler would have it.
static void load(struct piece *p, int reg, uint64_t value) {
  if (value == 0 && below(2)) {  // xor reg, reg
    EMIT(p, (uint8_t)(reg >= 8 ? 0x45 : 0x40), 0x31, (uint8_t)(0xc0 | (reg & 7) << 3 | (reg & 7)));
  } else if (value <= 0xffffffff) {
    if (reg >= 8) EMIT(p, 0x41);
    EMIT(p, (uint8_t)(0xb8 + (reg & 7)));
    emit32(p, (uint32_t)value);
  } else {
    EMIT(p, (uint8_t)(reg >= 8 ? 0x49 : 0x48), 0xc7, (uint8_t)(0xc0 + (reg & 7)));
    emit32(p, (uint32_t)value);
  }
}

// A register that the call neither takes nor gives.
static int scratch(void) {
  static const int kFree[] = {RBX, RBP, R12, R13, R14, R15};
  return kFree[below(6)];
}

// An instruction that changes flags, a scratch register, the red zone or a vector register.
static void filler(struct piece *p) {
  const int a = scratch(), b = scratch(), x = (int)below(8);
  const uint8_t rex = (uint8_t)(0x48 | (b >= 8 ? 4 : 0) | (a >= 8 ? 1 : 0)), modrm = (uint8_t)(0xc0 | (b & 7) << 3 | (a & 7));
  const uint8_t below_stack = (uint8_t)-(8 * (1 + (int)below(16)));
  switch (below(14)) {
    case 0: { static const uint8_t kOps[] = {0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x89}; EMIT(p, rex, kOps[below(10)], modrm); break; }
    case 1: EMIT(p, (uint8_t)(0x48 | (a >= 8)), 0x83, (uint8_t)(0xc0 | below(8) << 3 | (a & 7)), (uint8_t)rnd()); break;
    case 2: EMIT(p, (uint8_t)(0x48 | (a >= 8)), 0xc1, (uint8_t)(0xe0 | (a & 7)), (uint8_t)(1 + below(30))); break;
    case 3: EMIT(p, (uint8_t)(0x48 | (b >= 8 ? 4 : 0)), 0x89, (uint8_t)(0x44 | (b & 7) << 3), 0x24, below_stack); break;  // mov b, -n(%rsp)
    case 4: EMIT(p, (uint8_t)(0x48 | (b >= 8 ? 4 : 0)), 0x8b, (uint8_t)(0x44 | (b & 7) << 3), 0x24, below_stack); break;
    case 5: EMIT(p, (uint8_t)(0x48 | (b >= 8 ? 4 : 0)), 0x8d, (uint8_t)(0x44 | (b & 7) << 3), 0x24, below_stack, 0x66, 0x90); p->at -= below(2) * 2; break;
    case 6: EMIT(p, 0x66, (uint8_t)(0x48 | (a >= 8)), 0x0f, 0x6e, (uint8_t)(0xc0 | x << 3 | (a & 7))); break;  // movq a, %xmm
    case 7: EMIT(p, 0x66, 0x0f, 0xef, (uint8_t)(0xc0 | x << 3 | (int)below(8))); break;                        // pxor
    case 8: EMIT(p, (uint8_t)(0x70 + below(16)), 0x02, 0x66, 0x90); break;                                     // a short jump over a nop
    case 9: EMIT(p, 0x0f, 0x1f, 0x44, 0x00, 0x00); break;
    case 10: EMIT(p, 0x0f, 0x1f, 0x80, 0, 0, 0, 0); break;
    case 11: EMIT(p, (uint8_t)(0x48 | (b >= 8 ? 4 : 0) | (a >= 8)), 0x0f, (uint8_t)(0x40 + below(16)), modrm ^ 0); break;  // cmov
    case 12: EMIT(p, (uint8_t[]){0xf8, 0xf9, 0xf5}[below(3)]); break;                                           // clc stc cmc
    default: EMIT(p, (uint8_t)(0x40 | (a >= 8)), (uint8_t)(0x50 | (a & 7)), (uint8_t)(0x40 | (b >= 8)), (uint8_t)(0x58 | (b & 7))); break;
  }
}

static const struct {
  uint16_t nr;
  uint64_t args[4];  // rdi rsi rdx r10; 1: the buffer, 2: the word, 3: /dev/zero, 4: /dev/null
  uint8_t kind[4];
} calls[] = {
    {1000, {7, 8, 9, 10}, {0}},
    {SYS_getuid, {0}, {0}},
    {SYS_getegid, {0}, {0}},
    {SYS_lseek, {0xffffffff, 0, 0}, {0}},
    {SYS_close, {0xffffffff}, {0}},
    {SYS_read, {3, 1, 64}, {3, 1}},
    {SYS_write, {4, 1, 77}, {4, 1}},
    {SYS_futex, {2, FUTEX_WAKE_PRIVATE, 1}, {2}},
    {SYS_futex, {2, FUTEX_WAIT_PRIVATE, 6, 0}, {2}},
    {SYS_rt_sigprocmask, {0, 0, 1, 8}, {0, 0, 1}},
    {SYS_dup2, {0xffffffff, 1}, {0}},
    {SYS_epoll_wait, {0xffffffff, 1, 1, 0}, {0, 1}},
};
static int zero_fd, null_fd;
static uint64_t argument(uint8_t kind, uint64_t value) {
  switch (kind) {
    case 1: return (uint64_t)buffer;
    case 2: return (uint64_t)&word;
    case 3: return (uint64_t)zero_fd;
    case 4: return (uint64_t)null_fd;
    default: return value;
  }
}

static void make_piece(struct piece *p) {
  static const int kArgs[] = {RDI, RSI, RDX, R10};
  const uint8_t padding[] = {0xcc, 0x90, 0x00, 0xc3};
  memset(p->bytes, padding[below(4)], sizeof p->bytes);
  p->at = below(2) ? below(kPage - 600) : kPage - 64 - below(40) - 120;  // often near the end of the page
  if (p->at > kPage - 400) p->at = kPage - 400;
  p->entry[0] = p->at;
  const unsigned c = below(sizeof calls / sizeof *calls);
  for (uint32_t i = below(4); i; i--) filler(p);
  for (int a = 0; a < 4; a++) {
    load(p, kArgs[a], argument(calls[c].kind[a], calls[c].args[a]));
    if (below(4) == 0) filler(p);
  }
  const uint8_t nr = (uint8_t)calls[c].nr;
  const bool wide = calls[c].nr > 127;
  uint32_t before = p->at;
  switch (below(8)) {
    case 0: case 1: EMIT(p, 0xb8); emit32(p, calls[c].nr); break;                    // mov $nr, %eax
    case 2: EMIT(p, 0x48, 0xc7, 0xc0); emit32(p, calls[c].nr); break;                // mov $nr, %rax
    case 3: load(p, RBX, calls[c].nr); before = p->at; EMIT(p, 0x89, 0xd8); break;   // mov %ebx, %eax
    case 4:                                                                          // through the red zone
      EMIT(p, 0xc7, 0x44, 0x24, 0xf8); emit32(p, calls[c].nr);
      before = p->at; EMIT(p, 0x8b, 0x44, 0x24, 0xf8); break;
    case 5:                                                                          // number first, something else between
      EMIT(p, 0xb8); emit32(p, calls[c].nr); before = p->at; filler(p); break;
    case 6:
      if (!wide) { EMIT(p, 0x6a, nr); before = p->at; EMIT(p, 0x58); break; }        // push, pop
      // fall through
    default:                                                                         // five bytes: lea disp8 of a SIB address
      load(p, RBX, calls[c].nr + 8u); before = p->at; EMIT(p, 0x48, 0x8d, 0x44, 0x23, 0xf8); break;
  }
  // lea -8(%rbx): a SIB byte without index.
  p->entry[1] = before;
  p->entry[2] = p->at;
  EMIT(p, 0x0f, 0x05);
  for (uint32_t i = below(5); i; i--) filler(p);
  EMIT(p, 0xff, 0x24, 0x25);  // jmp *exit_address
  emit32(p, (uint32_t)(uintptr_t)&exit_address);
  // Padding behind the jump, as compilers align the next function.
  static const uint8_t kNops[] = {0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0};
  if (below(2)) emit(p, kNops, sizeof kNops);
  else for (uint32_t i = below(12); i; i--) EMIT(p, 0xcc);
}

static uint64_t digest = 1469598103934665603u;
static void mix(const void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) digest = (digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
}

struct result {
  struct state s;
  uint8_t stack[kStack];
  uint64_t buffer[16];
};

static void run(const struct state *from, const uint8_t *text, const struct piece *p, int entry, struct result *out) {
  in_state = *from;
  if (entry != 0) {  // the start would have loaded what the call is given
    in_state.regs[RBX] = in_state.regs[RAX];
  }
  memcpy(stack, stack_before, sizeof stack);
  memset(buffer, 0x5a, sizeof buffer);
  target = (uint64_t)(text + p->entry[entry]);
  enter();
  out->s = out_state;
  // What the kernel leaves in rcx is the address behind the `syscall`.
  out->s.regs[RCX] -= (uint64_t)text;
  memcpy(out->stack, stack, sizeof stack);
  memcpy(out->buffer, buffer, sizeof buffer);
  memset(out->s.fx, 0, 160);             // control words are what they were; the x87 stack is not used
  memset(out->s.fx + 416, 0, 96);        // unused by the hardware
}

static int differ(const struct result *a, const struct result *b) {
  int bad = 0;
  for (int r = 0; r < 16; r++)
    if (a->s.regs[r] != b->s.regs[r]) bad = 1, printf("# register %d: %llx, patched %llx\n", r, (long long)a->s.regs[r], (long long)b->s.regs[r]);
  if (a->s.flags != b->s.flags) bad = 1, printf("# flags: %llx, patched %llx\n", (long long)a->s.flags, (long long)b->s.flags);
  if (memcmp(a->s.fx, b->s.fx, sizeof a->s.fx)) bad = 1, printf("# vector registers differ\n");
  const size_t red_zone = kStack / 2 - 128;  // what is further down belongs to nobody
  if (memcmp(a->stack + red_zone, b->stack + red_zone, kStack - red_zone)) bad = 1, printf("# the stack differs\n");
  if (memcmp(a->buffer, b->buffer, sizeof a->buffer)) bad = 1, printf("# the buffer differs\n");
  return bad;
}

static void random_state(struct state *s, int entry) {
  for (int r = 0; r < 16; r++) s->regs[r] = (uint64_t)rnd() << 32 | rnd();
  s->regs[RSP] = (uint64_t)(stack + kStack / 2);
  s->flags = 0x202 | (rnd() & 0x8d5);
  __asm__ volatile("fxsave64 %0" : "=m"(s->fx));
  for (int i = 160; i < 160 + 128; i++) s->fx[i] = (uint8_t)rnd();
  for (int i = 0; i < kStack; i++) stack_before[i] = (uint8_t)rnd();
  if (entry == 0) return;
  // Into the middle: a call without arguments that matter, by every way in which the piece may load its number.
  s->regs[RAX] = 1000;
  s->regs[RBX] = 1000;
  *(uint64_t *)(stack_before + kStack / 2) = 1000;
  *(uint64_t *)(stack_before + kStack / 2 - 8) = 1000;
  // Harmless for whatever number it is, and with one thing wrong only: the descriptor, address or size.
  s->regs[RDI] = s->regs[R10] = ~0ull;
  s->regs[RSI] = (uint64_t)buffer;
  s->regs[RDX] = 1;
}

static uint8_t *place(int batch, bool writable) {
  const size_t size = sizeof(pieces[0].bytes) * kPieces;
  // Near the program: where those who patch by a jump have somewhere to jump to.
  uint8_t *text = (uint8_t *)(writable ? 0x30000000L : 0x20000000L);
  if (!writable && batch % 2) {  // text of a file
    int fd = memfd_create("text", 0);
    for (int i = 0; i < kPieces; i++)
      if (pwrite(fd, pieces[i].bytes, kPage, (off_t)i * kPage) != kPage) exit(2);
    text = mmap(text, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    close(fd);
  } else {
    text = mmap(text, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (text != MAP_FAILED)
      for (int i = 0; i < kPieces; i++) memcpy(text + (size_t)i * kPage, pieces[i].bytes, kPage);
    if (text != MAP_FAILED && mprotect(text, size, PROT_READ | PROT_EXEC | (writable ? PROT_WRITE : 0))) exit(2);
  }
  if (text == MAP_FAILED) exit(2);
  return text;
}

int main(int argc, char **argv) {
  const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
  const int batches = argc > 2 ? atoi(argv[2]) : 20;
  zero_fd = open("/dev/zero", O_RDONLY);
  null_fd = open("/dev/null", O_WRONLY);
  if (dup2(zero_fd, 20) < 0 || dup2(null_fd, 21) < 0) return 2;
  zero_fd = 20, null_fd = 21;
  exit_address = (uint64_t)leave;
  int bad = 0;
  for (int batch = 0; batch < batches && bad < 5; batch++) {
    seed_state = seed + (uint64_t)batch * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < kPieces; i++) make_piece(&pieces[i]);
    uint8_t *plain = place(batch, true), *text = place(batch, false);
    for (int i = 0; i < kPieces; i++) {
      const size_t at = (size_t)i * kPage;
      for (int k = 0; k < kRuns * kEntries; k++) {
        const int entry = k < 2 ? 0 : (int)below(kEntries);
        struct state from;
        struct result expected, got;
        random_state(&from, entry);
        run(&from, plain + at, &pieces[i], entry, &expected);
        run(&from, text + at, &pieces[i], entry, &got);
        mix(&expected.s.regs, sizeof expected.s.regs);
        mix(&expected.s.flags, 8);
        mix(expected.s.fx, sizeof expected.s.fx);
        mix(expected.stack + kStack / 2 - 128, kStack / 2 + 128);
        mix(expected.buffer, sizeof expected.buffer);
        if (argc > 3) {
          printf("%d.%d.%d entry %d digest %016llx flags %llx registers", batch, i, k, entry, (long long)digest, (long long)expected.s.flags);
          for (int r = 0; r < 16; r++) printf(" %llx", (long long)expected.s.regs[r]);
          printf("\n");
        }
        if (!differ(&expected, &got)) continue;
        printf("not ok: seed %llu batch %d piece %d entry %d run %d, syscall at +%u:", (long long)seed, batch, i, entry, k,
               pieces[i].entry[2] - pieces[i].entry[0]);
        for (uint32_t b = pieces[i].entry[0]; b < pieces[i].at; b++) printf(" %02x", pieces[i].bytes[b]);
        printf("\n");
        bad++;
        break;
      }
    }
    munmap(plain, sizeof(pieces[0].bytes) * kPieces);
    munmap(text, sizeof(pieces[0].bytes) * kPieces);
  }
  printf("digest %016llx\n", (long long)digest);
  return bad ? 1 : 0;
}
