// SPDX-License-Identifier: Apache-2.0
// Host terminals: making one for --console-socket, and putting the user's into raw mode while a guest uses it.
#pragma once

#include <cstdint>
#include <string>

#include <termios.h>

#include "base/host/host_error.h"
#include "base/host/unique_fd.h"

namespace cli {

// Makes a pty, sends its master to the Unix socket at `socket_path` and returns the slave.
base::HostResult<base::UniqueFd> send_new_console(const std::string& socket_path, uint16_t columns, uint16_t rows);

// Raw mode as long as it lives; nothing when `fd` is not a terminal.
class RawTerminal {
 public:
  explicit RawTerminal(int fd);
  ~RawTerminal() { restore(); }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  void restore();

 private:
  int fd_ = -1;
  termios saved_{};
};

struct WindowSize {
  uint16_t columns = 0, rows = 0;
};
WindowSize window_size(int fd);

}  // namespace cli
