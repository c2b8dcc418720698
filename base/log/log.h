// SPDX-License-Identifier: Apache-2.0
// Leveled logging to one descriptor, chosen at start. Formatting happens only when the level is on.
//   LOG_DEBUG("mount {} at {}", type, path);
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include <fmt/core.h>

namespace base {

enum class LogLevel : uint8_t { kError, kWarning, kInfo, kDebug };
enum class LogFormat : uint8_t { kText, kJson };

// fd < 0 turns logging off. `who` names the process in each line ("sentry", "gofer", "cli"). Not thread-safe:
// call before threads start. The descriptor stays the caller's.
void log_init(int fd, LogLevel level, LogFormat format, std::string_view who);
int log_fd();

extern std::atomic<LogLevel> log_threshold;
inline bool log_enabled(LogLevel level) { return level <= log_threshold.load(std::memory_order_relaxed); }

void log_write(LogLevel level, std::string_view text);
void log_vformat(LogLevel level, fmt::string_view format, fmt::format_args args);

template <typename... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_vformat(level, format, fmt::make_format_args(args...));
}

// True at most `per_second` times a second; for messages that a guest can provoke.
class RateLimit {
 public:
  explicit constexpr RateLimit(uint32_t per_second) : per_second_(per_second) {}
  bool allow();

 private:
  std::atomic<uint64_t> window_{0};
  std::atomic<uint32_t> used_{0};
  uint32_t per_second_;
};

}  // namespace base

#define LOG_AT(level, ...)                                                \
  do {                                                                    \
    if (::base::log_enabled(level)) ::base::log_at(level, __VA_ARGS__);   \
  } while (0)
#define LOG_ERROR(...) LOG_AT(::base::LogLevel::kError, __VA_ARGS__)
#define LOG_WARNING(...) LOG_AT(::base::LogLevel::kWarning, __VA_ARGS__)
#define LOG_INFO(...) LOG_AT(::base::LogLevel::kInfo, __VA_ARGS__)
#define LOG_DEBUG(...) LOG_AT(::base::LogLevel::kDebug, __VA_ARGS__)
