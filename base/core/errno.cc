// SPDX-License-Identifier: Apache-2.0
#include "abi/linux/errno.h"

#include <cstring>

namespace abi {

const char* errno_name(Errno e) {
  switch (e) {
    case Errno::kERESTARTSYS: return "ERESTARTSYS";
    case Errno::kERESTARTNOINTR: return "ERESTARTNOINTR";
    case Errno::kERESTARTNOHAND: return "ERESTARTNOHAND";
    case Errno::kENOIOCTLCMD: return "ENOIOCTLCMD";
    case Errno::kERESTART_RESTARTBLOCK: return "ERESTART_RESTARTBLOCK";
    default: break;
  }
  const char* name = strerrorname_np(static_cast<int>(e));
  return name ? name : "E?";
}

}  // namespace abi
