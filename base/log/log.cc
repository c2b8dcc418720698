// SPDX-License-Identifier: Apache-2.0
#include "base/log/log.h"

#include <cerrno>
#include <ctime>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

namespace base {

std::atomic<LogLevel> log_threshold{LogLevel::kError};

namespace {

int g_fd = -1;
LogFormat g_format = LogFormat::kText;
char g_who[16] = "runsc";

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kError: return "error";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kInfo: return "info";
    case LogLevel::kDebug: return "debug";
  }
  return "?";
}

void append_json_string(fmt::memory_buffer& out, std::string_view text) {
  for (char c : text) {
    auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (u < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", u);
    } else {
      out.push_back(c);
    }
  }
}

}  // namespace

void log_init(int fd, LogLevel level, LogFormat format, std::string_view who) {
  g_fd = fd;
  g_format = format;
  size_t n = who.copy(g_who, sizeof g_who - 1);
  g_who[n] = '\0';
  log_threshold.store(level, std::memory_order_relaxed);
  tzset();  // or the first time stamp would open a file, which filters forbid by then
}

int log_fd() { return g_fd; }

void log_write(LogLevel level, std::string_view text) {
  if (g_fd < 0) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char stamp[40];
  size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
  fmt::memory_buffer line;
  auto out = std::back_inserter(line);
  std::string_view when(stamp, n);
  if (g_format == LogFormat::kJson) {
    line.append(std::string_view("{\"msg\":\""));
    append_json_string(line, text);
    fmt::format_to(out, "\",\"level\":\"{}\",\"time\":\"{}.{:09}Z\"}}\n", level_name(level), when, now.tv_nsec);
  } else {
    fmt::format_to(out, "{}.{:06} {} {} {}\n", when, now.tv_nsec / 1000, g_who, level_name(level), text);
  }
  const char* p = line.data();
  size_t left = line.size();
  while (left > 0) {
    ssize_t wrote = write(g_fd, p, left);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return;
    p += wrote;
    left -= static_cast<size_t>(wrote);
  }
}

void log_vformat(LogLevel level, fmt::string_view format, fmt::format_args args) {
  fmt::memory_buffer text;
  fmt::vformat_to(std::back_inserter(text), format, args);
  log_write(level, {text.data(), text.size()});
}

bool RateLimit::allow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  auto second = static_cast<uint64_t>(now.tv_sec);
  uint64_t seen = window_.load(std::memory_order_relaxed);
  if (seen != second && window_.compare_exchange_strong(seen, second)) used_.store(0);
  return used_.fetch_add(1, std::memory_order_relaxed) < per_second_;
}

}  // namespace base
