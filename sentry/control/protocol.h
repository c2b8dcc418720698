// SPDX-License-Identifier: Apache-2.0
// The control protocol between the CLI and the sentry: the one sentry header the CLI sees.
//
// Transport: a SOCK_STREAM Unix socket in the container's state directory. Each message is a 4-byte little-endian
// length, then that many bytes of JSON (at most kMaxMessage); descriptors travel as SCM_RIGHTS with the first byte of
// the message. Requests of one connection are answered one after the other, in order; a client may send several
// without waiting for the replies (create, start, wait). Closing the connection cancels a wait.
//   request: {"version": 1, "method": "create", "params": {...}}
//   reply:   {"ok": true, "result": {...}}  or  {"ok": false, "error": "text", "errno": 2}
//
// Methods (params -> result; descriptors):
//   create   {container: Container, gofer_trees: N, stats: bool = false} -> {pid: 1}
//            fds: [gofer socket, stdin, stdout, stderr] or [gofer socket, tty] with process.terminal; with stats one more: a file
//            that gets the result of `stats` when init has exited. Makes the container, loads nothing yet.
//   prepare  {id} -> {}                          loads the init process and lets it wait for `start`, so that hooks can be
//                                                run by `exec` before it; errors as of `start`
//   start    {id} -> {}                          loads and runs the init process; an error (ENOENT, EACCES, ...) has
//                                                the text for a person and the guest errno in "errno"
//   exec     {id, process: Process} -> {pid}     fds: [stdin, stdout, stderr] or [tty]; pid as the container sees it
//   signal   {id, signo, pid: 0 = init, all: bool} -> {}
//   wait     {id, pid: 0 = init, kill_on_hangup: bool = false} -> {status}
//                                                status as waitpid(2) encodes it; replies when the process has exited,
//                                                at once when it already has. kill_on_hangup: SIGKILL the process when
//                                                the connection closes before that (a host process stands for it)
//   ps       {id} -> {processes: [{uid, pid, ppid, c, stime, tty, time, cmd}]}
//   resize   {id, pid, columns, rows} -> {}
//   state    {id} -> {status: "created"|"running"|"stopped", pid}
//   destroy  {id} -> {}                          kills what is left of the container and forgets it; when it was the
//                                                last one the sentry exits
//   pause    {id} -> {}      resume {id} -> {}
//   stats    {id} -> {cpu, memory, pids, runsc}  runc's statistics, and counters of our own: docs/observability.md
//   trace    {id, on: true} -> {}                begins a timeline of the sandbox
//            {id, on: false} -> {}               fds: [file]; ends it and writes it there: Chrome's trace events
//   stacks   {} -> {text}                        every task: state, what it waits for, for `runsc debug`
//   version  {} -> {protocol: 1}
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "abi/oci/sandbox_config.h"
#include "base/host/host_error.h"
#include "base/host/unique_fd.h"

namespace sentry::control {

inline constexpr int kProtocolVersion = 1;
inline constexpr size_t kMaxMessage = 8 << 20;
inline constexpr size_t kMaxFds = 16;

// Descriptors that the sentry process finds open when it is executed (argv: "runsc-sentry").
inline constexpr int kBootConfigFd = 3;    // memfd: JSON of abi::oci::Sandbox
inline constexpr int kControlListenFd = 4; // listening Unix socket
inline constexpr int kLogFd = 5;           // debug log, or /dev/null
inline constexpr int kReadyFd = 6;         // pipe: the sentry writes one byte when it accepts requests, or a JSON
                                           // error message, and closes it

// JSON text of the structures, without throwing. Decoding checks types and ranges: the error names the field.
std::string encode_sandbox(const abi::oci::Sandbox&);
base::HostResult<abi::oci::Sandbox> decode_sandbox(std::string_view json);
std::string encode_container(const abi::oci::Container&);
base::HostResult<abi::oci::Container> decode_container(std::string_view json);
base::HostResult<abi::oci::Container> container_from(const nlohmann::json&);
std::string encode_process(const abi::oci::Process&);
base::HostResult<abi::oci::Process> decode_process(std::string_view json);
nlohmann::json json_of(const abi::oci::Process&);
base::HostResult<abi::oci::Process> process_from(const nlohmann::json&);

// One framed message on a connected socket. Blocking; EINTR is retried. send_message: an error when the peer is
// gone. recv_message: an empty text at an orderly end of the stream.
base::HostResult<void> send_message(int socket, std::string_view json, const std::vector<int>& fds = {});
struct Message {
  std::string json;
  std::vector<base::UniqueFd> fds;
};
base::HostResult<Message> recv_message(int socket);

}  // namespace sentry::control
