// SPDX-License-Identifier: Apache-2.0
#include "sentry/loader/stack.h"

#include <algorithm>
#include <cstring>

#include <sys/random.h>

namespace sentry::loader {

using base::err;
using base::Result;
using enum abi::Errno;

namespace {

constexpr uint64_t kAtNull = 0, kAtPlatform = 15, kAtRandom = 25, kAtExecfn = 31;
constexpr uint64_t kInitialSize = 132 * 1024;        // setup_arg_pages(): stack_expand of 128 KiB
constexpr uint64_t kRandomRange = uint64_t{256} << 20;

// Grows downwards in a buffer that is copied out once; addresses are final.
class StackImage {
 public:
  explicit StackImage(abi::Addr top) : top_(top) {}
  abi::Addr push(const void* data, size_t n) {
    bytes_.insert(bytes_.end(), n, 0);
    used_ += n;
    std::memcpy(bytes_.data() + bytes_.size() - n, data, n);
    std::reverse(bytes_.end() - static_cast<ptrdiff_t>(n), bytes_.end());
    return at();
  }
  void align(uint64_t to) {
    while (at().value() % to != 0) {
      bytes_.push_back(0);
      ++used_;
    }
  }
  abi::Addr at() const { return top_ - used_; }
  Result<void> write(mm::MemoryManager& mm) {
    std::reverse(bytes_.begin(), bytes_.end());
    return mm.copy_out(at(), bytes_.data(), bytes_.size());
  }

 private:
  const abi::Addr top_;
  uint64_t used_ = 0;
  std::vector<uint8_t> bytes_;  // reversed: the byte at the highest address first
};

Result<abi::Addr> map_stack(mm::MemoryManager& mm, uint64_t size, const StackArgs& args) {
  for (int attempt = 0; attempt < 16; ++attempt) {
    uint64_t random = 0;
    (void)!getrandom(&random, sizeof random, 0);
    const abi::Addr top = mm.address_limit() - abi::kPageSize - (random % kRandomRange & ~uint64_t{abi::kPageSize - 1});
    mm::MmapOptions o;
    o.addr = top - size;
    o.length = size;
    o.prot = {true, true, args.executable};
    o.placement = mm::Placement::kFixedNoReplace;
    o.grows_down = o.stack = true;
    o.name = "[stack]";
    auto mapped = mm.mmap(o);
    if (mapped) return top;
    if (mapped.error() != kEEXIST) return err(mapped.error());
  }
  return err(kENOMEM);
}

std::vector<abi::Addr> push_strings(StackImage& stack, const std::vector<std::string>& strings, abi::Addr& start, abi::Addr& end) {
  std::vector<abi::Addr> addrs(strings.size());
  end = stack.at();
  for (size_t i = strings.size(); i-- > 0;) addrs[i] = stack.push(strings[i].c_str(), strings[i].size() + 1);
  start = stack.at();
  return addrs;
}

}  // namespace

Result<abi::Addr> build_stack(mm::MemoryManager& mm, const StackArgs& args, mm::MemoryManager::Layout& layout) {
  uint64_t bytes = args.filename.size() + 4096;
  for (const auto* list : {&args.argv, &args.envp})
    for (const std::string& s : *list) bytes += s.size() + 1 + sizeof(uint64_t);
  const uint64_t limit = args.limits.get(creds::Resource::kSTACK).soft;
  uint64_t size = (bytes + kInitialSize + abi::kPageSize - 1) & ~uint64_t{abi::kPageSize - 1};
  if (limit != creds::kInfinity) size = std::max((bytes + 2 * abi::kPageSize - 1) & ~uint64_t{abi::kPageSize - 1}, std::min(size, limit & ~uint64_t{abi::kPageSize - 1}));
  const abi::Addr top = TRY(map_stack(mm, size, args));
  layout.stack_top = top;

  StackImage stack(top);
  const uint64_t zero = 0;
  stack.push(&zero, sizeof zero);
  const abi::Addr execfn = stack.push(args.filename.c_str(), args.filename.size() + 1);
  const auto envp = push_strings(stack, args.envp, layout.env_start, layout.env_end);
  const auto argv = push_strings(stack, args.argv, layout.arg_start, layout.arg_end);
  uint64_t random[3];
  (void)!getrandom(random, sizeof random, 0);
  stack.align(16);
  const abi::Addr platform = stack.push("x86_64", 7);
  const abi::Addr at_random = stack.push(random, 16);

  std::vector<uint64_t> aux;
  for (auto [key, value] : args.auxv) aux.insert(aux.end(), {key, value});
  aux.insert(aux.end(), {kAtRandom, at_random.value(), kAtExecfn, execfn.value(), kAtPlatform, platform.value(), kAtNull, 0});
  layout.auxv.resize(aux.size() * sizeof(uint64_t));
  std::memcpy(layout.auxv.data(), aux.data(), layout.auxv.size());

  std::vector<uint64_t> words;
  words.push_back(argv.size());
  for (abi::Addr a : argv) words.push_back(a.value());
  words.push_back(0);
  for (abi::Addr a : envp) words.push_back(a.value());
  words.push_back(0);
  words.insert(words.end(), aux.begin(), aux.end());
  stack.align(16);
  if ((words.size() & 1) != 0) stack.push(&zero, sizeof zero);  // argc is 16-byte aligned
  stack.push(words.data(), words.size() * sizeof(uint64_t));
  TRY(stack.write(mm));
  mm.prepare_write(stack.at());
  return stack.at();
}

}  // namespace sentry::loader
