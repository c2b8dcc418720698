// SPDX-License-Identifier: Apache-2.0
#include "gofer/main.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <memory>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/program_pages.h"
#include "base/log/log.h"
#include "gofer/server/config.h"
#include "gofer/server/confine.h"
#include "gofer/server/server.h"

namespace gofer {

namespace {

constexpr size_t kMaxDescriptors = 8192;  // cached; more buys nothing but kernel memory
constexpr size_t kReserve = 32 + kMaxOpenMany;  // donations on their way, directories of a ReadTree, sockets, the log

// How many O_PATH descriptors may be cached.
size_t raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
  (void)getrlimit(RLIMIT_NOFILE, &limit);
  size_t usable = limit.rlim_cur > 2 * kReserve ? limit.rlim_cur - kReserve : kReserve;
  return std::min(kMaxDescriptors, usable * 3 / 4);
}

base::HostResult<std::unique_ptr<Server>> set_up() {
  std::string text = TRY(read_config(kConfigFd));
  close(kConfigFd);
  Config config = TRY(parse_config(text));
  if (config.debug) base::log_init(kLogFd, base::LogLevel::kDebug, base::LogFormat::kText, "gofer");
  umask(0);
  size_t descriptors = raise_descriptor_limit();
  auto roots = TRY(config.confine ? enter_private_root(config) : open_trees_in_place(config));
  auto server = std::make_unique<Server>(base::UniqueFd(kSocketFd),
                                         Server::Options{.host_uds = config.host_uds, .max_descriptors = descriptors});
  base::drop_program_pages();  // the filter knows no madvise
  if (config.confine) TRY(drop_privileges(roots, config));
  for (TreeRoot& root : roots) TRY(server->add_tree(std::move(root)));
  return server;
}

}  // namespace

int server_main(int argc, char** argv) {
  (void)close_range(kLogFd + 1, ~0u, 0);
  base::log_init(kLogFd, base::LogLevel::kWarning, base::LogFormat::kText, "gofer");
  signal(SIGPIPE, SIG_IGN);
  tzset();  // time formatting of the log reads a file at first use, which later would be a filtered call
  auto server = set_up();
  if (!server) {
    LOG_ERROR("gofer: {}", server.error().message);
    close(kSocketFd);
    return 1;
  }
  LOG_DEBUG("serving {} trees", (*server)->nodes().tree_count());
  int status = (*server)->run();
  LOG_DEBUG("done, {} files were still held", (*server)->nodes().size_for_test());
  _exit(status);
}

}  // namespace gofer
