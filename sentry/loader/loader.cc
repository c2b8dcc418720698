// SPDX-License-Identifier: Apache-2.0
#include "sentry/loader/loader.h"

#include <algorithm>

#include <sys/auxv.h>
#include <sys/random.h>

#include "sentry/loader/elf.h"
#include "sentry/loader/stack.h"

namespace sentry::loader {

using base::err;
using base::RefPtr;
using base::Result;
using enum abi::Errno;

namespace {

constexpr int kMaxInterpreters = 5;    // BINPRM: a script of a script of ...
constexpr size_t kScriptLine = 256;    // BINPRM_BUF_SIZE
constexpr uint64_t kBrkRandomPages = 0x2000;  // 32 MiB

struct ScriptLine {
  std::string interpreter, argument;
};

bool is_blank(char c) { return c == ' ' || c == '\t'; }

// load_script() of fs/binfmt_script.c. nullopt: not a script.
Result<std::optional<ScriptLine>> parse_script(std::string_view head) {
  if (!head.starts_with("#!")) return std::optional<ScriptLine>();
  size_t end = head.find('\n');
  const bool truncated = end == std::string_view::npos && head.size() == kScriptLine;
  std::string_view line = head.substr(2, end == std::string_view::npos ? std::string_view::npos : end - 2);
  // A file of one line without newline ends with the file; NUL bytes end it too.
  line = line.substr(0, line.find('\0'));
  while (!line.empty() && is_blank(line.front())) line.remove_prefix(1);
  const size_t stop = std::min(line.find(' '), line.find('\t'));
  // A path that may have been cut off would run something else.
  if (truncated && stop == std::string_view::npos) return err(kENOEXEC);
  while (!line.empty() && is_blank(line.back())) line.remove_suffix(1);
  if (line.empty()) return err(kENOEXEC);
  ScriptLine out;
  out.interpreter = line.substr(0, std::min(stop, line.size()));
  if (stop < line.size()) {
    std::string_view argument = line.substr(stop);
    while (!argument.empty() && is_blank(argument.front())) argument.remove_prefix(1);
    out.argument = argument;
  }
  return std::optional<ScriptLine>(std::move(out));
}

struct Resolved {
  RefPtr<vfs::FileDescription> binary;
  std::vector<std::string> argv;
};

// Follows #! lines until there is a binary.
Result<Resolved> resolve_scripts(const LoadArgs& args) {
  Resolved r{args.file, args.argv};
  if (r.argv.empty()) r.argv.emplace_back();
  std::string name = args.filename;
  for (int depth = 0;; ++depth) {
    if (depth > kMaxInterpreters) return err(kELOOP);
    char head[kScriptLine];
    const size_t n = TRY(read_at(args.ctx, *r.binary, {static_cast<uint8_t*>(static_cast<void*>(head)), sizeof head}, 0));
    auto script = TRY(parse_script({head, n}));
    if (!script) return r;
    if (args.path_inaccessible && depth == 0) return err(kENOENT);
    std::vector<std::string> argv{script->interpreter};
    if (!script->argument.empty()) argv.push_back(script->argument);
    argv.push_back(name);
    argv.insert(argv.end(), r.argv.begin() + 1, r.argv.end());
    r.argv = std::move(argv);
    name = script->interpreter;
    r.binary = TRY(args.open_exec(name));
  }
}

Result<void> check_sizes(const LoadArgs& args, const std::vector<std::string>& argv) {
  uint64_t total = 0;
  for (const auto* list : {&argv, &args.envp}) {
    for (const std::string& s : *list) {
      if (s.size() + 1 > kMaxArgStrlen) return err(kE2BIG);
      total += s.size() + 1 + sizeof(uint64_t);
    }
  }
  if (total > max_arg_bytes(args.limits)) return err(kE2BIG);
  return {};
}

// The heap starts behind the image, at a random distance.
abi::Addr choose_brk(const MappedElf& image) {
  uint32_t random = 0;
  (void)!getrandom(&random, sizeof random, 0);
  return *image.end.page_up() + (random % kBrkRandomPages) * abi::kPageSize;
}

std::vector<std::pair<uint64_t, uint64_t>> make_auxv(mm::MemoryManager& mm, const ElfImage& elf, const MappedElf& mapped,
                                                     uint64_t interpreter_base, const Identity& id) {
  constexpr uint64_t kHwcap2Fsgsbase = 2;  // GS belongs to the platform: guests go through arch_prctl
  std::vector<std::pair<uint64_t, uint64_t>> v;
  if (abi::Addr vdso = mm.vdso_elf(); !vdso.is_null()) v.emplace_back(AT_SYSINFO_EHDR, vdso.value());
  v.emplace_back(51 /* AT_MINSIGSTKSZ */, getauxval(51));
  v.emplace_back(AT_HWCAP, getauxval(AT_HWCAP));
  v.emplace_back(AT_PAGESZ, abi::kPageSize);
  v.emplace_back(AT_CLKTCK, 100);
  v.emplace_back(AT_PHDR, mapped.phdr.value());
  v.emplace_back(AT_PHENT, sizeof(ElfSegment));
  v.emplace_back(AT_PHNUM, elf.header.phnum);
  v.emplace_back(AT_BASE, interpreter_base);
  v.emplace_back(AT_FLAGS, 0);
  v.emplace_back(AT_ENTRY, mapped.entry.value());
  v.emplace_back(AT_UID, id.uid);
  v.emplace_back(AT_EUID, id.euid);
  v.emplace_back(AT_GID, id.gid);
  v.emplace_back(AT_EGID, id.egid);
  v.emplace_back(AT_SECURE, id.secure ? 1 : 0);
  v.emplace_back(AT_HWCAP2, getauxval(AT_HWCAP2) & ~kHwcap2Fsgsbase);
  return v;
}

}  // namespace

uint64_t max_arg_bytes(const creds::LimitSet& limits) {
  constexpr uint64_t kMin = 32 * abi::kPageSize, kMax = 6 << 20;  // ARG_MAX; 3/4 of _STK_LIM
  const uint64_t quarter = limits.get(creds::Resource::kSTACK).soft / 4;
  return std::clamp(quarter, kMin, kMax);
}

Result<LoadedImage> load(const LoadArgs& args) {
  Resolved program = TRY(resolve_scripts(args));
  TRY(check_sizes(args, program.argv));
  const ElfImage elf = TRY(parse_elf(args.ctx, program.binary, ElfRole::kProgram));
  std::optional<ElfImage> interpreter;
  if (elf.interpreter) {
    auto file = TRY(args.open_exec(*elf.interpreter));
    interpreter = TRY(parse_elf(args.ctx, std::move(file), ElfRole::kInterpreter));
  }
  const Identity identity = TRY(args.decide_identity(*program.binary));
  const MappedElf mapped = TRY(map_elf(args.ctx, args.mm, elf));
  abi::Addr entry = mapped.entry;
  uint64_t interpreter_base = 0;
  if (interpreter) {
    const MappedElf ld = TRY(map_elf(args.ctx, args.mm, *interpreter));
    entry = ld.entry;
    interpreter_base = ld.bias;
    speed_up_cpuid(args.ctx, args.mm, *interpreter, ld.bias);
  }
  mm::MemoryManager::Layout layout;
  layout.brk_start = choose_brk(mapped);
  layout.code_start = mapped.code_start;
  layout.code_end = mapped.code_end;
  layout.data_start = mapped.data_start;
  layout.data_end = mapped.data_end;
  layout.exe = program.binary;
  const StackArgs stack_args{program.argv, args.envp, args.filename, make_auxv(args.mm, elf, mapped, interpreter_base, identity),
                             args.limits, elf.executable_stack};
  LoadedImage image;
  image.stack_pointer = TRY(build_stack(args.mm, stack_args, layout));
  args.mm.set_layout(std::move(layout));
  args.mm.set_dumpable(!identity.secure);
  image.entry = entry;
  image.binary = std::move(program.binary);
  image.executable_stack = elf.executable_stack;
  return image;
}

}  // namespace sentry::loader
