// SPDX-License-Identifier: Apache-2.0
// Entry point of the sentry process: the multi-call binary calls it when it is executed as "runsc-sentry".
// Open descriptors: sentry/control/protocol.h. The process is pid 1 of its own pid namespace, in a read-only
// root with nothing but its own /proc, without capabilities, as an unprivileged user; 0-2 are /dev/null. Returns the exit status: that of the guest's
// init (128 + signal when it was killed), because container managers wait for this very process.
#pragma once

namespace sentry {

int boot_main(int argc, char** argv);

}  // namespace sentry
