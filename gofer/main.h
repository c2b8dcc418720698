// SPDX-License-Identifier: Apache-2.0
// The gofer's entry point in the multi-call binary, and what its starter (the CLI) prepares for it.
//
// The starter executes the binary with argv[0] == kProcessName (or calls server_main in a forked child), as root of the
// container's owner namespace, with these descriptors open and nothing else needed:
//   3  kSocketFd   SOCK_SEQPACKET Unix socket, its other end goes to the sentry ("create" of the control protocol)
//   4  kConfigFd   memfd or pipe, read to its end: JSON of gofer::Config
//                    {"trees": [{"path": "/abs/host/path", "readonly": bool, "file": bool}], "host_uds": bool}
//                  tree 0 is the container's root; `file` must be true for a bind of something that is no directory.
//                  Optional: "debug": bool (log level), "confine": bool (default true; false only in tests and for
//                  debugging: no namespaces, no filter).
//   5  kLogFd      log, or /dev/null
// The starter should create the process in a new pid namespace (clone3 with CLONE_NEWPID) and in the right cgroup, and
// need not do anything else: the gofer itself makes its mount, network, ipc and uts namespaces, moves the trees into an
// otherwise empty root, drops capabilities, sets no_new_privs, and installs Landlock and seccomp. The paths are opened
// in the mount namespace it is started in, following symbolic links: they are the starter's, not the guest's.
// All descriptors above 5 are closed at start.
//
// The starter needs no readiness signal: requests queue in the socket. When the set-up fails, one line goes to the log,
// the socket closes and the exit status is 1. The gofer exits with 0 when the other end of the socket closes.
#pragma once

namespace gofer {

inline constexpr const char* kProcessName = "runsc-gofer";
inline constexpr int kSocketFd = 3;
inline constexpr int kConfigFd = 4;
inline constexpr int kLogFd = 5;

int server_main(int argc, char** argv);

}  // namespace gofer
