// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/sandbox/console.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>


namespace cli {

using base::HostErr;
using base::HostError;
using base::HostResult;
using base::UniqueFd;

namespace {

HostResult<void> send_descriptor(int socket, int fd, const std::string& name) {
  iovec iov{const_cast<char*>(name.data()), name.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof fd);
  while (sendmsg(socket, &msg, MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return HostErr(HostError::from_errno("send the terminal to the console socket"));
  return {};
}

bool make_raw(int fd, termios* before = nullptr) {
  termios mode{};
  if (fd < 0 || tcgetattr(fd, &mode) != 0) return false;
  if (before) *before = mode;
  cfmakeraw(&mode);
  return tcsetattr(fd, TCSANOW, &mode) == 0;
}

}  // namespace

HostResult<UniqueFd> send_new_console(const std::string& socket_path, uint16_t columns, uint16_t rows) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path)
    return HostErr(HostError::plain("console socket: path is longer than 107 bytes"));
  memcpy(address.sun_path, socket_path.data(), socket_path.size());
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_fd) return HostErr(HostError::from_errno("console socket"));
  while (connect(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    if (errno != EINTR) return HostErr(HostError::from_errno("connect to console socket " + socket_path));
  UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master || grantpt(master.get()) != 0 || unlockpt(master.get()) != 0)
    return HostErr(HostError::from_errno("make a terminal"));
  char name[64] = "";
  if (ptsname_r(master.get(), name, sizeof name) != 0) return HostErr(HostError::from_errno("make a terminal"));
  UniqueFd slave(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) slave.reset(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) return HostErr(HostError::from_errno(name));
  if (columns != 0 && rows != 0) {
    winsize size{rows, columns, 0, 0};
    ioctl(slave.get(), TIOCSWINSZ, &size);
  }
  // The guest has a terminal of its own, with a line discipline: the host's only carries bytes and the size.
  make_raw(slave.get());
  TRY(send_descriptor(socket_fd.get(), master.get(), name));
  return slave;
}

RawTerminal::RawTerminal(int fd) {
  if (make_raw(fd, &saved_)) fd_ = fd;
}

void RawTerminal::restore() {
  if (fd_ >= 0) tcsetattr(fd_, TCSADRAIN, &saved_);
  fd_ = -1;
}

WindowSize window_size(int fd) {
  winsize size{};
  if (fd < 0 || ioctl(fd, TIOCGWINSZ, &size) != 0) return {};
  return {size.ws_col, size.ws_row};
}

}  // namespace cli
