// SPDX-License-Identifier: Apache-2.0
// proc(5). One table per directory says what there is (tree.cc, pid_tree.cc, sysctl.cc); files are grouped by topic.
#pragma once

#include <string>

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/kernel/kernel.h"

namespace sentry::fs {

// Makes "proc" known to mount(2). A mount shows the pid namespace of who mounts it; one made at boot, by no task, that of
// whoever looks.
void register_proc(kernel::Kernel& kernel);

// Files of /proc/PID/net, added by sentry/net at boot before the first mount.
void register_proc_net_file(std::string name, FunctionFile::Render render);

}  // namespace sentry::fs
