// SPDX-License-Identifier: Apache-2.0
#include "base/host/host_error.h"

#include <cerrno>
#include <cstring>

namespace base {

HostError HostError::from_errno(std::string what) { return from_errno(std::move(what), errno); }

HostError HostError::from_errno(std::string what, int host_errno) {
  char text[128];
  const char* reason = strerror_r(host_errno, text, sizeof text);
  return {host_errno, std::move(what) + ": " + reason};
}

HostError HostError::wrap(std::string_view context) && {
  message = std::string(context) + ": " + message;
  return std::move(*this);
}

abi::Errno guest_errno_from_host(int host_errno) {
  // Errors of file and socket calls that a guest's own call may cause; the numbers are Linux's on both sides.
  switch (host_errno) {
    case EPERM: case ENOENT: case EINTR: case EIO: case ENXIO: case EAGAIN: case ENOMEM: case EACCES: case EBUSY:
    case EEXIST: case EXDEV: case ENOTDIR: case EISDIR: case EINVAL: case ENOTTY: case ETXTBSY: case EFBIG:
    case ENOSPC: case ESPIPE: case EROFS: case EMLINK: case EPIPE: case ERANGE: case ENAMETOOLONG: case ENOTEMPTY:
    case ELOOP: case ENODATA: case EOVERFLOW: case EDESTADDRREQ: case EMSGSIZE: case EPROTOTYPE: case ENOPROTOOPT:
    case EPROTONOSUPPORT: case ESOCKTNOSUPPORT: case EOPNOTSUPP: case EAFNOSUPPORT: case EADDRINUSE:
    case EADDRNOTAVAIL: case ENETDOWN: case ENETUNREACH: case ECONNABORTED: case ECONNRESET: case ENOBUFS:
    case EISCONN: case ENOTCONN: case ETIMEDOUT: case ECONNREFUSED: case EHOSTUNREACH: case EALREADY:
    case EINPROGRESS: case ESTALE: case EDQUOT:
      return static_cast<abi::Errno>(host_errno);
    default: return abi::Errno::kEIO;
  }
}

}  // namespace base
