// SPDX-License-Identifier: Apache-2.0
// The one lock order of the project, outermost first. A thread may take a mutex only while every mutex that it
// holds has a smaller rank; debug builds check it and abort with both names. docs/locking.md explains each.
#pragma once

#include <cstdint>

namespace base {

enum class LockRank : uint16_t {
  kControl = 10,          // container table of the sandbox
  kEpoll = 20,            // epoll instance: ready list and interest set
  kFileDescription = 30,  // file position
  kSocket = 34,           // a socket's own state
  kSocketPeer = 35,       // the second of a connected pair
  kMount = 40,            // mount tree
  kRename = 44,           // rename of one file system, serialises tree changes
  kDentry = 50,           // children of a directory
  kDentryChild = 51,      // a child, while the parent is held
  kInode = 60,            // metadata and data of an inode
  kInodeLower = 61,       // an inode below (overlay over lower)
  kFileLocks = 64,        // POSIX and flock records
  kProcessTimers = 67,    // itimers and POSIX timers of a process: asks for CPU time below
  kFutexPi = 68,          // priority-inheritance futexes: word and queue together; may fault
  kMmMapping = 70,        // VMAs of an address space
  kMmMappingChild = 71,   // the child's, in fork
  kTaskSet = 80,          // pid tables, parent/child links, sessions
  kSignalHandlers = 90,   // dispositions and pending signals of a thread group
  kTask = 100,            // a task's own mutable state
  kTty = 104,             // terminal and its line discipline
  kFsContext = 110,       // cwd, root, umask
  kFdTable = 114,         // descriptors
  kInPlace = 116,         // which files stubs work on in place
  kMmActive = 120,        // pieces that back VMAs
  kMmActiveChild = 121,
  kFileMappings = 124,    // who maps a file's pages
  kPageCache = 126,       // a file's cached pages
  kPlatform = 130,        // a platform's address space
  kPlatformGlobal = 134,  // stub pool and the like
  kMemoryFile = 140,      // page allocation
  kFutexBucket = 150,
  kFutexBucketSecond = 151,
  kPipe = 154,            // pipe and other small in-memory objects; what the reactor notifies of a host socket
  kWaitQueue = 160,
  kSleepLock = 162,       // waiters of a vfs::SleepLock
  kEpollQueue = 164,      // who waits on an epoll instance; nests, as epoll instances do (they form no loop)
  kEpollReady = 166,      // an epoll instance's ready list
  kTimer = 170,
  kScheduler = 180,       // run queues
  kGoferChannel = 184,    // one request on the wire
  kReactor = 188,
  kDentryCache = 196,     // the names of one directory
  kLeaf = 200,            // held for a few lines that take nothing else
  kStats = 240,           // a thread's first count; under any lock
  kLog = 250,
};

}  // namespace base
