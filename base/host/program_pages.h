// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace base {

// Takes the program's code and constants out of this process's memory: what starting alone needed does not stay for as long as a process
// waits. The pages are in the host's page cache (other processes may have them mapped) and come back, 64 KiB at a time, when
// they are touched. Any thread, at any time.
void drop_program_pages();

}  // namespace base
